"""Powers and matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

from npu_persist.conversion.rewrites.integers.arithmetic import flag, indices, number, sum_exactly
from npu_persist.conversion.rewrites.integers.ranges import Range, axis_size, constant_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from npu_persist.conversion.rewrites.integers.arithmetic import Rewrite, Value
    from npu_persist.conversion.rewrites.integers.ranges import Ranges

_LARGEST_EXPONENT = 255
_EXPONENT_BITS = 5
"""Of an exponent that may be larger: one above 31 leaves int32 for every base but 0, 1 and -1."""
_USUAL_SIZE = 64
"""Of an axis whose size is not known."""
_PRODUCTS = 2**22
"""Most products of a matrix product that are made one by one, before they are summed."""


def rewrite_power(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Square and multiply."""
    del operation
    base, exponent = sources
    kind = base.get_element_type()
    known = constant_value(exponent)
    if known is not None and known.size == 1 and known.item() >= 0:
        return _power(base, known.item(), kind)
    highest = ranges.of(exponent).high
    bits = highest.bit_length() if highest <= _LARGEST_EXPONENT else _EXPONENT_BITS
    result: ov.Node = number(1, kind)
    square: Value = base
    for bit in range(bits):
        is_set = flag(ops.not_equal(ops.bitwise_and(exponent, number(1 << bit, kind)), number(0, kind)), kind)
        one = number(1, kind)
        result = ops.multiply(result, ops.add(ops.multiply(ops.subtract(square, one), is_set), one))
        square = ops.multiply(square, square)
    return result


def _power(base: Value, exponent: int, kind: ov.Type) -> Value:
    if exponent == 0:
        return ops.add(ops.multiply(base, number(0, kind)), number(1, kind))
    result: Value | None = None
    square = base
    while exponent > 1:
        if exponent & 1:
            result = square if result is None else ops.multiply(result, square)
        square = ops.multiply(square, square)
        exponent >>= 1
    return square if result is None else ops.multiply(result, square)


def rewrite_matmul(operation: ov.Node, sources: Sequence[ov.Output], ranges: Ranges) -> Value | None:
    """Multiply element by element, and sum exactly; a large product stays as it is, and persist warns of it."""
    first, second = sources
    attributes = operation.get_attributes()
    shapes = [source.get_partial_shape() for source in (first, second)]
    if any(shape.rank.is_dynamic or shape.rank.get_length() == 0 for shape in shapes):
        return None
    ranks = [shape.rank.get_length() for shape in shapes]
    inner = axis_size(first, -2 if attributes["transpose_a"] and ranks[0] > 1 else -1)
    if inner is None:
        inner = axis_size(second, -1 if attributes["transpose_b"] or ranks[1] == 1 else -2)
    magnitude = ranges.of(first).magnitude * ranges.of(second).magnitude
    if inner is not None and Range(0, magnitude * inner).is_small:
        return None
    if not _is_feasible(operation, inner):
        return None
    left = ops.unsqueeze(first, indices(0)) if ranks[0] == 1 else _transposed(first, attributes["transpose_a"])
    right = ops.unsqueeze(second, indices(1)) if ranks[1] == 1 else _transposed(second, attributes["transpose_b"])
    # [..., m, k, 1] * [..., 1, k, n], summed along k.
    products = ops.multiply(ops.unsqueeze(left, indices(-1)), ops.unsqueeze(right, indices(-3)))
    axis = max(*ranks, 2) - 1
    result = sum_exactly(products, axis, inner)
    drop = [axis]
    if ranks[0] == 1:
        drop.append(axis - 1)
    if ranks[1] == 1:
        drop.append(axis + 1)
    return ops.squeeze(result, indices(*drop))


def _is_feasible(operation: ov.Node, inner: int | None) -> bool:
    if inner is None:
        return False
    shape = operation.output(0).get_partial_shape()
    if shape.rank.is_dynamic:
        return False
    count = inner
    for axis in shape:
        count *= axis.get_length() if axis.is_static else _USUAL_SIZE
    return count <= _PRODUCTS


def _transposed(source: ov.Output, transpose: bool) -> Value:  # noqa: FBT001
    if not transpose:
        return source
    rank = source.get_partial_shape().rank.get_length()
    return ops.transpose(source, indices(*range(rank - 2), rank - 1, rank - 2))


PRODUCTS: dict[str, Rewrite] = {"Power": rewrite_power, "MatMul": rewrite_matmul}
