"""Make attention rows without a key zero, as torch does.

`ScaledDotProductAttention` divides zero by zero where a mask leaves a row no key, and answers NaN
(openvinotoolkit/openvino#35959); torch's kernels answer zero, for boolean masks and for float masks of -inf. Such rows
are those of padded positions: NaN spreads from there to every later layer, since 0 * NaN is NaN.

A row without a key is given all of them, and its result replaced by zero. No element of the mask that is used needs
-inf, so that this holds in half precision, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as ops

if TYPE_CHECKING:
    from collections.abc import Iterator

_KIND = "ScaledDotProductAttention"
_LOWEST = {"f16": -65504.0, "bf16": -3.3895314e38, "f32": -3.4028235e38}
_MASK = 3
"""The mask's place among the operation's inputs."""


class _Mask(NamedTuple):
    """A mask in which each row has a key, and which rows had one before (last axis of size 1)."""

    filled: ov.Output
    has_key: ov.Output


def zero_rows_without_key(model: ov.Model) -> None:
    """Rewrite each attention whose mask may have a row without a key; masks that layers share are rewritten once."""
    rewritten: dict[tuple[str, int], _Mask | None] = {}
    for attention in masked_attentions(model):
        source = attention.input_value(_MASK)
        key = (source.get_node().get_name(), source.get_index())
        if key not in rewritten:
            rewritten[key] = _fill(source)
        if (mask := rewritten[key]) is not None:
            attention.input(_MASK).replace_source_output(mask.filled)
            _zero(attention, mask.has_key)
    if any(rewritten.values()):
        model.validate_nodes_and_infer_types()


def fill_rows_without_key(model: ov.Model) -> None:
    """Let rows without a key attend to all keys, if their outputs are not used: they stay finite, at no cost."""
    filled: dict[tuple[str, int], _Mask | None] = {}
    for attention in masked_attentions(model):
        source = attention.input_value(_MASK)
        key = (source.get_node().get_name(), source.get_index())
        if key not in filled:
            filled[key] = _fill(source)
        if (mask := filled[key]) is not None:
            attention.input(_MASK).replace_source_output(mask.filled)
    if any(filled.values()):
        model.validate_nodes_and_infer_types()


def add_masks_with_keys(model: ov.Model) -> None:
    """Let attention add its mask in place of a boolean one, in which each row has a key.

    By such a mask, a Select, the NPU plugin's wrapper tells self-attention from attention to what an encoder gave.
    """
    added: dict[tuple[str, int], Any] = {}
    for attention in masked_attentions(model):
        mask = attention.input_value(_MASK)
        if mask.get_element_type() != ov.Type.boolean:
            continue
        key = (mask.get_node().get_name(), mask.get_index())
        if key not in added:
            query = attention.input_value(0)
            lowest = _LOWEST.get(query.get_element_type().to_string(), _LOWEST["f32"])
            added[key] = ops.select(mask, _scalar(0, query), _scalar(lowest, query))
        attention.input(_MASK).replace_source_output(added[key].output(0))
    if added:
        model.validate_nodes_and_infer_types()


def masked_attentions(model: ov.Model) -> Iterator[Any]:
    """Return the fused attentions that have a mask, those in bodies of loops and branches, too."""
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "If":
            yield from masked_attentions(operation.get_then_body())
            yield from masked_attentions(operation.get_else_body())
        elif kind in {"Loop", "TensorIterator"}:
            yield from masked_attentions(operation.get_function())
        elif kind == _KIND and operation.get_input_size() > _MASK and not operation.get_attributes()["causal"]:
            ranks = [value.get_partial_shape().rank for value in (operation.output(0), operation.input_value(_MASK))]
            if all(rank.is_static for rank in ranks):
                yield operation


def _fill(mask: ov.Output) -> _Mask | None:
    """Return the mask for the rewrite, or None where it is constant and each row has a key."""
    is_boolean = mask.get_element_type() == ov.Type.boolean
    if mask.get_node().get_type_name() == "Constant":
        values = mask.get_node().data
        keys = values if is_boolean else values > -np.inf
        if values.ndim == 0 or bool(keys.any(axis=-1).all()):
            return None
    last = ops.constant(np.array([-1], np.int64))
    if is_boolean:
        has_key = ops.reduce_logical_or(mask, last, keep_dims=True)
        return _Mask(ops.logical_or(mask, ops.logical_not(has_key)).output(0), has_key.output(0))
    # Only -inf is less than the lowest finite value; in half precision both may become the same: such a row is finite.
    lowest = _scalar(_LOWEST.get(mask.get_element_type().to_string(), _LOWEST["f32"]), mask)
    is_key = ops.greater_equal(mask, lowest)
    has_key = ops.reduce_logical_or(is_key, last, keep_dims=True)  # the CPU plugin's ReduceMax starts at that value
    return _Mask(ops.select(has_key, mask, _scalar(0, mask)).output(0), has_key.output(0))


def _zero(attention: Any, has_key: ov.Output) -> None:
    """Replace the result's rows that had no key by zero, behind a transposition.

    The CPU plugin fuses attention with what follows, up to a transposition, and then answers wrongly where that
    broadcasts and heads are of size 48. Models transpose to join the heads; where one does not, two transpositions are
    added.
    """
    result = attention.output(0)
    while (reshape := _only_user(result)) is not None and _keeps_shape(reshape):
        result = reshape.output(0)
    user = _only_user(result)
    if user is not None and (order := _transposition(user)):
        result, users = user.output(0), user.output(0).get_target_inputs()
    else:
        rank, users = result.get_partial_shape().rank.get_length(), result.get_target_inputs()
        order = [*range(rank - 3), rank - 2, rank - 3, rank - 1]
        result = ops.transpose(result, ops.constant(np.array(order, np.int64))).output(0)
        user = None
    if (missing := len(order) - has_key.get_partial_shape().rank.get_length()) > 0:
        has_key = ops.unsqueeze(has_key, ops.constant(np.arange(missing))).output(0)
    has_key = ops.transpose(has_key, ops.constant(np.array(order, np.int64))).output(0)
    zeroed = ops.select(has_key, result, _scalar(0, result))
    zeroed.set_friendly_name(f"{attention.get_friendly_name()}/masked")
    if user is None:
        zeroed = ops.transpose(zeroed, ops.constant(np.array(order, np.int64)))  # a swap of two axes undoes itself
    for target in users:
        target.replace_source_output(zeroed.output(0))


def _only_user(value: ov.Output) -> Any:
    users = value.get_target_inputs()
    return next(iter(users)).get_node() if len(users) == 1 else None


def _keeps_shape(node: ov.Node) -> bool:
    """Return whether a node is a reshape to the same shape: BERT has one between attention and its transposition."""
    if node.get_type_name() != "Reshape":
        return False
    shape = node.input_value(0).get_partial_shape()
    return bool(shape.is_static and shape == node.output(0).get_partial_shape())


def _transposition(node: ov.Node) -> list[int]:
    """Return the order of a transposition, empty for another operation."""
    if node.get_type_name() != "Transpose" or node.input_value(1).get_node().get_type_name() != "Constant":
        return []
    return [*map(int, node.input_value(1).get_node().data)]


def _scalar(value: float, like: ov.Output) -> Any:
    return ops.constant(np.array(value, np.float32), like.get_element_type())
