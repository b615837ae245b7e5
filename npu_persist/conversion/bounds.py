"""Which values an integer input may have, where the graph uses it as an index.

torch raises for an index out of range; OpenVINO returns a wrong result. An index is followed from the operation to
the graph's inputs through operations that keep all of its values, so that a loaded model can refuse a value before it
runs. What is noted is necessary: it never refuses what torch takes. Where only a part of an input is the index, where a
branch uses it, or where the size is a dynamic axis, nothing is noted; `rewrites.index_guards` keeps those in range.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.bundle.graph_records import Bounds

if TYPE_CHECKING:
    import openvino as ov

_NOTE = "npu_persist_bounds"
_KEEP_VALUES = frozenset(
    {"Convert", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Broadcast", "Tile", "ReverseSequence", "Roll"}
)
"""Operations whose result has all values of their first operand, and no others."""
_FROM_END = frozenset({"index", "index_put", "index_put_", "index_fill", "index_copy", "select"})
"""torch operations for which -1 is the last element, or that others are made of for which it is; the rest refuse it."""
_WRAPS = frozenset({"take_along_dim"})
"""torch operations that take every index."""
_OPERANDS = {
    "Gather": (1, 2),
    "GatherElements": (1, None),
    "ScatterElementsUpdate": (1, 3),
    "EmbeddingBagOffsets": (1, 0),
    "EmbeddingBagPacked": (1, 0),
    "EmbeddingBagOffsetsSum": (1, 0),
    "EmbeddingBagPackedSum": (1, 0),
}


def note_bounds(operation: Any, kind: str, *, index: ov.Output | None = None, size: Any = None) -> None:
    """Note at the inputs that an operation's indices come from which values they may have.

    Args:
        operation: An operation that has an index.
        kind: Its type.
        index: The index, where it is not the operation's own operand any more.
        size: The size of what it points into, with `index`.
    """
    function = torch_operation(operation.get_friendly_name())
    if function in _WRAPS:
        return
    if kind == "ScatterNDUpdate":
        _note_each(operation, function)
        return
    if kind == "OneHot":
        depth = operation.input_value(1).get_node()
        high = int(depth.data.reshape(-1)[0]) - 1 if depth.get_type_name() == "Constant" else None
        _follow(operation.input_value(0), 0, high)
        return
    if index is None:
        if kind not in _OPERANDS:
            return
        index = operation.input_value(_OPERANDS[kind][0])
        size = _indexed_size(operation, kind)
    if size is not None and size.is_static and size.get_length():
        length = size.get_length()
        _follow(index, -length if function in _FROM_END else 0, length - 1)


def read_bounds(parameter: Any) -> Bounds | None:
    """Return what was noted at an input."""
    notes = parameter.get_rt_info()
    if _NOTE not in notes:
        return None
    low, high = (int(text) if text else None for text in str(notes[_NOTE].astype(str)).split(","))
    return Bounds(low, high)


def torch_operation(name: str) -> str:
    """Return the torch operation that the frontend made a layer for, by the layer's name.

    >>> torch_operation("__module.a/aten::index_put_/Add"), torch_operation("index/aten.index.Tensor/Gather")
    ('index_put_', 'index')
    """
    found = re.findall(r"aten(?:::|\.)(\w+)", name)
    return str(found[-1]) if found else ""


def _indexed_size(operation: Any, kind: str) -> Any:
    axis_operand = _OPERANDS[kind][1]
    if axis_operand is None:
        axis = int(operation.get_attributes()["axis"])
    elif axis_operand == 0:
        axis = 0
    else:
        node = operation.input_value(axis_operand).get_node()
        if node.get_type_name() != "Constant":
            return None
        axis = int(node.data.reshape(-1)[0])
    shape = operation.input_value(0).get_partial_shape()
    return None if shape.rank.is_dynamic else shape[axis]


def _note_each(operation: Any, function: str) -> None:
    """Follow the indices of `x[i, j] = y`: the frontend's `(i + size) mod size`, one axis after the other."""
    if function not in _FROM_END:
        return
    shape, indices = operation.input_value(0).get_partial_shape(), operation.input_value(1).get_node()
    if shape.rank.is_dynamic:
        return
    parts = indices.input_values() if indices.get_type_name() == "Concat" else [operation.input_value(1)]
    for axis, part in enumerate(parts):
        node = part.get_node()
        while node.get_type_name() in {"Unsqueeze", "Reshape"}:
            node = node.input_value(0).get_node()
        if node.get_type_name() == "Mod" and torch_operation(node.get_friendly_name()) == function:
            total = node.input_value(0).get_node()
            if total.get_type_name() == "Add" and shape[axis].is_static and (size := shape[axis].get_length()):
                _follow(total.input_value(0), -size, size - 1)


def _follow(index: ov.Output, low: int | None, high: int | None) -> None:
    """Note at an input that its values are from `low` to `high`, if an index has exactly the input's values."""
    while True:
        node = index.get_node()
        kind = node.get_type_name()
        if kind == "Parameter":
            _note(node, low, high)
            return
        if kind in _KEEP_VALUES or (kind == "Slice" and _takes_all(node)):
            index = node.input_value(0)
        elif kind in {"Add", "Subtract"} and (constant := _constant_operand(node, kind)) is not None:
            index, added = constant
            # Of constants that differ only the widest bounds are necessary.
            low = None if low is None else low - int(added.max())
            high = None if high is None else high - int(added.min())
        else:
            return
        if not index.get_element_type().is_integral_number():
            return


def _takes_all(node: Any) -> bool:
    before, after = node.input_value(0).get_partial_shape(), node.get_output_partial_shape(0)
    return bool(before.is_static and before == after)


def _constant_operand(node: Any, kind: str) -> tuple[ov.Output, np.ndarray[Any, Any]] | None:
    """Return the operand that is no constant, and the constant that is added to it."""
    left, right = (_read_constant(source) for source in node.input_values())
    if right is not None and left is None and right.size:
        return node.input_value(0), right if kind == "Add" else -right
    if left is not None and right is None and left.size and kind == "Add":
        return node.input_value(1), left
    return None


def _read_constant(source: ov.Output) -> np.ndarray[Any, Any] | None:
    """Return the value of a constant, or of what the frontend makes of one: `c`, `Convert(c)`, `Multiply(c, c)`."""
    node = source.get_node()
    kind = node.get_type_name()
    if kind == "Constant":
        return np.asarray(node.data, np.int64) if node.get_element_type().is_integral_number() else None
    if kind in {"Convert", "ConvertLike"}:
        return _read_constant(node.input_value(0))
    if kind == "Multiply":
        left, right = (_read_constant(value) for value in node.input_values())
        return None if left is None or right is None else left * right
    return None


def _note(parameter: Any, low: int | None, high: int | None) -> None:
    known = read_bounds(parameter) or Bounds(None, None)
    lows = [value for value in (known.low, low) if value is not None]
    highs = [value for value in (known.high, high) if value is not None]
    low, high = max(lows, default=None), min(highs, default=None)
    if low is not None and high is not None and low > high:
        return  # nothing would be allowed, and the example was: what was followed is not what torch does
    parameter.get_rt_info()[_NOTE] = ",".join("" if value is None else str(value) for value in (low, high))
