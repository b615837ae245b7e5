"""Keep NaN where that costs nothing.

The CPU plugin's maximum and minimum are their second argument where either is NaN; torch's are NaN. With a constant
first, which is never NaN, both agree. It converts NaN to False, where torch takes what is not zero for True. On a CPU
with AVX-512 its Greater and GreaterEqual are True of NaN, but Less and LessEqual are right.
"""

from __future__ import annotations

import openvino as ov
from openvino import opset13 as ops

_SWAPPED = {"Greater": ops.less, "GreaterEqual": ops.less_equal}


def keep_nan(model: ov.Model) -> None:
    """Put the constants of maxima and minima first, make booleans by comparing with zero, and compare by Less alone."""
    changed = False
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind in {"Maximum", "Minimum"} and operation.get_element_type().is_real():
            first, second = operation.input_value(0), operation.input_value(1)
            if _is_constant(second) and not _is_constant(first):
                operation.input(0).replace_source_output(second)
                operation.input(1).replace_source_output(first)
        elif kind == "Convert" and operation.get_element_type() == ov.Type.boolean:
            value = operation.input_value(0)
            if value.get_element_type().is_real():
                is_set = ops.not_equal(value, ops.constant(0.0, value.get_element_type()))
                is_set.set_friendly_name(operation.get_friendly_name())
                operation.output(0).replace(is_set.output(0))
                changed = True
        elif kind in _SWAPPED and operation.get_input_element_type(0).is_real():
            swapped = _SWAPPED[kind](operation.input_value(1), operation.input_value(0))
            swapped.set_friendly_name(operation.get_friendly_name())
            operation.output(0).replace(swapped.output(0))
            changed = True
    if changed:
        model.validate_nodes_and_infer_types()


def _is_constant(value: ov.Output) -> bool:
    node = value.get_node()
    while node.get_type_name() in {"Convert", "ConvertLike", "Reshape", "Unsqueeze"}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
