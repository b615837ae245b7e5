"""log1p, expm1, softplus and log_sigmoid, with the small results that they are made for.

OpenVINO's frontend writes `log(1 + x)` and `exp(x) - 1`, which are 0 for small x; and the CPU plugin's SoftPlus is
noise around 0 for small results, so that its logarithm or square root is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov

_NOISY, _TERMS = -3.0, 6
"""Below this OpenVINO's softplus loses digits; the series has as many terms as float32 needs there."""
_EXACT = 16.0
"""From here on softplus is its argument, in float32."""


def convert_log1p(context: Any) -> list[Any]:
    """Return log(1 + x)."""
    return [_log1p(_as_float(context.get_input(0))).output(0)]


def convert_expm1(context: Any) -> list[Any]:
    """Return exp(x) - 1, as tanh(x / 2) * (exp(x) + 1)."""
    x = _as_float(context.get_input(0))
    return [ops.multiply(ops.tanh(ops.multiply(x, _like(0.5, x))), ops.add(ops.exp(x), _like(1, x))).output(0)]


def convert_softplus(context: Any) -> list[Any]:
    """Return log(1 + exp(beta * x)) / beta, or x where beta * x is above the threshold."""
    x = context.get_input(0)
    beta, threshold = float(context.get_values_from_const_input(1)), float(context.get_values_from_const_input(2))
    scaled = x if beta == 1 else ops.multiply(x, _like(beta, x)).output(0)
    result = _softplus(scaled)
    if beta != 1:
        result = ops.divide(result, _like(beta, x))
    if threshold < _EXACT:
        result = ops.select(ops.greater(scaled, _like(threshold, x)), x, result)
    return [result.output(0)]


def convert_log_sigmoid(context: Any) -> list[Any]:
    """Return log(sigmoid(x)), as -softplus(-x)."""
    return [ops.negative(_softplus(ops.negative(context.get_input(0)))).output(0)]


def _softplus(x: ov.Output) -> ov.Node:
    """Return OpenVINO's softplus or, where that is noise, the series of log(1 + exp(x)), which costs little."""
    small = ops.exp(x)
    series: ov.Node = _like(-1 / _TERMS, x)
    for power in range(_TERMS - 1, 0, -1):
        series = ops.add(ops.multiply(series, small), _like((-1) ** (power - 1) / power, x))
    return ops.select(ops.less(x, _like(_NOISY, x)), ops.multiply(series, small), ops.softplus(x))


def _log1p(x: ov.Output) -> ov.Node:
    """Return the logarithm of the rounded sum, corrected by what the sum lost."""
    # The maximum changes nothing; it keeps OpenVINO from fusing exp, add and log into SoftPlus, and 1 + x - 1 into x.
    total = ops.maximum(_like(-1, x), ops.add(x, _like(1, x)))
    logarithm, kept = ops.log(total), ops.subtract(total, _like(1, x))
    corrected = ops.add(logarithm, ops.divide(ops.subtract(x, kept), total))
    return ops.select(ops.equal(kept, x), logarithm, corrected)  # equal, too, where both are infinite


def _like(value: float, x: ov.Output) -> ov.Node:
    return ops.convert_like(ops.constant(np.float32(value)), x)


def _as_float(x: ov.Output) -> ov.Output:
    is_integer = x.get_element_type().is_static() and x.get_element_type().is_integral()
    return ops.convert(x, np.float32).output(0) if is_integer else x
