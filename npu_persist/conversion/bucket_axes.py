"""Infers which axes the buckets of `persist` leave open, and which of these are the same axis.

An axis is open if its size in a bucket differs from the example's. Open axes of two inputs are one axis, of one name,
if their sizes are equal in the example and in every bucket that names both; those at the same position are preferred,
and two axes of one input are never one. An axis of an input that no bucket names joins the open axis whose size it has
in the example; one of size 1 only joins one at the same position of an input with as many axes. Where that is wrong or
not enough, callers pass `dynamic_shapes`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.export import Dim

from npu_persist.bundle.buckets import read_buckets
from npu_persist.conversion.dynamic import Axes
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.conversion.call import Call


class _Place(NamedTuple):
    """An axis of an input: the example's shape, and the axis' size in each bucket, None where it is not named."""

    input: int
    axis: int
    shape: tuple[int, ...]
    sizes: tuple[int | None, ...]

    @property
    def size(self) -> int:
        return self.shape[self.axis]

    def belongs(self, group: Sequence[_Place]) -> bool:
        """Return whether this may be the same axis as each of a group."""
        return all(
            self.input != other.input
            and self.size == other.size
            and all(None in pair or pair[0] == pair[1] for pair in zip(self.sizes, other.sizes, strict=True))
            for other in group
        )


def infer_axes(call: Call, buckets: object) -> Axes:
    """Return the axes that buckets leave open, as `dynamic_shapes` would say it."""
    groups: list[list[_Place]] = []
    rest: list[_Place] = []
    for place in _places(call, read_buckets(buckets)):
        if all(size is None for size in place.sizes):
            rest.append(place)
        elif any(size not in {None, place.size} for size in place.sizes):
            fitting = [group for group in groups if place.belongs(group)]
            if fitting:
                (_at_same_position(place, fitting) or fitting)[0].append(place)
            else:
                groups.append([place])
    for place in rest:
        fitting = [group for group in groups if place.belongs(group)]
        if place.size == 1:  # too common to tell anything
            fitting = [group for group in fitting if any(_are_alike(place, other) for other in group)]
        same = _at_same_position(place, fitting)
        if len(fitting) > 1 and len(same) != 1:
            name = call.input_names[place.input]
            raise UsageError(
                f"buckets: axis {place.axis} of {name} has size {place.size} in the example, as several open axes "
                f"have. Name {name} in the buckets too, or give an example whose axes that vary have sizes of their own"
            )
        if fitting:
            (same or fitting)[0].append(place)
    return _name_axes(call, groups)


def _name_axes(call: Call, groups: Sequence[Sequence[_Place]]) -> Axes:
    dims: dict[int, dict[int, Any]] = {}
    used: set[str] = set()
    for group in groups:
        first = group[0]
        # A Dim's name is a Python identifier.
        name = re.sub(r"\W|^(?=\d)", "_", f"{call.input_names[first.input]}_{first.axis}", flags=re.ASCII)
        while name in used:
            name += "_"
        used.add(name)
        sizes = [first.size, *(size for place in group for size in place.sizes if size is not None)]
        dim: Any = Dim(name, min=1, max=max(sizes))
        for place in group:
            dims.setdefault(place.input, {})[place.axis] = dim
    return Axes(dims)


def _places(call: Call, buckets: Sequence[Shapes]) -> Iterator[_Place]:
    for index, (name, example) in enumerate(call.shapes.items()):
        for axis in range(len(example)):
            shapes = [bucket.get(name, ()) for bucket in buckets]
            yield _Place(index, axis, example, tuple(shape[axis] if axis < len(shape) else None for shape in shapes))


def _are_alike(place: _Place, other: _Place) -> bool:
    return place.axis == other.axis and len(place.shape) == len(other.shape)


def _at_same_position(place: _Place, groups: Sequence[list[_Place]]) -> list[list[_Place]]:
    return [group for group in groups if any(place.axis == other.axis for other in group)]
