"""Keep a small constant that is added for safety, as in `log(1 - p + 1e-9)`.

OpenVINO adds constants to each other first, 1 + 1e-9 is 1 in float32, and where p is 1 the logarithm is -inf. A maximum
with -inf in between, which changes nothing, keeps them apart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov

_LOST = 2.0**-20
"""A constant below this share of another loses digits in their sum."""
_SUMS, _SCALES = frozenset({"Add", "Subtract"}), frozenset({"Multiply", "Divide"})


def keep_small_constants(model: ov.Model) -> None:
    """Separate additions of scalars of which one would be lost in their sum."""
    for operation in model.get_ordered_ops():
        added, other = _constant(operation, _SUMS)
        if not added:
            continue
        value = operation.input_value(other)
        earlier = _earlier_constant(value)
        if earlier and abs(added) < _LOST * abs(earlier):
            lowest = ops.constant(-math.inf, operation.get_element_type())
            operation.input(other).replace_source_output(ops.maximum(lowest, value).output(0))


def _earlier_constant(value: ov.Output) -> float:
    """Return the constant that was added before, as it is after multiplications by others."""
    node, scale = value.get_node(), 1.0
    while (found := _constant(node, _SCALES))[0]:
        scale *= found[0] if node.get_type_name() == "Multiply" else 1 / found[0]
        node = node.input_value(found[1]).get_node()
    return scale * _constant(node, _SUMS)[0]


def _constant(operation: ov.Node, kinds: frozenset[str]) -> tuple[float, int]:
    """Return an operation's scalar constant, or 0, and the position of its other argument."""
    if operation.get_type_name() in kinds and operation.get_element_type().is_real():
        for index in (1, 0):
            value = read_scalar(operation.input_value(index).get_node())
            if value is not None:
                return value, 1 - index
    return 0.0, 0


def read_scalar(node: ov.Node) -> float | None:
    """Return the value of a scalar, None for anything else; the frontend writes `x + 1e-9` as `x + 1 * 1e-9`."""
    kind = node.get_type_name()
    if kind == "Constant" and math.prod(node.get_output_shape(0)) == 1:
        return float(np.ravel(node.get_data())[0])
    if kind in {"Convert", "ConvertLike"}:
        return read_scalar(node.input_value(0).get_node())
    if kind == "Multiply":
        factors = [read_scalar(source.get_node()) for source in node.input_values()]
        return None if None in factors else math.prod(factors)  # type: ignore[arg-type]
    return None
