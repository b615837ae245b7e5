"""`var` and `std` with torch's correction, and `cdist` with any norm.

OpenVINO's frontend takes every correction but zero for one, and leaves the absolute value out of distances with p=1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov


def convert_var(context: Any) -> list[Any]:
    """Return the variance."""
    return [_mean_and_variance(context)[1].output(0)]


def convert_std(context: Any) -> list[Any]:
    """Return the standard deviation."""
    return [ops.sqrt(_mean_and_variance(context)[1]).output(0)]


def convert_var_mean(context: Any) -> list[Any]:
    """Return variance and mean."""
    mean, variance = _mean_and_variance(context)
    return [variance.output(0), mean.output(0)]


def convert_std_mean(context: Any) -> list[Any]:
    """Return standard deviation and mean."""
    mean, variance = _mean_and_variance(context)
    return [ops.sqrt(variance).output(0), mean.output(0)]


def convert_cdist(context: Any) -> list[Any]:
    """Return the distance of each row of one tensor from each row of another."""
    first, second = ops.unsqueeze(context.get_input(0), [-2]), ops.unsqueeze(context.get_input(1), [-3])
    p = float(context.get_values_from_const_input(2))
    difference = ops.subtract(first, second)
    if p == 2:  # noqa: PLR2004 - the Euclidean norm
        return [ops.sqrt(ops.reduce_sum(ops.multiply(difference, difference), [-1])).output(0)]
    size = ops.abs(difference)
    if p == math.inf:
        return [ops.reduce_max(size, [-1]).output(0)]
    if p == 0:
        return [ops.reduce_sum(ops.sign(size), [-1]).output(0)]
    if p == 1:
        return [ops.reduce_sum(size, [-1]).output(0)]
    power = ops.reduce_sum(ops.power(size, _like(p, size.output(0))), [-1])
    return [ops.power(power, _like(1 / p, size.output(0))).output(0)]


def _mean_and_variance(context: Any) -> tuple[ov.Node, ov.Node]:
    x = context.get_input(0)
    axes, correction, keep = _arguments(context, x)
    wide = ops.reduce_mean(x, axes, keep_dims=True)
    mean = wide if keep else ops.squeeze(wide, axes)
    deviation = ops.subtract(x, wide)
    squares = ops.multiply(deviation, deviation)
    if correction == 0:
        return mean, ops.reduce_mean(squares, axes, keep_dims=keep)
    count = ops.convert_like(ops.reduce_prod(ops.gather(ops.shape_of(x), axes, ops.constant(0)), [0]), x)
    divisor = ops.maximum(_like(0, x), ops.subtract(count, _like(correction, x)))
    return mean, ops.divide(ops.reduce_sum(squares, axes, keep_dims=keep), divisor)


def _arguments(context: Any, x: ov.Output) -> tuple[ov.Node, float, bool]:
    """Return axes, correction and keepdim of `(x, unbiased)` or `(x, dim, correction or unbiased, keepdim)`."""
    has_axes = context.get_input_size() > 2  # noqa: PLR2004 - the shorter overload has two
    given = context.get_values_from_const_input(2 if has_axes else 1)
    axes = context.get_values_from_const_input(1) if has_axes else None
    axes = [int(axis) for axis in np.ravel(axes)] if axes is not None else []
    rank = ops.squeeze(ops.shape_of(ops.shape_of(x)), ops.constant([0]))
    all_axes = ops.range(ops.constant(0), rank, ops.constant(1), "i64")
    keep = has_axes and bool(context.get_values_from_const_input(3))
    return ops.constant(axes) if axes else all_axes, 1.0 if given is None else float(given), keep


def _like(value: float, x: ov.Output) -> ov.Node:
    return ops.convert_like(ops.constant(np.float32(value)), x)
