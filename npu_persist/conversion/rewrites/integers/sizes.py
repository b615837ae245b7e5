"""Arithmetic on sizes of dynamic axes.

Three things go wrong with it. Divisions round towards zero: -(-n // 2) of 7 gives 3. A division behind the product of
all sizes is fused into it, and rounds to nearest. And OpenVINO takes the remainders of an axis' bounds for the bounds
of its remainder: of an axis from 2 to 64, n % 2 is folded into 0. What is written here is monotonic in each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

from npu_persist.conversion.rewrites.integers.arithmetic import indices, number
from npu_persist.conversion.rewrites.integers.ranges import axis_size, constant_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from npu_persist.conversion.rewrites.integers.arithmetic import Rewrite, Value
    from npu_persist.conversion.rewrites.integers.ranges import Ranges


def rewrite_divide(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Divide a size that may be negative, rounding down."""
    truncates = any(user.get_node().get_type_name() == "Convert" for user in operation.output(0).get_target_inputs())
    if truncates or (ranges.of(sources[0]).low >= 0 and ranges.of(sources[1]).low >= 0):
        return None
    return _floor_divide(sources, ranges)


def rewrite_floor_mod(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Subtract the multiple of the divisor."""
    del operation
    quotient = _floor_divide(sources, ranges)
    return None if quotient is None else ops.subtract(sources[0], ops.multiply(quotient, sources[1]))


def rewrite_product(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Multiply sizes one by one."""
    del ranges
    source = sources[0]
    is_list = source.get_partial_shape().rank.is_static and source.get_partial_shape().rank.get_length() == 1
    count = axis_size(source, 0) if is_list else None
    if not count or operation.get_attributes()["keep_dims"]:
        return None
    factors = [ops.gather(source, number(index, source.get_element_type()), indices(0)) for index in range(count)]
    result = factors[0]
    for factor in factors[1:]:
        result = ops.multiply(result, factor)
    return ops.squeeze(result, indices(0)) if result.get_output_partial_shape(0).rank.get_length() else result


SIZES: dict[str, Rewrite] = {
    "Divide": rewrite_divide,
    "FloorMod": rewrite_floor_mod,
    "ReduceProd": rewrite_product,
}
"""By the kind of operation, where no input's values have a part in it."""


def _floor_divide(sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Divide by a constant: what is positive, and what is negative, rounded away from zero."""
    dividend, divisor = sources
    known, kind = constant_value(divisor), dividend.get_element_type()
    if known is None or known.size != 1 or known.item() == 0:
        return None
    if known.item() < 0:
        minus = ops.multiply(dividend, number(-1, kind)).output(0)
        return _floor_divide((minus, number(-known.item(), kind).output(0)), ranges)
    # Without the rounding, which changes nothing, the plugin would carry fractions on into the next operation.
    if ranges.of(dividend).low >= 0:
        return ops.floor(ops.divide(dividend, divisor))
    positive = ops.maximum(dividend, number(0, kind))
    negative = ops.subtract(number(known.item() - 1, kind), ops.minimum(dividend, number(0, kind)))
    return ops.subtract(ops.floor(ops.divide(positive, divisor)), ops.floor(ops.divide(negative, divisor)))
