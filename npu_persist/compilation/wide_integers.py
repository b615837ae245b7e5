"""Constants beyond int32, clamped to it before a graph is compiled, as OpenVINO's plugins do.

OpenVINO 2026.4's CPU plugin reads the constants again when it imports a blob without weights, and cuts off what is
beyond int32: of the end of `x[:, 1:]`, 2^63 - 1, it makes -1, another slice. What is clamped here is a constant
of the blob's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov

_WIDE = frozenset({"i64", "u64", "u32"})
_LIMITS = np.iinfo(np.int32)
_BODIES = {"If": ("get_then_body", "get_else_body"), "Loop": ("get_function",), "TensorIterator": ("get_function",)}


def clamp_integers(model: ov.Model) -> None:
    """Clamp the constants of a graph, and of its bodies, that are beyond int32."""
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        for body in _BODIES.get(kind, ()):
            clamp_integers(getattr(operation, body)())
        if kind != "Constant" or operation.get_element_type().get_type_name() not in _WIDE:
            continue
        values = operation.data
        if not values.size or (values.min() >= _LIMITS.min and values.max() <= _LIMITS.max):
            continue
        low = _LIMITS.min if values.dtype.kind == "i" else 0
        clamped = ops.constant(np.clip(values, low, _LIMITS.max), operation.get_element_type())
        clamped.set_friendly_name(operation.get_friendly_name())
        for user in operation.output(0).get_target_inputs():
            user.replace_source_output(clamped.output(0))
