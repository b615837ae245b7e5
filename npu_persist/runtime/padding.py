"""How a call of one size goes into a graph that was compiled for another: inputs are filled up, outputs cut back.

The promise: what is cut back is what the graph would give for the call's own sizes, and nothing else of the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npu_persist.bundle.buckets import describe_shapes, open_axes, read_sizes
from npu_persist.bundle.manifest import Dimension
from npu_persist.bundle.signature import find_root, size_of
from npu_persist.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.manifest import Buckets, Port
    from npu_persist.runtime.inputs import Array

    Region = tuple[slice, ...]


class Fit:
    """How calls of one size go into one bucket.

    Attributes:
        bucket: The bucket.
        is_exact: Whether nothing is filled up or cut back.
    """

    def __init__(
        self, inputs: Sequence[Port], outputs: Sequence[Port], buckets: Buckets, bucket: Shapes, shapes: Shapes
    ) -> None:
        """Compare the shapes of a call with a bucket.

        Raises:
            InputError: The graph gives no output for such a size.
        """
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
        """Return the inputs, those that are too small filled up."""
        filled = list(arrays)
        for index, shape, region, value in self._fills:
            array = arrays[index]
            filled[index] = larger = np.full(shape, value, array.dtype) if value else np.zeros(shape, array.dtype)
            larger[region] = array
        return filled

    def cut(self, outputs: Sequence[Array], *, share_outputs: bool) -> list[Array]:
        """Return of each output what belongs to the call: a view of it, or an array of its own."""
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
                f"the graph has no output {port.name} for inputs of the sizes {describe_shapes(shapes)}: axis {axis} "
                f"of it, {name}, would be {mine}",
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
