"""Division and modulo: a quotient in float32, and the exact remainder to correct it by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from openvino import opset13 as ops

from npu_persist.conversion.rewrites.integers.arithmetic import flag, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from npu_persist.conversion.rewrites.integers.arithmetic import Rewrite, Value
    from npu_persist.conversion.rewrites.integers.ranges import Ranges


class _Division(NamedTuple):
    """Quotient and remainder, both rounded down."""

    quotient: ov.Node
    remainder: ov.Node
    divisor: Value
    sign: ov.Node | None
    """What made the divisor positive, or None if it was; the remainder has still to be multiplied by it."""
    dividend: Value


def rewrite_divide(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Divide integers; torch rounds down, or towards zero for rounding_mode="trunc"."""
    dividend, divisor = sources
    # The frontend writes rounding_mode="trunc" as a division and a conversion, and relies on the plugin's rounding.
    truncates = any(user.get_node().get_type_name() == "Convert" for user in operation.output(0).get_target_inputs())
    if ranges.of(dividend).is_small and ranges.of(divisor).is_small:
        # Chains of element-wise operations run in float32, without rounding in between: (16 - 1) // 2 would be 7.5.
        remainder = ops.mod(dividend, divisor) if truncates else ops.floor_mod(dividend, divisor)
        return ops.divide(ops.subtract(dividend, remainder), divisor)
    division = _divide(sources, ranges)
    return ops.add(division.quotient, _round_up(division)) if truncates else division.quotient


def rewrite_floor_mod(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Return the remainder that has the divisor's sign."""
    del operation
    if all(ranges.of(source).is_small for source in sources):
        return None
    division = _divide(sources, ranges)
    return _signed(division, division.remainder)


def rewrite_mod(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Return the remainder that has the dividend's sign."""
    del operation
    if all(ranges.of(source).is_small for source in sources):
        return None
    division = _divide(sources, ranges)
    rounded_up = ops.multiply(_round_up(division), division.divisor)
    return _signed(division, ops.subtract(division.remainder, rounded_up))


def drop_rounding(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Integers are rounded already; the frontend rounds divisions down, in float32."""
    del operation, ranges
    return sources[0]


DIVISIONS: dict[str, Rewrite] = {
    "Divide": rewrite_divide,
    "FloorMod": rewrite_floor_mod,
    "Mod": rewrite_mod,
    "Floor": drop_rounding,
    "Ceiling": drop_rounding,
    "Round": drop_rounding,
}


def _divide(sources: Sequence[ov.Output], ranges: Ranges) -> _Division:
    """Divide by the magnitude of the divisor, rounding down.

    The plugin's quotient is off by 2^-22 of itself. Dividing what it leaves again gives the quotient towards zero, or a
    neighbour, and int32 products and differences are exact, also where they wrap on the way.
    """
    dividend: Value = sources[0]
    divisor: Value = sources[1]
    kind, sign = sources[0].get_element_type(), None
    if ranges.of(sources[1]).low < 0:
        is_negative = flag(ops.less(divisor, number(0, kind)), kind)
        sign = ops.subtract(number(1, kind), ops.multiply(is_negative, number(2, kind)))
        dividend, divisor = ops.multiply(dividend, sign), ops.multiply(divisor, sign)
    first = ops.divide(dividend, divisor)
    rest = ops.subtract(dividend, ops.multiply(first, divisor))
    second = ops.divide(rest, divisor)
    rest = ops.subtract(rest, ops.multiply(second, divisor))
    below = flag(ops.less(rest, number(0, kind)), kind)
    quotient = ops.subtract(ops.add(first, second), below)
    return _Division(quotient, ops.add(rest, ops.multiply(below, divisor)), divisor, sign, dividend)


def _round_up(division: _Division) -> ov.Node:
    """Return 1 where rounding towards zero is rounding up: a negative quotient with a remainder."""
    kind = division.remainder.get_element_type()
    is_inexact = ops.not_equal(division.remainder, number(0, kind))
    return flag(ops.logical_and(ops.less(division.dividend, number(0, kind)), is_inexact), kind)


def _signed(division: _Division, remainder: ov.Node) -> ov.Node:
    return remainder if division.sign is None else ops.multiply(remainder, division.sign)
