"""The CPU plugin ends the process where an elementwise operation joins a group normalization with another's result.

Seen with OpenVINO 2026.4 in float32, for normalizations that fit the processor's L2 cache: `norm(x) + relu(y)`, and
`norm(x) * (1 + scale) + shift` of diffusion models. What an elementwise operation follows, works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov

_SHAPE_ONLY = {"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Convert"}
_JOINS = {
    "Add", "Divide", "Equal", "FloorMod", "Greater", "GreaterEqual", "Less", "LessEqual", "Maximum", "Minimum", "Mod",
    "Multiply", "NotEqual", "PRelu", "Power", "Select", "SquaredDifference", "Subtract", "Swish",
}  # fmt: skip


def follow_joined_group_norms(model: ov.Model) -> None:
    """Put a PRelu of slope 1 behind a group normalization that meets another value which is not constant.

    It changes no value, is computed together with what follows, and no pass of OpenVINO removes it.
    """
    changed = False
    for norm in model.get_ordered_ops():
        if norm.get_type_name() != "GroupNormalization" or not _is_joined(norm):
            continue
        users = norm.output(0).get_target_inputs()
        same = ops.prelu(norm, ops.constant([1.0], norm.get_element_type()))
        for user in users:
            user.replace_source_output(same.output(0))
        changed = True
    if changed:
        model.validate_nodes_and_infer_types()


def _is_joined(node: ov.Node) -> bool:
    for target in node.output(0).get_target_inputs():
        user = target.get_node()
        kind = user.get_type_name()
        if kind in _SHAPE_ONLY and _is_joined(user):
            return True
        if kind in _JOINS and sum(value.get_node().get_type_name() != "Constant" for value in user.input_values()) > 1:
            return True
    return False
