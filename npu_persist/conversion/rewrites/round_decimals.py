"""`aten::round`, whose `decimals` OpenVINO's frontend ignores."""

from __future__ import annotations

from typing import Any

import numpy as np
from openvino import opset13 as ops


def convert_round(context: Any) -> list[Any]:
    """Round half to even, to a number of decimals."""
    x = context.get_input(0)
    if x.get_element_type().is_static() and x.get_element_type().is_integral():
        return [x]
    decimals = int(context.get_values_from_const_input(1)) if context.get_input_size() > 1 else 0
    if decimals == 0:
        return [ops.round(x, "half_to_even").output(0)]
    power = ops.convert_like(ops.constant(np.float32(10.0 ** abs(decimals))), x)
    there, back = (ops.multiply, ops.divide) if decimals > 0 else (ops.divide, ops.multiply)
    return [back(ops.round(there(x, power), "half_to_even"), power).output(0)]
