"""Keep every index inside the tensor that it points into.

OpenVINO's operations do not check indices, or not all: on the CPU a GatherND, a ScatterElementsUpdate below -size and a
Gather from a short list of integers read and write memory that is not theirs (openvinotoolkit/openvino#38297, #38296).
So indices are normalised as torch does it, and clamped: no value can reach memory outside. `persist` writes graphs with
these guards (`conversion.rewrites.index_guards`); a graph that is read gets those that it lacks, so that one that
somebody else wrote reaches no other memory either.

Likewise a TopK takes no more than there is, and a Range has a step. A Gather is left alone but for integers of one
axis: its specification fills what is out of range with zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino import opset14

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INDEX_OPERAND = {
    "GatherElements": 1,
    "GatherND": 1,
    "ScatterElementsUpdate": 1,
    "ScatterNDUpdate": 1,
    "ScatterUpdate": 1,
    "EmbeddingBagOffsets": 1,
    "EmbeddingBagPacked": 1,
    "EmbeddingBagOffsetsSum": 1,
    "EmbeddingBagPackedSum": 1,
    "ROIAlign": 2,
    "ROIAlignRotated": 2,
}
"""Operations with an index into their first operand, and which operand that is."""
GUARDED = frozenset({*INDEX_OPERAND, "Gather", "DeformableConvolution"})
_AXIS_OPERAND = {"GatherElements": None, "ScatterElementsUpdate": 3, "ScatterUpdate": 3, "Gather": 2}
"""Which operand is the axis; None for an attribute. The others index the first axis."""
_OFFSETS = {"EmbeddingBagOffsets": 2, "EmbeddingBagOffsetsSum": 2}
"""Operations with positions in the list of indices; the next operand is the row for bags that are empty."""
_WEIGHTS = 4
"""Which operand of these has a weight for each index."""
_INTEGERS = {"i32", "i64"}
_KEEP_VALUES = frozenset({"Broadcast", "Concat", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"})
"""Operations whose result has no value that no operand has."""


def guard_graph(model: ov.Model) -> None:
    """Clamp the indices in a graph that are not known to be inside of what they point into."""
    if _guard_all(model):
        model.validate_nodes_and_infer_types()


def _guard_all(model: ov.Model) -> bool:
    found = False
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        for body in bodies(operation, kind):
            found |= _guard_all(body)
        if kind in GUARDED:
            found |= guard(operation, kind)
        elif kind == "TopK":
            found |= _limit_count(operation)
        elif kind == "Range":
            found |= _avoid_zero(operation)
        elif kind == "SegmentMax":
            found |= _avoid_negative(operation)
    return found


def _avoid_negative(operation: Any) -> bool:
    """Let a SegmentMax write into no segment before the first; those after the last it leaves out."""
    segments = operation.input_value(1)
    if (_find_range(segments)[0] >= 0).all():
        return False
    zero = ops.constant(0, segments.get_element_type())
    operation.input(1).replace_source_output(ops.maximum(segments, zero).output(0))
    return True


def _avoid_zero(operation: Any) -> bool:
    """Let a Range have a step, by which the CPU divides."""
    step = operation.input_value(2)
    if step.get_node().get_type_name() == "Constant" and step.get_node().data.all():
        return False
    zero, one = (ops.constant(value, step.get_element_type()) for value in (0, 1))
    operation.input(2).replace_source_output(ops.select(ops.equal(step, zero), one, step).output(0))
    return True


def _limit_count(operation: Any) -> bool:
    """Let a TopK take no more elements than there are, where `graph_shapes` could not know: the CPU reads on."""
    data, count = operation.input_value(0), operation.input_value(1)
    shape, axis = data.get_partial_shape(), int(operation.get_attributes()["axis"])
    there = 0 if shape.rank.is_dynamic else shape[axis].get_min_length()
    if count.get_node().get_type_name() == "Constant" and int(count.get_node().data.ravel()[0]) <= there:
        return False
    kind = count.get_element_type().get_type_name()
    limited = ops.minimum(count, ops.convert(axis_size(data, axis), kind))
    operation.input(1).replace_source_output(limited.output(0))
    return True


def guard(operation: Any, kind: str, *, wraps: bool = False) -> bool:
    """Clamp what an operation uses as an index, and tell whether that was needed; `wraps` takes every index."""
    if kind == "DeformableConvolution":
        return _move_nan_outside(operation, 1)
    if kind == "Gather" and not _is_unguarded(operation):
        return False
    size = _size(operation, kind)
    changed = _clamp(operation, INDEX_OPERAND.get(kind, 1), lambda index: inside(index, size, wraps=wraps), size)
    if kind in _OFFSETS:
        changed |= _guard_offsets(operation, _OFFSETS[kind])
    return changed


def _guard_offsets(operation: Any, operand: int) -> bool:
    """Keep the places where bags begin inside of the list of indices, and in order; and the row for empty bags."""
    indices, offsets = operation.input_value(1), operation.input_value(operand)
    count = axis_size(indices, 0)
    length = _plus(count, 1, ov.Type.i64)
    changed = not is_inside(offsets, length)
    if changed:
        offsets = _between(offsets, 0, length).output(0)
    if not is_inside(offsets, count):
        offsets = _add_bag(operation, operand, offsets, count)
        changed = True
    if not _is_sorted(offsets.get_node()):
        offsets = ops.topk(offsets, axis_size(offsets, 0), 0, "min", "value").output(0)
        changed = True
    operation.input(operand).replace_source_output(offsets)
    if operation.get_input_size() > operand + 1:
        rows = axis_size(operation.input_value(0), 0)
        changed |= _clamp(operation, operand + 1, lambda index: _between(index, -1, rows), rows, low=-1)
    return changed


def _add_bag(operation: Any, operand: int, offsets: ov.Output, count: Any) -> ov.Output:
    """Let a bag follow the last, which may be empty: one that begins at the end of the list is an error on the CPU.

    It throws in one of several threads, and memory is damaged after that.
    """
    before, after = operation.output(0), list(operation.output(0).get_target_inputs())
    kind, names = offsets.get_element_type(), before.get_tensor().get_names()
    for place in (1, _WEIGHTS) if operation.get_input_size() > _WEIGHTS else (1,):
        source = operation.input_value(place)
        one = ops.constant(np.zeros(1), source.get_element_type())
        operation.input(place).replace_source_output(ops.concat([source, one], 0).output(0))
    last = ops.reshape(_plus(count, 0, kind), ops.constant([1]), special_zero=False)
    bags = ops.reshape(axis_size(offsets, 0), ops.constant([1]), special_zero=False)
    operation.input(operand).replace_source_output(offsets := ops.concat([offsets, last], 0).output(0))
    operation.validate_and_infer_types()
    kept = ops.slice(operation, ops.constant([0]), bags, ops.constant([1]), ops.constant([0]))
    for user in after:
        user.replace_source_output(kept.output(0))
    before.get_tensor().set_names(set())
    kept.output(0).get_tensor().set_names(names)
    return offsets


def bodies(operation: Any, kind: str) -> list[ov.Model]:
    """Return the graphs inside of an operation."""
    if kind == "If":
        return [operation.get_function(0), operation.get_function(1)]
    return [operation.get_function()] if kind in {"Loop", "TensorIterator"} else []


def _is_unguarded(operation: Any) -> bool:
    """Tell whether a Gather is one of those that the CPU plugin runs without looking at the indices."""
    data = operation.input_value(0)
    rank = data.get_partial_shape().rank
    return bool(data.get_element_type().is_integral_number() and (rank.is_dynamic or rank.get_length() == 1))


def _clamp(operation: Any, operand: int, make: Callable[[ov.Output], Any], size: Any, low: int = 0) -> bool:
    """Replace an index that is not known to be from `low` to below `size`; tell whether that was needed."""
    index = operation.input_value(operand)
    if is_inside(index, size, low):
        return False
    operation.input(operand).replace_source_output(make(index).output(0))
    return True


def inside(index: ov.Output, size: Any, *, wraps: bool = False) -> Any:
    """Return what is within 0 and `size`, for every index: negative ones count from the end."""
    index = _as_integers(index)
    size = _plus(size, 0, index.get_element_type())
    if wraps:
        index = ops.floor_mod(index, size).output(0)
    is_negative = ops.less(index, ops.constant(0, index.get_element_type()))
    return _between(ops.select(is_negative, ops.add(index, size), index).output(0), 0, size)


def _between(index: ov.Output, low: int, size: Any) -> Any:
    index = _as_integers(index)
    kind = index.get_element_type()
    return ops.maximum(ops.minimum(index, _plus(size, -1, kind)), ops.constant(low, kind))


def _plus(size: Any, more: int, kind: ov.Type) -> Any:
    if size.get_type_name() == "Constant":
        return ops.constant(size.data.astype(np.int64) + more, kind)
    return ops.add(ops.convert(size, kind.get_type_name()), ops.constant(more, kind))


def _as_integers(index: ov.Output) -> ov.Output:
    is_integer = index.get_element_type().get_type_name() in _INTEGERS
    return index if is_integer else ops.convert(index, "i64").output(0)


def _move_nan_outside(operation: Any, operand: int) -> bool:
    """Replace offsets that are NaN, for which the CPU plugin reads anywhere, by one outside of the picture: zeros."""
    offsets = operation.input_value(operand)
    node = offsets.get_node()
    if node.get_type_name() == "Constant" and not np.isnan(node.data).any():
        return False
    if node.get_type_name() == "Select" and _selects_numbers(node):
        return False
    far = ops.constant(1e9, offsets.get_element_type())
    operation.input(operand).replace_source_output(ops.select(opset14.is_nan(offsets), far, offsets).output(0))
    return True


def _selects_numbers(node: Any) -> bool:
    """Tell whether a Select is what `_move_nan_outside` makes."""
    condition, far, offsets = (source.get_node() for source in node.input_values())
    return bool(
        condition.get_type_name() == "IsNaN"
        and condition.input_value(0) == node.input_value(2)
        and offsets.get_output_size() == 1
        and far.get_type_name() == "Constant"
        and not np.isnan(far.data).any()
    )


def is_inside(index: ov.Output, size: Any, low: int = 0) -> bool:
    """Tell whether every value is known to be from `low` to below `size`."""
    limit = size.output(0).get_node()
    if limit.get_type_name() != "Constant":
        return False
    lowest, highest = _find_range(index)
    if bool((lowest >= low).all() and (highest < limit.data).all()):
        return True
    node = index.get_node()
    while node.get_type_name() in {"Transpose", "Convert", "Squeeze", "Unsqueeze", "Reshape"}:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "NonZero":  # where a mask of the same tensor is not zero
        return False
    shape = node.input_value(0).get_partial_shape()
    return bool(shape.is_static and list(shape.to_shape()) == limit.data.ravel().tolist())


def _find_range(source: ov.Output, depth: int = 16) -> tuple[Any, Any]:
    """Return the smallest and the largest value that integers are known to have, or one for each of the last axis.

    OpenVINO computes with int32: of what does not fit, nothing is known.
    """
    low, high = _compute_range(source, depth)
    fits = (np.isinf(low) | (low >= _INT32.min)).all() and (np.isinf(high) | (high <= _INT32.max)).all()
    return (low, high) if fits else _UNKNOWN


def _compute_range(source: ov.Output, depth: int) -> tuple[Any, Any]:
    node = source.get_node()
    kind, operands = node.get_type_name(), node.input_values()
    if kind == "Constant" and source.get_element_type().is_integral_number():
        values = node.data if node.data.ndim else node.data.reshape(1)
        axes = tuple(range(values.ndim - 1))
        if values.size == 0:
            return np.zeros(1), np.zeros(1)
        return values.min(axis=axes).astype(np.float64), values.max(axis=axes).astype(np.float64)
    if depth == 0 or source.get_element_type().get_type_name() not in _INTEGERS:
        return _UNKNOWN
    if kind == "Clamp":
        attributes = node.get_attributes()
        return np.array([attributes["min"]]), np.array([attributes["max"]])
    if kind == "Convert" or (kind == "TopK" and source.get_index() == 0):
        return _find_range(operands[0], depth - 1)
    if kind in _KEEP_VALUES:
        found = [_find_range(operand, depth - 1) for operand in (operands if kind == "Concat" else operands[:1])]
        return np.min([[low.min()] for low, _ in found], axis=0), np.max([[high.max()] for _, high in found], axis=0)
    if kind == "Multiply" and (base := _find_positive_part(node)) is not None:
        high = _find_range(base, depth - 1)[1]
        return np.zeros_like(high), np.maximum(high, 0)
    if kind in _ARITHMETIC:
        left, right = (_find_range(operand, depth - 1) for operand in operands)
        return _ARITHMETIC[kind](left, right)
    return _UNKNOWN


def _add(left: Any, right: Any) -> tuple[Any, Any]:
    return _UNKNOWN if _is_open(left, right) else (left[0] + right[0], left[1] + right[1])


def _multiply(left: Any, right: Any) -> tuple[Any, Any]:
    if _is_open(left, right):
        return _UNKNOWN
    products = [one * other for one in left for other in right]
    return np.minimum.reduce(products), np.maximum.reduce(products)


def _is_open(left: Any, right: Any) -> bool:
    """Tell whether a sum or product of these may be beyond int32, and so any number."""
    return any(np.isinf(number).any() for number in (*left, *right))


_INT32 = np.iinfo(np.int32)
_UNKNOWN = np.array([-np.inf]), np.array([np.inf])
_ARITHMETIC: Mapping[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "Add": _add,
    "Maximum": lambda left, right: (np.maximum(left[0], right[0]), np.maximum(left[1], right[1])),
    "Minimum": lambda left, right: (np.minimum(left[0], right[0]), np.minimum(left[1], right[1])),
    "Multiply": _multiply,
}


def _find_positive_part(node: Any) -> ov.Output | None:
    """Return x of `x * (x > 0)`, which OpenVINO makes of `max(x, 0)`."""
    value, factor = node.input_values()
    while value.get_node().get_type_name() == "Add" and _is_zero(value.get_node().input_value(1)):
        value = value.get_node().input_value(0)
    if factor.get_node().get_type_name() != "Convert":
        return None
    greater = factor.get_node().input_value(0).get_node()
    if greater.get_type_name() != "Greater" or greater.input_value(0) != value:
        return None
    return value if _is_zero(greater.input_value(1)) else None


def _is_zero(source: ov.Output) -> bool:
    node = source.get_node()
    return node.get_type_name() == "Constant" and not node.data.any()


def _is_sorted(node: Any) -> bool:
    if node.get_type_name() == "Constant":
        return bool((np.diff(node.data.ravel().astype(np.int64)) >= 0).all())
    if node.get_type_name() != "TopK":
        return False
    attributes = node.get_attributes()
    return bool(attributes["mode"] == "min" and attributes["sort"] == "value")


def _size(operation: Any, kind: str) -> Any:
    """Return the size of what is indexed: a number, or one for each of the last axis of the indices."""
    data = operation.input_value(0)
    if kind in {"GatherND", "ScatterNDUpdate"}:
        first = int(operation.get_attributes().get("batch_dims", 0))
        count = operation.input_value(1).get_partial_shape()[-1]
        if count.is_static and data.get_partial_shape().rank.is_static:
            sizes = [data.get_partial_shape()[axis] for axis in range(first, first + count.get_length())]
            if all(size.is_static for size in sizes):
                return ops.constant([size.get_length() for size in sizes])
        last = ops.gather(ops.shape_of(operation.input_value(1), "i64"), integer(-1), integer(0))
        end = ops.unsqueeze(ops.add(last, integer(first)), integer(0))
        return ops.slice(ops.shape_of(data, "i64"), ops.constant([first]), end, ops.constant([1]))
    axis = 0
    if kind in _AXIS_OPERAND:
        operand = _AXIS_OPERAND[kind]
        if operand is None:
            axis = int(operation.get_attributes()["axis"])
        elif operation.input_value(operand).get_node().get_type_name() == "Constant":
            axis = int(operation.input_value(operand).get_node().data.reshape(-1)[0])
        else:
            where = ops.convert(operation.input_value(operand), "i64")
            return ops.reduce_max(ops.gather(ops.shape_of(data, "i64"), where, integer(0)), ops.constant([0]))
    return axis_size(data, axis)


def axis_size(data: ov.Output, axis: int) -> Any:
    """Return how large an axis is: a constant, where that is known."""
    shape = data.get_partial_shape()
    if shape.rank.is_static and shape[axis].is_static:
        return integer(shape[axis].get_length())
    return ops.gather(ops.shape_of(data, "i64"), integer(axis), integer(0))


def integer(value: int) -> Any:
    """Return a constant without axes."""
    return ops.constant(value, ov.Type.i64)
