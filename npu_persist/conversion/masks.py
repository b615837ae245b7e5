"""Attention masks among a graph's inputs, and calls in which they leave rows of attention no key.

A mask is an input that reaches a softmax, or the mask of fused attention, by nothing but logic, arithmetic and
movement, and that holds what masks hold: booleans, zeros and ones, or zeros and very negative numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import openvino as ov

_LOGIC = frozenset(
    {"Add", "Subtract", "Multiply", "Maximum", "Minimum", "Select", "Convert", "ConvertLike", "Clamp"}
    | {"LogicalAnd", "LogicalOr", "LogicalNot", "LogicalXor", "BitwiseAnd", "BitwiseOr", "BitwiseNot"}
    | {"Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "ReduceLogicalOr", "ReduceLogicalAnd"}
)
"""Operations that a mask passes through with all inputs."""
_MOVEMENT = frozenset(
    {"Reshape", "Unsqueeze", "Squeeze", "Transpose", "Broadcast", "Tile", "Slice", "StridedSlice", "Gather", "GatherND"}
    | {"Concat", "Split", "VariadicSplit"}
)
"""Operations that a mask passes through with the first input; a concatenation's others are rarely masks."""
_NEGATIVE = -1e4
"""What a float mask adds is at most this."""


def find_masks(model: ov.Model) -> set[int]:
    """Return which inputs of the graph may be masks for attention, by their place."""
    places = {parameter.get_name(): index for index, parameter in enumerate(model.get_parameters())}
    waiting = []
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "Softmax":
            waiting.append(operation.input_value(0).get_node())
        elif kind == "ScaledDotProductAttention" and operation.get_input_size() > 3:  # noqa: PLR2004 - the mask's place
            waiting.append(operation.input_value(3).get_node())
    found: set[int] = set()
    seen: set[str] = set()
    while waiting:
        node = waiting.pop()
        name, kind = node.get_name(), node.get_type_name()
        if name in seen:
            continue
        seen.add(name)
        if name in places:
            found.add(places[name])
        elif kind in _LOGIC:
            waiting += [source.get_node() for source in node.input_values()]
        elif kind in _MOVEMENT:
            waiting.append(node.input_value(0).get_node())
    return found


def masked_calls(tensors: Sequence[torch.Tensor], places: set[int]) -> Iterator[list[torch.Tensor]]:
    """Yield the call with rows masked out: twice where a mask is boolean, which may mark what is used or not."""
    places = {place for place in places if _is_mask(tensors[place])}
    if not places:
        return
    for value in (False, True) if any(tensors[place].dtype is torch.bool for place in places) else (False,):
        yield [_mask_rows(tensor, value) if place in places else tensor for place, tensor in enumerate(tensors)]


def _is_mask(tensor: torch.Tensor) -> bool:
    if tensor.ndim == 0 or tensor.numel() == 1:
        return False
    if tensor.is_floating_point():
        return bool(((tensor == 0) | (tensor <= _NEGATIVE)).all())
    return bool(((tensor == 0) | (tensor == 1)).all())


def _mask_rows(tensor: torch.Tensor, value: bool) -> torch.Tensor:  # noqa: FBT001 - the value that is written
    """Mask the first half of the rows (of the sequences, in a mask of padding), and of others all but the last key."""
    written: float = value
    if tensor.is_floating_point():
        written = min(float(tensor.min()), _NEGATIVE * 10)
    elif tensor.dtype is not torch.bool:
        written = 0
    masked = tensor.clone()
    masked[..., :-1] = written
    if masked.ndim > 1:
        masked[..., : masked.shape[-2] // 2, :] = written
    return masked
