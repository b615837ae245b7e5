"""Comparisons of two large integers, and selections between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

from npu_persist.conversion.rewrites.integers.arithmetic import flag, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from npu_persist.conversion.rewrites.integers.arithmetic import Rewrite, Value
    from npu_persist.conversion.rewrites.integers.ranges import Ranges


def rewrite_comparison(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Compare a difference with zero.

    No integer but 0 is rounded to 0, and the maximum of two integers is exact. Against a small integer a large one may
    be rounded: it stays on its side.
    """
    first, second = sources
    if ranges.of(first).is_small or ranges.of(second).is_small:
        return None
    kind = operation.get_type_name()
    if kind in {"Equal", "NotEqual"}:
        difference = ops.subtract(first, second)
    else:
        # a > b, unless the larger of the two is b.
        other = second if kind in {"Greater", "LessEqual"} else first
        difference = ops.subtract(ops.maximum(first, second), other)
    zero = number(0, first.get_element_type())
    if kind in {"Equal", "LessEqual", "GreaterEqual"}:
        return ops.equal(difference, zero)
    return ops.not_equal(difference, zero)


def rewrite_select(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Select by arithmetic."""
    del operation
    condition, first, second = sources
    if ranges.of(first).is_small and ranges.of(second).is_small:
        return None
    chosen = flag(condition, first.get_element_type())
    return ops.add(second, ops.multiply(ops.subtract(first, second), chosen))


def rewrite_conversion(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Compare with zero: the plugin cannot convert the values of a TopK, or of another operation of two results."""
    del ranges
    is_flag = operation.get_element_type().get_type_name() == "boolean"
    if not is_flag or sources[0].get_node().get_output_size() == 1:
        return None
    return ops.not_equal(sources[0], number(0, sources[0].get_element_type()))


COMPARISONS: dict[str, Rewrite] = {
    **dict.fromkeys(
        ("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"),
        rewrite_comparison,
    ),
    "Select": rewrite_select,
    "Convert": rewrite_conversion,
}
