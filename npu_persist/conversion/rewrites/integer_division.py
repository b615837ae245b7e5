"""Divide integers exactly.

The CPU plugin runs chains of element-wise integer operations in floating point: -7 // 2 gives -3, and
((16 - 1) // 2 + 1) * 2 gives 17. Subtracting the remainder first leaves nothing to round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

from npu_persist.conversion.dependence import inputs_by_node

if TYPE_CHECKING:
    import openvino as ov


def make_integer_divisions_exact(model: ov.Model) -> None:
    """Rewrite divisions of integers that depend on values; those that only compute shapes are right as they are."""
    depends_on = inputs_by_node(model)
    changed = False
    for operation in model.get_ordered_ops():
        is_integer = operation.get_type_name() == "Divide" and operation.get_element_type().is_integral_number()
        if not is_integer or not depends_on[operation.get_name()]:
            continue
        dividend, divisor = operation.input_value(0), operation.input_value(1)
        # The frontend writes rounding_mode="trunc" as a division and a conversion, and relies on the plugin's rounding.
        truncates = any(
            user.get_node().get_type_name() == "Convert" for user in operation.output(0).get_target_inputs()
        )
        remainder = ops.mod(dividend, divisor) if truncates else ops.floor_mod(dividend, divisor)
        operation.input(0).replace_source_output(ops.subtract(dividend, remainder).output(0))
        changed = True
    if changed:
        model.validate_nodes_and_infer_types()
