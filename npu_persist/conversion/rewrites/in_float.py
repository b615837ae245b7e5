"""Compute in float32 what a module computes in half precision; its large weights stay as they are.

NPUW and OpenVINO GenAI take models that generate in float32 only, as optimum-intel exports them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from npu_persist.conversion.rewrites.half_precision import BODIES

if TYPE_CHECKING:
    from collections.abc import Iterable

_HALVES = frozenset({ov.Type.f16, ov.Type.bf16})


def compute_in_float(model: ov.Model) -> None:
    """Make every half-precision tensor float32, by a conversion behind each weight that is no vector."""
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        for body in BODIES.get(kind, ()):
            compute_in_float(getattr(operation, body)())
        if kind == "Parameter" and operation.get_element_type() in _HALVES:
            operation.set_element_type(ov.Type.f32)
        elif kind == "Constant" and operation.get_element_type() in _HALVES:
            _connect(operation.output(0).get_target_inputs(), _widen(operation))
        elif kind == "Convert" and operation.get_output_element_type(0) in _HALVES:
            _connect(operation.output(0).get_target_inputs(), ops.convert(operation.input_value(0), ov.Type.f32))
    model.validate_nodes_and_infer_types()


_NOT_FOLDED = "DisableConstantFolding_0"
"""The attribute that keeps OpenVINO's passes from folding a conversion; its Python package has no name for it."""


def _connect(users: Iterable[Any], node: ov.Node) -> None:
    for user in users:
        user.replace_source_output(node.output(0))


def _widen(constant: ov.Node) -> ov.Node:
    """Return a float32 node with a constant's values: a vector itself, of anything larger a conversion."""
    values = constant.data
    if values.size != max(values.shape, default=1):
        wide = ops.convert(constant, ov.Type.f32)
        wide.get_rt_info()[_NOT_FOLDED] = True
        return wide
    if constant.get_element_type() == ov.Type.bf16:
        values = (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    wide = ops.constant(values.astype(np.float32))
    wide.set_friendly_name(constant.get_friendly_name())
    return wide
