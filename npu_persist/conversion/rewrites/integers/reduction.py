"""Sums and extremes along axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset13 as ops

from npu_persist.conversion.rewrites.integers.arithmetic import indices, sum_exactly
from npu_persist.conversion.rewrites.integers.ranges import Range, axis_size, constant_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from npu_persist.conversion.rewrites.integers.arithmetic import Rewrite, Value
    from npu_persist.conversion.rewrites.integers.ranges import Ranges


def rewrite_sum(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Sum in float32 along the axes whose sums stay small, and by running sums along the others."""
    data, axes = sources[0], _axes(operation)
    if axes is None:
        return None
    bounds = ranges.of(data)
    small: list[int] = []
    large: list[tuple[int, int | None]] = []
    for axis in axes:
        size = axis_size(data, axis)
        total = None if size is None else Range(bounds.low * size, bounds.high * size)
        if total is not None and total.is_small:
            small.append(axis)
            bounds = total
        else:
            large.append((axis, size))
    if not large:
        return None
    result: Value = data
    if small:
        result = ops.reduce_sum(result, indices(*small), keep_dims=True)
    for axis, size in large:
        result = sum_exactly(result, axis, size)
    return _squeeze(operation, result, axes)


def rewrite_extreme(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Take the first of the sorted values: sorting is exact."""
    data, axes = sources[0], _axes(operation)
    if axes is None or ranges.of(data).is_small:
        return None
    mode = "max" if operation.get_type_name() == "ReduceMax" else "min"
    one = ops.constant(np.array(1, np.int64))
    result: Value = data
    for axis in axes:
        result = ops.topk(result, one, axis, mode, "none", "i32").output(0)
    return _squeeze(operation, result, axes)


REDUCTIONS: dict[str, Rewrite] = {
    "ReduceSum": rewrite_sum,
    "ReduceMax": rewrite_extreme,
    "ReduceMin": rewrite_extreme,
}


def _axes(operation: ov.Node) -> list[int] | None:
    """Return the axes from the last to the first, or None where they or the rank are not known."""
    axes = constant_value(operation.input_value(1))
    rank = operation.input_value(0).get_partial_shape().rank
    if axes is None or rank.is_dynamic:
        return None
    return sorted({int(axis) % rank.get_length() for axis in axes.ravel()}, reverse=True)


def _squeeze(operation: ov.Node, result: Value, axes: Sequence[int]) -> Value:
    return result if operation.get_attributes()["keep_dims"] else ops.squeeze(result, indices(*axes))
