"""Truncate floats as floats: `div(rounding_mode="trunc")` goes through 32-bit integers, which end at 2^31."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov


def truncate_in_float(model: ov.Model) -> None:
    """Rewrite conversions of floats to integers and back."""
    changed = False
    for back in model.get_ordered_ops():
        there = back.input_value(0).get_node() if back.get_type_name() in {"Convert", "ConvertLike"} else back
        is_pair = there.get_type_name() == "Convert" and there.get_element_type().is_integral_number()
        if not is_pair or back is there or not back.get_element_type().is_real():
            continue
        value = there.input_value(0)
        if value.get_element_type() == back.get_element_type():
            whole = ops.multiply(ops.sign(value), ops.floor(ops.abs(value)))
            whole.set_friendly_name(back.get_friendly_name())
            back.output(0).replace(whole.output(0))
            changed = True
    if changed:
        model.validate_nodes_and_infer_types()
