"""Probes a graph with dynamic axes at other sizes, and at those at which a value that the trace froze would differ."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from npu_persist.conversion.dynamic import find_symbols, resize, resize_to
from npu_persist.conversion.sizes import SizeFollower, differs_in, find_differing
from npu_persist.errors import ConversionError, FrozenControlFlowWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.conversion.call import Results
    from npu_persist.conversion.capture import Capture
    from npu_persist.conversion.dynamic import Axes
    from npu_persist.conversion.sizes import FrozenSize, Reads, Symbol

_SECONDS = 1.5
_TIMES = 4.0
"""A forward at another size may take so many seconds, or so many times as long as the first one."""
_TIMES_LARGEST = 1.0
"""The same for the largest size, which nothing in the module asks for."""
_SLOW = 0.5
"""Seconds of a forward from which on several sizes are tried in one call."""
_LARGEST = 64
"""How many times the example's elements the inputs may have."""
_BUCKETS = 4
_LINES = 5


@dataclass(frozen=True, eq=False)
class SizedCall:
    """The example at another size, with torch's answer; `frozen` are the values that would differ there."""

    tensors: Sequence[torch.Tensor]
    expected: Results
    frozen: Sequence[FrozenSize]


class _Pace(NamedTuple):
    """How long the first forward took, and how large it was."""

    elements: int
    seconds: float


