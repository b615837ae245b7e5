"""`aten::cumsum` and `aten::prod`, which give int64 for every type of integer; OpenVINO's frontend keeps the type."""

from __future__ import annotations

from typing import Any

import numpy as np
from openvino import opset13 as ops

from npu_persist.conversion.rewrites.aten_diff import is_none

_DTYPES = {0: "u8", 1: "i8", 2: "i16", 3: "i32", 4: "i64", 5: "f16", 6: "f32", 7: "f64", 11: "boolean", 15: "bf16"}
"""OpenVINO's types by torch's number of a dtype."""


def convert_cumsum(context: Any) -> list[Any]:
    """Return the running sums along an axis."""
    axis = np.array(context.get_values_from_const_input(1), np.int64)
    return [ops.cum_sum(_promote(context, 2), ops.constant(axis)).output(0)]


def convert_prod(context: Any) -> list[Any]:
    """Return the product of all elements, or of those along an axis."""
    if context.get_input_size() <= 2:  # noqa: PLR2004 - prod(x, dtype)
        flat = ops.reshape(_promote(context, 1), ops.constant(np.array([-1], np.int64)), special_zero=False)
        return [ops.reduce_prod(flat, ops.constant(np.array([0], np.int64)), keep_dims=False).output(0)]
    axis = np.array([context.get_values_from_const_input(1)], np.int64)
    is_kept = bool(context.get_values_from_const_input(2))
    return [ops.reduce_prod(_promote(context, 3), ops.constant(axis), keep_dims=is_kept).output(0)]


def _promote(context: Any, dtype: int) -> Any:
    """Return the first input as the type in which torch computes: that of an argument, or int64 for integers."""
    x = context.get_input(0)
    if context.get_input_size() > dtype and not is_none(context, dtype):
        return ops.convert(x, _DTYPES[int(context.get_values_from_const_input(dtype))])
    kind = x.get_element_type()
    return ops.convert(x, "i64") if kind.is_static() and kind.is_integral() else x
