"""The differences between the tensors of two weights files, by the names of the state_dict.

A tensor's change is |b - a| / |a|, with Euclidean norms over all of its elements in float64: 0.01 is one percent. For
compressed ones, the restored values count. Files are read in pieces, whatever the size of a tensor.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from npu_persist.bundle.tensors import Tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TensorKind = Literal["added", "removed", "reshaped", "retyped", "changed"]

_CONSTANT = re.compile(r"constant\.[0-9]+", re.ASCII)

_PIECE = 1 << 20
"""Elements that are read at once."""


class TensorChange(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor that differs.

    Attributes:
        name: Its name in the module's state_dict; `constant.7` for a constant that the graph has besides.
        kind: "added" or "removed"; "reshaped"; "retyped": the same shape in another type; "changed": other values.
            OpenVINO leaves out what has no effect: a scale of ones is "added" by the first step of training.
        before: Type and shape in the first file, by safetensors' names: `F16[8, 4]`, or `int8[8, 4]`; None if
            it is not there.
        after: The same in the second file.
        change: How far the values moved, relative to the norm of the first; infinite where that is zero or has
            infinities and NaN that the other does not have. None where values cannot be compared.
    """

    name: str
    kind: TensorKind
    before: str | None
    after: str | None
    change: float | None


def compare_tensors(
    first: Path, second: Path, report: Callable[[int], object] | None = None
) -> tuple[tuple[TensorChange, ...], int]:
    """Return the tensors that differ, and how many do not.

    First those without a number, then the largest change; last, without a number, constants of the graph.

    The files must have been verified. `report` is called with numbers of bytes; together those of `second`'s tensors.

    Raises:
        GraphIntegrityError: One of them is malformed.
    """
    a, b = Tensors(first), Tensors(second)
    known: dict[tuple[str, str], tuple[TensorKind, float | None] | None] = {}
    changes: list[TensorChange] = []
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            found: tuple[TensorKind, float | None] | None = ("added" if name in b else "removed", None)
        elif (where := (a.place(name), b.place(name))) in known:  # tied tensors are one in the file
            found = known[where]
        else:
            found = known[where] = _compare(a, b, name)
            if report is not None:
                report(b.size(name))
        if found is not None:
            kind, change = found
            changes.append(
                TensorChange(name=name, kind=kind, before=_show(a, name), after=_show(b, name), change=change)
            )
    changes.sort(key=_rank)
    return tuple(changes), len(a.keys() | b.keys()) - len(changes)


def _rank(change: TensorChange) -> tuple[int, float]:
    """Sort what has no number first, and the graph's own constants last: their numbers are those of one graph."""
    if change.change is not None:
        return 1, -change.change
    return 2 if _CONSTANT.fullmatch(change.name) else 0, 0.0


def _show(tensors: Tensors, name: str) -> str | None:
    return f"{tensors.precision(name)}{list(tensors.shape(name))}" if name in tensors else None


def _compare(a: Tensors, b: Tensors, name: str) -> tuple[TensorKind, float | None] | None:
    """Return how two tensors differ; None if they do not."""
    if a.shape(name) != b.shape(name):
        return "reshaped", None
    if a.precision(name) != b.precision(name):
        return "retyped", _measure(a, b, name)
    pieces = range(0, math.prod(a.shape(name)), _PIECE)
    if all(a.read(name, at, _PIECE).tobytes() == b.read(name, at, _PIECE).tobytes() for at in pieces):
        return None
    return "changed", _measure(a, b, name)


def _measure(a: Tensors, b: Tensors, name: str) -> float | None:
    if any(tensors.precision(name).startswith("F8") for tensors in (a, b)):  # which numpy does not have
        return None
    moved, scale = 0.0, 0.0
    for at in range(0, math.prod(a.shape(name)), _PIECE):
        old, new = (tensors.read(name, at, _PIECE).astype(np.float64) for tensors in (a, b))
        with np.errstate(all="ignore"):  # of infinities and NaN
            same = (old == new) | (np.isnan(old) & np.isnan(new))
            moved += float(np.square(np.where(same, 0.0, new - old)).sum())
            scale += float(np.square(old[np.isfinite(old)]).sum())
    if not moved:
        return 0.0
    change = math.sqrt(moved) / math.sqrt(scale) if scale and math.isfinite(moved) else math.inf
    return float(f"{change:.3g}")