class SizeProbes:
    """Calls at other sizes, as an iterator; afterwards `caveats` has what could not be compared with torch.

    A size that torch itself refuses is none that the graph has to be right for. Where only some sizes are allowed,
    those of the buckets, no other is tried.
    """

    def __init__(self, capture: Capture, axes: Axes, buckets: Sequence[Shapes] = ()) -> None:
        self.caveats: list[FrozenControlFlowWarning] = []
        self._capture = capture
        self._axes = axes
        self._buckets = buckets
        self._symbols = find_symbols(capture.call, axes)
        self._runs: dict[tuple[int, ...], Reads | None] = {self._key({}): capture.results.sizes}
        self._elements = _count(capture.call.tensors)
        self._pace: _Pace | None = None

    def __iter__(self) -> Iterator[SizedCall]:
        """Run torch at one size after the other."""
        if not self._symbols:
            return
        if self._buckets:
            yield from self._at_buckets()
            return
        yield from self._try({name: _next(symbol) for name, symbol in self._symbols.items()})
        together: set[str] = set()
        if self._pace is not None and self._pace.seconds > _SLOW:
            yield from self._far_apart(together)
        for name, symbol in self._symbols.items():
            if name in together:
                yield from self._alone([name], symbol, [symbol.low if symbol.low != symbol.size else _next(symbol)])
            else:
                yield from self._along([name], symbol)
        for names in self._twins():
            yield from self._along(names, self._symbols[names[0]])
        seen: set[str] = set()
        for frozen in self._capture.sizes:
            if frozen.text not in seen:
                yield from self._where_it_differs(frozen, seen)

    def _at_buckets(self) -> Iterator[SizedCall]:
        call = self._capture.call
        every = [resize(call.tensors, [shapes.get(name) for name in call.input_names]) for shapes in self._buckets]
        chosen = sorted(every, key=_count)
        if len(chosen) > _BUCKETS:
            chosen = [chosen[0], chosen[-1], *chosen[1 : _BUCKETS - 1]]
        for tensors in chosen:
            if any(tensor.shape != example.shape for tensor, example in zip(tensors, call.tensors, strict=True)):
                yield from self._run(tensors, None)

    def _along(self, names: Sequence[str], symbol: Symbol) -> Iterator[SizedCall]:
        """Try the smallest, the largest and a middle size of a symbol, or of several at once."""
        largest = self._largest(names, symbol)
        middle = (symbol.low + largest) // 2
        if middle % 2 == symbol.size % 2:  # what divides in two is right for one parity only
            middle += 1 if middle < largest else -1
        yield from self._alone(names, symbol, [symbol.low, largest, middle])

    def _alone(self, names: Sequence[str], symbol: Symbol, sizes: Sequence[int]) -> Iterator[SizedCall]:
        """Try sizes of a symbol, or of several at once; others where torch takes none of these."""
        for size in sizes:
            yield from self._try(dict.fromkeys(names, size))
        if not self._has_run(names):
            for size in (2 * symbol.size, symbol.size // 2, symbol.size + 1, symbol.size - 1):
                yield from self._try(dict.fromkeys(names, size))

    def _far_apart(self, done: set[str]) -> Iterator[SizedCall]:
        """Try calls in which every other symbol has its largest size, and the rest their smallest.

        Such a call costs no more than the example, and there are two, whatever the number of symbols. The call before,
        in which every size is odd if the example's is even, stands for those in the middle. `done` gets the symbols
        that had both sizes in calls that torch took.
        """
        names = [*self._symbols]
        took = []
        for larger in (names[::2], names[1::2]):
            sizes = {name: self._symbols[name].low for name in names}
            sizes |= {name: self._largest([name], self._symbols[name]) for name in larger}
            while not self._is_affordable(sizes, 0) and any(sizes[name] > self._symbols[name].size for name in larger):
                sizes |= {name: max(sizes[name] // 2, self._symbols[name].size) for name in larger}
            yield from self._try(sizes, 0)
            took.append(self._runs.get(self._key(sizes)) is not None)
        if all(took) and self._has_run(names):
            done.update(names)

    def _twins(self) -> list[list[str]]:
        """Return symbols of one size in the example of which torch takes none alone: they may be one axis."""
        by_size: dict[int, list[str]] = {}
        for name, symbol in self._symbols.items():
            if not self._has_run([name]):
                by_size.setdefault(symbol.size, []).append(name)
        return [names for names in by_size.values() if len(names) > 1]

    def _where_it_differs(self, frozen: FrozenSize, seen: set[str]) -> Iterator[SizedCall]:
        """Try sizes at which a frozen value would differ, until torch takes one."""
        for name, symbol in self._symbols.items():
            runs = self._runs_of(name)
            if len(runs) == 1:
                if not any(self._has_run(names) for names in [[name], [*self._symbols]]):
                    seen.add(frozen.text)
                    self._warn(frozen, f"no other size of {name} could be compared with torch")
                continue
            sizes = find_differing(frozen, runs, symbol)
            if not sizes or any(size in runs for size in sizes):
                continue
            seen.add(frozen.text)
            tried = _spread(sizes, symbol.size)
            for size in tried:
                yield from self._try({name: size})
                if size in self._runs_of(name):
                    break
            else:
                if any(not self._is_affordable({name: size}) for size in tried):
                    self._warn(frozen, f"it changes at {name} = {tried[0]}, which is too large to try here")

    def _warn(self, frozen: FrozenSize, why: str) -> None:
        if len(self.caveats) < _LINES:
            self.caveats.append(FrozenControlFlowWarning(f"{frozen.text}; {why}"))

    def _try(self, sizes: Mapping[str, int], least: float = 1.0) -> Iterator[SizedCall]:
        key = self._key(sizes)
        if key in self._runs or not self._is_affordable(sizes, least):
            return
        self._runs[key] = None
        tensors = resize_to(self._capture.call, self._axes, {**self._example(), **sizes})
        if tensors is not None:
            yield from self._run(tensors, key)

    def _run(self, tensors: Sequence[torch.Tensor], key: tuple[int, ...] | None) -> Iterator[SizedCall]:
        begin = time.perf_counter()
        try:
            expected = self._capture.call.run(tensors, SizeFollower())
        except ConversionError:  # torch refuses this size
            return
        if self._pace is None:
            self._pace = _Pace(_count(tensors), time.perf_counter() - begin)
        if key is not None:
            self._runs[key] = expected.sizes
        example = self._capture.results.sizes
        frozen = [one for one in self._capture.sizes if differs_in(one, example, expected.sizes)]
        yield SizedCall(tensors, expected, frozen)

    def _largest(self, names: Sequence[str], symbol: Symbol) -> int:
        """Return the largest size that is not too slow to be tried."""
        size = symbol.size * _LARGEST if symbol.high is None else symbol.high
        while size > symbol.size and not self._is_affordable(dict.fromkeys(names, size), times=_TIMES_LARGEST):
            size = (size + symbol.size) // 2
        return size

    def _is_affordable(self, sizes: Mapping[str, int], least: float = 1.0, times: float = _TIMES) -> bool:
        """Tell whether a call is not too slow. Each smaller symbol saves time, down to the share `least`."""
        growth = 1.0
        for name, size in sizes.items():
            growth *= max(size / max(self._symbols[name].size, 1), least)
        if growth > _LARGEST:
            return False
        if self._pace is None:
            return True
        elements, seconds = self._pace
        # Between linear and quadratic, as in attention.
        estimate: float = seconds * (growth * self._elements / elements) ** 1.5
        return estimate <= max(_SECONDS, times * seconds)

    def _example(self) -> dict[str, int]:
        return {name: symbol.size for name, symbol in self._symbols.items()}

    def _key(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple({**self._example(), **sizes}.values())

    def _has_run(self, names: Sequence[str]) -> bool:
        """Return whether torch took a call in which these symbols, and no others, have another size."""
        example = self._example()
        for key, reads in self._runs.items():
            changed = {name for name, size in zip(example, key, strict=True) if size != example[name]}
            if changed == set(names) and reads is not None:
                return True
        return False

    def _runs_of(self, name: str) -> dict[int, Reads]:
        """Return what each line read, by the size of one symbol, with all others as in the example."""
        example = self._example()
        index = list(example).index(name)
        return {
            key[index]: reads
            for key, reads in self._runs.items()
            if reads is not None and self._key({name: key[index]}) == key
        }


def _next(symbol: Symbol) -> int:
    for candidate in (symbol.size + 1, symbol.size * 2, symbol.size - 1, symbol.low):
        if candidate >= symbol.low and (symbol.high is None or candidate <= symbol.high):
            return candidate
    return symbol.size


def _spread(sizes: Sequence[int], example: int) -> list[int]:
    """Return a few of these sizes: the nearest ones, and others, since torch may take even ones only."""
    above = [size for size in sizes if size > example]
    below = [size for size in sizes if size < example][::-1]
    return [*above[:2], *below[:2], *[size for size in (2 * example, example // 2) if size in sizes]]


def _count(tensors: Sequence[torch.Tensor]) -> int:
    return max(sum(tensor.numel() for tensor in tensors), 1)
