"""Take operations on tensors without elements out of the graph.

The CPU plugin divides by zero and ends the process where such a tensor is looked up, scattered, or goes through an LSTM
or GRU; a product over nothing is whatever is in memory. What has no elements is a constant; a product over nothing is
zero, and scattering nothing changes nothing. Where sizes vary, the plugin is right by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from openvino import opset13 as ops

if TYPE_CHECKING:
    import openvino as ov

_PRODUCTS = frozenset({"MatMul", "ScaledDotProductAttention"})
_SCATTERS = frozenset({"ScatterNDUpdate", "ScatterElementsUpdate", "ScatterUpdate"})
_KEPT = frozenset({"Parameter", "Constant", "Result"})


def remove_empty_tensors(model: ov.Model) -> None:
    """Replace what has no elements, and what is computed from nothing, by constants."""
    changed = False
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind in _KEPT:
            continue
        for output in operation.outputs():
            if _is_empty(output) and output.get_partial_shape().is_static:
                zeros = np.zeros(list(output.get_shape()), output.get_element_type().to_dtype())
                output.replace(ops.constant(zeros).output(0))
                changed = True
        sources = operation.input_values()
        if kind in _PRODUCTS and any(map(_is_empty, sources[:3])) and not _is_empty(operation.output(0)):
            _replace_by_zeros(operation, kind)
            changed = True
        elif kind in _SCATTERS and _is_empty(sources[1]):
            operation.output(0).replace(sources[0])
            changed = True
    if changed:
        model.validate_nodes_and_infer_types()


def _is_empty(output: ov.Output) -> bool:
    shape = output.get_partial_shape()
    return bool(shape.rank.is_static and any(axis.is_static and axis.get_length() == 0 for axis in shape))


def _replace_by_zeros(operation: Any, kind: str) -> None:
    output = operation.output(0)
    if output.get_partial_shape().is_static:
        shape = ops.constant(list(output.get_shape()))
    elif kind == "MatMul":  # which the plugin computes where sizes vary
        return
    else:
        query, value = (ops.shape_of(operation.input_value(index), "i64") for index in (0, 2))
        one, last, end = (ops.constant([number]) for number in (1, -1, np.iinfo(np.int64).max))
        rows = ops.slice(query, ops.constant([0]), last, one)
        shape = ops.concat([rows, ops.slice(value, last, end, one)], 0)
    zero = ops.constant(np.zeros([], output.get_element_type().to_dtype()))
    output.replace(ops.broadcast(zero, shape).output(0))
