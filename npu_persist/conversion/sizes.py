"""Follows sizes through a trace, where they are tensors, to where Python reads them and the trace freezes them.

How a size was computed is kept: from which shapes, by which functions. What a frozen value would have been at other
sizes follows from the shapes that the same lines of code see in a plain forward at other sizes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HERE = str(Path(__file__).parent) + os.sep
_LONGEST_RANGE = 1 << 16
"""Beyond so many sizes, an axis without an upper bound is not searched for one at which a value differs."""


@dataclass(frozen=True)
class Symbol:
    """One size that may vary: its value in the example, and its bounds."""

    size: int
    low: int
    high: int | None


class Place(NamedTuple):
    """A line that reads a shape: path of the module, file, line, name of the function."""

    module: str
    file: str
    line: int
    function: str


Reads = dict[Place, list[tuple[int, ...]]]
"""What each line read in one forward, in its order."""


@dataclass(frozen=True)
class Read:
    """A size as a line read it: which time, and which number of what it got."""

    place: Place
    time: int
    position: int


@dataclass(frozen=True, eq=False)
class Computed:
    """A tensor that a function of torch's made of sizes: which one of its results."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    position: int


@dataclass(frozen=True, eq=False)
class FrozenSize:
    """A value that follows from sizes and that Python read in a trace.

    Attributes:
        text: Module path, function and source line.
        function: The function that read it, such as `__bool__`.
        operands: What it read.
    """

    text: str
    function: str
    operands: tuple[Read | Computed, ...]

    def value(self, lookup: Callable[[Read], Any]) -> Any:
        """Return what Python read, given the sizes; for vectors of sizes, a vector. None where it is unknown."""
        try:
            memory: dict[Any, Any] = {}
            values = [_evaluate(operand, lookup, memory) for operand in self.operands]
            return tuple(_as_read(self.function, torch.as_tensor(value)) for value in values)
        except Exception:  # noqa: BLE001 - any function of torch's, with other arguments than it was made for
            return None


@dataclass(eq=False)
class SizeFollower:
    """Follows the sizes of one forward; in a plain forward, it only notes what each line reads.

    Attributes:
        reads: What each line read.
        frozen: What reached Python.
    """

    reads: Reads = field(default_factory=dict)
    frozen: list[FrozenSize] = field(default_factory=list)
    _known: Any = field(default_factory=WeakIdKeyDictionary)

    def is_followed(self, storage: object) -> bool:
        """Return whether a tensor with this storage follows from sizes."""
        return storage in self._known

    def read(self, module: str, function: str, values: Sequence[Any], storages: Sequence[object]) -> list[Read]:
        """Note what a line read, and follow those of the results that are tensors."""
        place = _calling_place(module, function)
        times = self.reads.setdefault(place, [])
        times.append(tuple(int(value) for value in values))
        reads = [Read(place, len(times) - 1, position) for position in range(len(values))]
        for read, storage in zip(reads, storages, strict=False):
            if storage is not None:
                self._known[storage] = read
        return reads

    def compute(
        self, function: Callable[..., Any], args: Any, kwargs: Any, storages: Sequence[object], storage_of: Any
    ) -> None:
        """Follow the results of a function that was given sizes and constants."""
        args, kwargs = self._recipe((args, kwargs), storage_of)
        for position, storage in enumerate(storages):
            self._known[storage] = Computed(function, args, kwargs, position)

    def freeze(self, text: str, function: str, operands: Sequence[object]) -> None:
        """Note that Python read something; operands that are no size's storage are constants."""
        sizes = tuple(one if isinstance(one, Read) else self._known[one] for one in operands)
        self.frozen.append(FrozenSize(text, function, sizes))

    def _recipe(self, value: Any, storage_of: Callable[[torch.Tensor], object]) -> Any:
        return pytree.tree_map_only(torch.Tensor, lambda tensor: self._known.get(storage_of(tensor), tensor), value)


def look_up(reads: Reads) -> Callable[[Read], Any]:
    """Return a function from a size to its value in a forward; LookupError where a line did not read as often."""
    return lambda read: torch.tensor(reads[read.place][read.time][read.position])


def differs_in(frozen: FrozenSize, example: Reads, run: Reads) -> bool:
    """Return whether Python would have read another value in another forward; False where it is unknown."""
    wanted, found = frozen.value(look_up(example)), frozen.value(look_up(run))
    if wanted is None or found is None:
        return False
    return any(
        one.shape != other.shape or not torch.equal(one, other) for one, other in zip(wanted, found, strict=True)
    )


def find_differing(frozen: FrozenSize, runs: Mapping[int, Reads], symbol: Symbol) -> list[int]:
    """Return sizes at which Python would have read another value than at the example's.

    Args:
        frozen: What Python read.
        runs: For some sizes of the symbol, what each line read; the example's among them.
        symbol: The size that varies.
    """
    low, example = symbol.low, symbol.size
    last = low + _LONGEST_RANGE if symbol.high is None else min(symbol.high, low + _LONGEST_RANGE)
    sizes = torch.arange(low, max(last, example) + 1)
    finds = {size: look_up(reads) for size, reads in runs.items()}

    def extrapolate(read: Read) -> Any:
        points = {size: int(find(read)) for size, find in finds.items()}
        (first, start), *others = points.items()
        slope = next(((value - start) / (size - first) for size, value in others), 0.0)
        if any(value != start + slope * (size - first) for size, value in others) or not slope.is_integer():
            raise LookupError(read.place)
        return (sizes - first) * int(slope) + start

    values, wanted = frozen.value(extrapolate), frozen.value(finds[example])
    if values is None or wanted is None:
        return []
    differs = torch.zeros(len(sizes), dtype=torch.bool)
    for vector, value in zip(values, wanted, strict=True):
        if vector.shape == sizes.shape and value.ndim == 0:
            differs |= vector != value
    return [int(size) for size in sizes[differs]]


def _evaluate(value: Any, lookup: Callable[[Read], Any], memory: dict[Any, Any]) -> Any:
    if isinstance(value, Read):
        return lookup(value)
    if not isinstance(value, Computed):
        return value
    key = (value.function, id(value.args))
    if key not in memory:
        args, kwargs = pytree.tree_map_only(
            (Read, Computed), lambda part: _evaluate(part, lookup, memory), (value.args, dict(value.kwargs))
        )
        memory[key] = value.function(*args, **kwargs)
    results = [leaf for leaf in pytree.tree_leaves(memory[key]) if isinstance(leaf, torch.Tensor)]
    return results[value.position]


def _as_read(function: str, value: torch.Tensor) -> torch.Tensor:
    if function in {"__bool__", "is_nonzero"}:
        return value.bool()
    return value.trunc() if function in {"__int__", "__index__"} and value.is_floating_point() else value


def _calling_place(module: str, function: str) -> Place:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return Place(module, frame.f_code.co_filename, frame.f_lineno, function)
