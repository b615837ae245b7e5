"""Clamps and maxima with zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from openvino import opset13 as ops

from npu_persist.conversion.rewrites.integers.arithmetic import flag, number
from npu_persist.conversion.rewrites.integers.ranges import INT32, Range, constant_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from npu_persist.conversion.rewrites.integers.arithmetic import Rewrite, Value
    from npu_persist.conversion.rewrites.integers.ranges import Ranges


def rewrite_clamp(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Clamp by maxima; small bounds are exact for large values, too."""
    source, kind = sources[0], sources[0].get_element_type()
    attributes, bounds = operation.get_attributes(), ranges.of(source)
    low, high = max(math.ceil(attributes["min"]), INT32.low), min(math.floor(attributes["max"]), INT32.high)
    if bounds.is_small or Range(low, high).is_small:
        return None
    result: ov.Node = ops.maximum(source, number(low, kind))
    if high < bounds.high:
        # Not a minimum: the plugin makes a clamp of it again. ~x, which is -1 - x, turns the order round.
        result = ops.bitwise_not(ops.maximum(ops.bitwise_not(result), number(~high, kind)))
    return result


def rewrite_relu(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Multiply what is positive by 1, the rest by 0."""
    del operation
    source, kind = sources[0], sources[0].get_element_type()
    if ranges.of(source).is_small:
        return None
    return ops.multiply(source, flag(ops.greater(source, number(0, kind)), kind))


def rewrite_maximum(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """The plugin makes a ReLU of a maximum with zero."""
    del operation
    for data, other in (sources, reversed(sources)):
        value = constant_value(other)
        if value is not None and value.size == 1 and value.item() == 0 and not ranges.of(data).is_small:
            kind = data.get_element_type()
            return ops.multiply(ops.add(data, other), flag(ops.greater(data, other), kind))
    return None


BOUNDS: dict[str, Rewrite] = {
    "Clamp": rewrite_clamp,
    "Relu": rewrite_relu,
    "Maximum": rewrite_maximum,
}
