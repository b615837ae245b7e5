"""`aten::diff(self, n, dim, prepend, append)`, which OpenVINO's PyTorch frontend has no conversion for."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def convert_diff(context: Any) -> list[Any]:
    """Return the differences of neighbours along an axis."""
    parts = [context.get_input(index) for index in (3, 0, 4) if index == 0 or not is_none(context, index)]
    times, axis = int(context.get_values_from_const_input(1)), int(context.get_values_from_const_input(2))
    value = ops.concat(parts, axis).output(0) if len(parts) > 1 else parts[0]
    for _ in range(times):
        step, axes = ops.constant([1]), ops.constant([axis])
        later = ops.slice(value, ops.constant([1]), ops.constant([np.iinfo(np.int64).max]), step, axes)
        earlier = ops.slice(value, ops.constant([0]), ops.constant([-1]), step, axes)
        value = ops.subtract(later, earlier).output(0)
    return [value]


def is_none(context: Any, index: int) -> bool:
    """Return whether an argument is None."""
    try:
        return context.get_values_from_const_input(index) is None
    except ov.frontend.GeneralFailure:  # raised for a tensor
        return False
