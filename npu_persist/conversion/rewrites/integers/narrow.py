"""uint8, int8 and int16 wrap around as in torch; the CPU plugin saturates the former two and widens the latter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as ops
from openvino import opset15

from npu_persist.conversion.rewrites.integers.arithmetic import Value, as_output, number
from npu_persist.conversion.rewrites.integers.ranges import type_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npu_persist.conversion.rewrites.integers.ranges import Ranges

_BITS = {"u8": 8, "i8": 8, "i16": 16}
"""Types that torch wraps around in."""


def _matmul(operation: ov.Node, first: ov.Output, second: ov.Output) -> ov.Node:
    attributes = operation.get_attributes()
    return ops.matmul(first, second, attributes["transpose_a"], attributes["transpose_b"])


_ARITHMETIC: dict[str, Callable[..., ov.Node]] = {
    "Abs": lambda _, x: ops.abs(x),
    "Add": lambda _, x, y: ops.add(x, y),
    "BitwiseLeftShift": lambda _, x, y: opset15.bitwise_left_shift(x, y),
    "Divide": lambda _, x, y: ops.divide(x, y),
    "Einsum": lambda operation, *sources: ops.einsum(list(sources), operation.get_attributes()["equation"]),
    "FloorMod": lambda _, x, y: ops.floor_mod(x, y),
    "MatMul": _matmul,
    "Mod": lambda _, x, y: ops.mod(x, y),
    "Multiply": lambda _, x, y: ops.multiply(x, y),
    "Negative": lambda _, x: ops.negative(x),
    "Power": lambda _, x, y: ops.power(x, y),
    "SquaredDifference": lambda _, x, y: ops.squared_difference(x, y),
    "Subtract": lambda _, x, y: ops.subtract(x, y),
}
"""What makes an operation of the same kind on other sources, for operations that can leave a narrow type."""


def is_narrow(operation: ov.Node) -> bool:
    """Return whether an operation computes in a type that torch wraps around in."""
    kind = operation.get_type_name()
    is_conversion = kind == "Convert" and operation.input_value(0).get_element_type().is_integral_number()
    return (is_conversion or kind in _ARITHMETIC) and operation.get_element_type().get_type_name() in _BITS


def compute_wide(
    operation: ov.Node, rewrite: Callable[[ov.Node, Sequence[ov.Output], Ranges], Value | None] | None, ranges: Ranges
) -> Value | None:
    """Return a narrow operation's result: computed as int32, and wrapped around."""
    sources, kind = operation.input_values(), operation.get_type_name()
    wide = [ops.convert(source, "i32").output(0) for source in sources]
    if kind == "Convert":
        is_kept = ranges.of(sources[0]).is_in(type_range(operation.get_element_type()))
        return None if is_kept else wrap(wide[0], operation.get_element_type(), ranges)
    result = None if rewrite is None else rewrite(operation, wide, ranges)
    if result is None:
        result = _ARITHMETIC[kind](operation, *wide)
    return wrap(as_output(result), operation.get_element_type(), ranges)


def wrap(source: ov.Output, element_type: ov.Type, ranges: Ranges) -> ov.Node:
    """Convert to a narrow type modulo 2^bits."""
    name, kind = element_type.get_type_name(), source.get_element_type()
    bounds = type_range(element_type)
    if ranges.of(source).is_in(bounds):
        return ops.convert(source, name)
    mask = number((1 << _BITS[name]) - 1, kind)
    if bounds.low == 0:
        return ops.convert(ops.bitwise_and(source, mask), name)
    offset = number(-bounds.low, kind)
    return ops.convert(ops.subtract(ops.bitwise_and(ops.add(source, offset), mask), offset), name)
