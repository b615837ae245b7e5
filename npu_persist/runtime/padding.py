"""Calls padded to a bucket's sizes, outputs cut back to the call's, and attention masks where a call gives none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.bundle.buckets import describe_shapes, open_axes, read_sizes
from npu_persist.bundle.graph_records import Dimension
from npu_persist.bundle.signature import find_root, size_of
from npu_persist.errors import InputError

if TYPE_CHECKING:
    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.graph_records import Buckets, Port
    from npu_persist.runtime.inputs import Array

    Region = tuple[slice, ...]

_MASK = "attention_mask"
"""End of the names of inputs that say, with 1 and 0, which values count: they are made where a call gives none."""


class Fit:
    """How calls of one size go into one bucket.

    Attributes:
        bucket: The bucket.
        is_exact: Whether nothing is padded or cut back.
    """

    def __init__(
        self, inputs: Sequence[Port], outputs: Sequence[Port], buckets: Buckets, bucket: Shapes, shapes: Shapes
    ) -> None:
        """Compare the shapes of a call with a bucket; InputError if the graph has no output for such a size."""
        self.bucket = bucket
        self._fills: list[tuple[int, tuple[int, ...], Region, float]] = []
        sides: dict[str, str] = {}
        for index, port in enumerate(inputs):
            if port.name not in bucket:
                continue
            padding, full, own = buckets.padding[port.name], bucket[port.name], shapes[port.name]
            sides.update((found.root, padding.side) for found in open_axes(port))
            if full != own:
                self._fills.append((index, full, _region(own, full, [padding.side] * len(full)), padding.value))
        known, larger = read_sizes(inputs, shapes), read_sizes(inputs, bucket)
        self._cuts = [_cut(port, known, larger, sides, shapes) for port in outputs]
        self.is_exact = not self._fills

    def fill(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the inputs, those that are too small padded."""
        filled = list(arrays)
        for index, shape, region, value in self._fills:
            array = arrays[index]
            filled[index] = larger = np.full(shape, value, array.dtype) if value else np.zeros(shape, array.dtype)
            larger[region] = array
        return filled

    def cut(self, outputs: Sequence[Array], *, share_outputs: bool) -> list[Array]:
        """Return what belongs to the call of each output: a view of it, or an array of its own."""
        return [
            output if region is None else output[region] if share_outputs else output[region].copy()
            for output, region in zip(outputs, self._cuts, strict=True)
        ]


def _cut(
    port: Port, known: Mapping[str, int], larger: Mapping[str, int], sides: Mapping[str, str], shapes: Shapes
) -> Region | None:
    """Return the region of an output that belongs to a call; None if that is all of it."""
    own: list[int] = []
    full: list[int] = []
    where: list[str] = []
    for axis, size in enumerate(port.shape):
        name = size.name if isinstance(size, Dimension) else None
        mine = size if isinstance(size, int) else size_of(name or "", known)
        all_of_it = size if isinstance(size, int) else size_of(name or "", larger)
        if mine is None or all_of_it is None or not 0 <= mine <= all_of_it:
            raise InputError(
                f"the graph has no output {port.name} for inputs of the sizes {describe_shapes(shapes)}: its axis "
                f"{axis}, {name}, would be {mine}",
                got=describe_shapes(shapes),
            )
        own.append(mine)
        full.append(all_of_it)
        where.append(sides.get(find_root(name or "", known) or "", "right"))
    return None if own == full else _region(own, full, where)


def _region(own: Sequence[int], full: Sequence[int], sides: Sequence[str]) -> Region:
    return tuple(
        slice(0, size) if side == "right" else slice(limit - size, limit)
        for size, limit, side in zip(own, full, sides, strict=True)
    )


def find_masks(inputs: Sequence[Port], buckets: Buckets) -> frozenset[int]:
    """Return the inputs, by index, that are made of ones where a call gives none.

    These are attention masks of two axes, batch and sequence, whose sizes the other inputs give. One of more axes is
    usually added to the scores, where ones would not be neutral.
    """
    masks = [index for index, port in enumerate(inputs) if port.name.endswith(_MASK) and len(port.shape) == 2]  # noqa: PLR2004
    others = {found.root for index, port in enumerate(inputs) if index not in masks for found in open_axes(port)}
    return frozenset(
        index
        for index in masks
        if {found.root for found in open_axes(inputs[index])} <= others
        and not (inputs[index].name in buckets.padding and buckets.padding[inputs[index].name].value)
    )


def make_masks(
    inputs: Sequence[Port], masks: frozenset[int], values: Sequence[Any] | Mapping[str, Any]
) -> Sequence[Any] | Mapping[str, Any]:
    """Return the inputs of a call, with masks of its own size where it has none; invalid inputs are left unchanged."""
    given = [values.get(port.name) for port in inputs] if isinstance(values, Mapping) else [*values]
    missing = [index for index in masks if len(given) == len(inputs) and given[index] is None]
    if not missing:
        return values
    shapes = {port.name: _shape(value) for port, value in zip(inputs, given, strict=True)}
    sizes = read_sizes([port for port in inputs if len(shapes[port.name]) == len(port.shape)], shapes)
    made: dict[int, Array] = {}
    for index in missing:
        port = inputs[index]
        shape = list(port.shape)
        for axis, _, factor, root, offset in open_axes(port):
            shape[axis] = factor * sizes[root] + offset if root in sizes else shape[axis]
        if all(isinstance(size, int) for size in shape):
            made[index] = np.ones(shape, port.dtype)
    if isinstance(values, Mapping):
        return {**values, **{inputs[index].name: mask for index, mask in made.items()}}
    return [made.get(index, value) for index, value in enumerate(given)]


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(value))
    except ValueError:  # uneven lists: another check says so
        return ()
