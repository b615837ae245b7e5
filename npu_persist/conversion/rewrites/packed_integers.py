"""Two integers of 4 bits in a byte, as NNCF packs the weights of torch modules, become OpenVINO's own 4-bit constants.

The frontend knows `stack([w & 15, w >> 4])` by its shift, which is decomposed here. Otherwise the weights would be
unpacked at conversion, and stored as floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino import opset13 as ops

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOW, _STEP, _ZERO = 15, 16, 8
"""What masks the low half, what the high half is divided by, and what NNCF adds to signed integers."""


def keep_packed_integers(model: ov.Model) -> None:
    """Replace what unpacks a constant by a constant of 4 bits."""
    for stack in model.get_ordered_ops():
        packed = _find_packed(stack)
        if packed is None:
            continue
        last, kind = _find_signed(stack) or stack, ov.Type.u4
        data = packed.data.reshape(-1)
        if last is not stack:
            kind, data = ov.Type.i4, data ^ (_ZERO << 4 | _ZERO)
        reshape = _only_user(last, "Reshape")
        last = last if reshape is None or reshape.get_output_partial_shape(0).is_dynamic else reshape
        tensor = ov.Tensor(kind, last.get_output_shape(0))
        tensor.data.reshape(-1).view(np.uint8)[:] = data
        constant = ov.op.Constant(tensor)
        constant.set_friendly_name(packed.get_friendly_name() if kind == ov.Type.u4 else last.get_friendly_name())
        for user in last.output(0).get_target_inputs():
            is_conversion = user.get_node().get_type_name() == "Convert"
            source = constant if is_conversion else ops.convert(constant, last.get_element_type())
            user.replace_source_output(source.output(0))


def _find_packed(stack: ov.Node) -> ov.Node | None:
    """Return the constant of which a node stacks the low and the high halves, on a new last axis."""
    if stack.get_type_name() != "Concat" or stack.get_output_partial_shape(0).is_dynamic:
        return None
    rank = len(stack.get_output_shape(0))
    halves = [source.get_node() for source in stack.input_values()]
    if stack.get_attributes()["axis"] not in {-1, rank - 1} or stack.get_output_shape(0)[-1] != len("lh"):
        return None
    if any(half.get_type_name() != "Unsqueeze" or _value(half.input_value(1)) not in {-1, rank - 1} for half in halves):
        return None
    low, high = (half.input_value(0).get_node() for half in halves)
    if high.get_type_name() == "Floor":
        high = high.input_value(0).get_node()
    if low.get_type_name() != "BitwiseAnd" or high.get_type_name() != "Divide":
        return None
    packed, other = (one.input_value(0).get_node() for one in (low, high))
    is_one = packed.get_name() == other.get_name() and packed.get_type_name() == "Constant"
    if not is_one or packed.get_element_type() != ov.Type.u8:
        return None
    return packed if (_value(low.input_value(1)), _value(high.input_value(1))) == (_LOW, _STEP) else None


def _find_signed(stack: ov.Node) -> ov.Node | None:
    """Return what makes the integers signed, if that follows: a conversion to int8 and a subtraction of 8."""
    conversion = _only_user(stack, "Convert")
    if conversion is None or conversion.get_element_type() != ov.Type.i8:
        return None
    subtraction = _only_user(conversion, "Subtract")
    return subtraction if subtraction is not None and _value(subtraction.input_value(1)) == _ZERO else None


def _only_user(node: ov.Node, kind: str) -> ov.Node | None:
    users: Sequence[ov.Input] = [*node.output(0).get_target_inputs()]
    found = users[0].get_node() if len(users) == 1 else None
    return found if found is not None and found.get_type_name() == kind and users[0].get_index() == 0 else None


def _value(output: ov.Output) -> float | None:
    """Return the number that a scalar of constants is."""
    node = output.get_node()
    match node.get_type_name():
        case "Constant" if np.size(node.data) == 1:
            return float(node.data.reshape(-1)[0])
        case "Convert" | "ConvertLike":
            return _value(node.input_value(0))
        case "Multiply":
            factors = [_value(source) for source in node.input_values()]
            return None if None in factors else float(np.prod(factors))  # type: ignore[arg-type]
        case _:
            return None
