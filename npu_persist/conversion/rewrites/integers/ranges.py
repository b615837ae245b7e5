"""Which values an integer in a graph can have, as far as that follows from constants, types and sizes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov

if TYPE_CHECKING:
    from collections.abc import Callable

_DEPTH = 100
"""Operations that are looked through; beyond them a value may be anything."""
_EXACT = 2**24
"""Up to here float32 holds every integer."""


class Range(NamedTuple):
    """Smallest and largest value, both inclusive."""

    low: int
    high: int

    @property
    def magnitude(self) -> int:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def is_small(self) -> bool:
        """Whether arithmetic in float32 is exact as long as results are small, too, and comparisons are always."""
        return self.magnitude < _EXACT

    def is_in(self, other: Range) -> bool:
        """Whether all values are in another range."""
        return self.low >= other.low and self.high <= other.high


INT32 = Range(-(2**31), 2**31 - 1)
SIZE = Range(0, _EXACT - 1)
"""A size of an axis; a tensor of more elements along one axis does not occur."""
_TYPES = {
    "boolean": Range(0, 1),
    "u8": Range(0, 255),
    "i8": Range(-128, 127),
    "i16": Range(-(2**15), 2**15 - 1),
    "u16": Range(0, 2**16 - 1),
}


def type_range(element_type: ov.Type) -> Range:
    """Return what a type can hold; int64 runs as int32."""
    return _TYPES.get(element_type.get_type_name(), INT32)


class Ranges:
    """The ranges of the integers in one graph, found as they are asked for.

    Args:
        of_sizes: Whether what is asked for are sizes: no arithmetic on them leaves int32.
    """

    def __init__(self, *, of_sizes: bool = False) -> None:
        self._of_sizes = of_sizes
        self._known: dict[tuple[str, int], Range] = {}

    def of(self, output: ov.Output, depth: int = 0) -> Range:
        """Return the range of an operation's output."""
        node = output.get_node()
        key = (node.get_name(), output.get_index())
        if key in self._known:
            return self._known[key]
        bounds = type_range(output.get_element_type())
        find = _RULES.get(node.get_type_name())
        if find is None or depth > _DEPTH or output.get_element_type().is_real():
            return bounds
        found = find(output, lambda source: self.of(source, depth + 1))
        if found is None:
            found = bounds
        elif self._of_sizes:
            found = Range(max(found.low, bounds.low), min(found.high, bounds.high))
        elif not found.is_in(bounds):  # it wraps around: then anything is possible
            found = bounds
        self._known[key] = found
        return self._known[key]


def axis_size(output: ov.Output, axis: int) -> int | None:
    """Return a size that is known."""
    shape = output.get_partial_shape()
    if shape.rank.is_dynamic or shape[axis].is_dynamic:
        return None
    return int(shape[axis].get_length())


def constant_value(output: ov.Output) -> np.ndarray[Any, Any] | None:
    """Return the values of a constant, also behind a conversion between integers."""
    node = output.get_node()
    while node.get_type_name() == "Convert" and node.input_value(0).get_element_type().is_integral():
        node = node.input_value(0).get_node()
    return np.asarray(node.data) if node.get_type_name() == "Constant" else None


def _constant(output: ov.Output, _: Any) -> Range | None:
    data = np.asarray(output.get_node().data)
    return Range(int(data.min()), int(data.max())) if data.size else Range(0, 0)


def _size(output: ov.Output, _: Any) -> Range:
    shape = output.get_node().input_value(0).get_partial_shape()
    if shape.rank.is_dynamic or not len(shape):
        return SIZE
    lowest = min(axis.get_min_length() for axis in shape)
    return Range(lowest, SIZE.high if shape.is_dynamic else max(axis.get_length() for axis in shape))


def _position(output: ov.Output, _: Any) -> Range:
    """An index of an element along an axis."""
    del output
    return SIZE


def _same(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    """Move the first input's values."""
    return of(output.get_node().input_value(0))


def _convert(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    source = output.get_node().input_value(0)
    return None if source.get_element_type().is_real() else of(source)


def _union(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    """Mix the values of all inputs."""
    return _join([of(source) for source in output.get_node().input_values()])


def _select(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    return _join([of(source) for source in output.get_node().input_values()[1:]])


def _pad(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    sources = output.get_node().input_values()
    return _join([of(sources[0]), of(sources[3]) if len(sources) > 3 else Range(0, 0)])  # noqa: PLR2004


def _scatter(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    node = output.get_node()
    if node.get_attributes().get("reduction", "none") not in {"none", "min", "max"}:
        return None
    return _join([of(node.input_value(0)), of(node.input_value(2))])


def _one_hot(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    return _join([of(source) for source in output.get_node().input_values()[2:]])


def _binary(function: Callable[[int, int], int]) -> Callable[[Any, Any], Range | None]:
    """Return the rule of a function that is monotonic in each argument, in either direction."""

    def find(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
        first, second = (of(source) for source in output.get_node().input_values())
        values = [function(a, b) for a, b in itertools.product(first, second)]
        return Range(min(values), max(values))

    return find


def _clamp(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    attributes = output.get_node().get_attributes()
    low, high = (int(min(max(attributes[name], INT32.low), INT32.high)) for name in ("min", "max"))
    first = of(output.get_node().input_value(0))
    return Range(min(max(first.low, low), high), min(max(first.high, low), high))


def _abs(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    return Range(0, of(output.get_node().input_value(0)).magnitude)


def _relu(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    first = of(output.get_node().input_value(0))
    return Range(max(first.low, 0), max(first.high, 0))


def _modulo(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    """Stay below the divisor, with its sign or the dividend's."""
    first, second = (of(source) for source in output.get_node().input_values())
    largest = min(max(second.magnitude - 1, 0), max(first.magnitude, second.magnitude))
    signs = second if output.get_node().get_type_name() == "FloorMod" else first
    return Range(-largest if signs.low < 0 else 0, largest if signs.high > 0 else 0)


def _divide(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    first = of(output.get_node().input_value(0))
    second = of(output.get_node().input_value(1))
    if second.low > 0:
        return Range(min(first.low, 0), max(first.high, 0))
    return Range(-first.magnitude, first.magnitude)


def _bitwise_and(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    highest = [found.high for source in output.get_node().input_values() if (found := of(source)).low >= 0]
    return Range(0, min(highest)) if highest else None


def _matmul(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    node = output.get_node()
    first, second = node.input_value(0), node.input_value(1)
    attributes = node.get_attributes()
    is_vector = first.get_partial_shape().rank == ov.Dimension(1)
    inner = axis_size(first, -2 if attributes["transpose_a"] and not is_vector else -1)
    if inner is None:
        return None
    largest = of(first).magnitude * of(second).magnitude * inner
    return Range(-largest, largest)


def _product_of_sizes(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    first = of(output.get_node().input_value(0))
    return Range(0, INT32.high) if first.low >= 0 else None


def _sum(output: ov.Output, of: Callable[[Any], Range]) -> Range | None:
    node = output.get_node()
    axes = constant_value(node.input_value(1))
    if axes is None:
        return None
    count = 1
    for axis in axes.ravel().tolist() if node.get_type_name() == "ReduceSum" else [axes.item()]:
        size = axis_size(node.input_value(0), axis)
        if size is None:
            return None
        count *= size
    first = of(node.input_value(0))
    return Range(min(first.low, 0) * count, max(first.high, 0) * count)


MOVES = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Broadcast", "Tile", "Slice", "StridedSlice", "Gather", "Roll"}
    | {"GatherElements", "GatherND", "Split", "VariadicSplit", "ReduceMax", "ReduceMin", "Reverse", "ReverseSequence"}
    | {"Floor", "Ceiling", "Round", "Unique"}
)
"""Operations that give values of their first input."""
_RULES: dict[str, Callable[[Any, Any], Range | None]] = {
    "Constant": _constant,
    "ShapeOf": _size,
    "NonZero": _position,
    "TopK": lambda output, of: _position(output, of) if output.get_index() else _same(output, of),
    "Convert": _convert,
    **dict.fromkeys(MOVES, _same),
    "Concat": _union,
    "Select": _select,
    "Range": _union,
    "Pad": _pad,
    "ScatterUpdate": _scatter,
    "ScatterNDUpdate": _scatter,
    "ScatterElementsUpdate": _scatter,
    "OneHot": _one_hot,
    "Add": _binary(lambda a, b: a + b),
    "Subtract": _binary(lambda a, b: a - b),
    "Multiply": _binary(lambda a, b: a * b),
    "Maximum": _binary(max),
    "Minimum": _binary(min),
    "Clamp": _clamp,
    "Abs": _abs,
    "Relu": _relu,
    "Mod": _modulo,
    "FloorMod": _modulo,
    "Divide": _divide,
    "BitwiseAnd": _bitwise_and,
    "ReduceSum": _sum,
    "CumSum": _sum,
    "MatMul": _matmul,
    "ReduceProd": _product_of_sizes,
    "Sign": lambda *_: Range(-1, 1),
}
"""Rules by the kind of operation: from an output, and the ranges of other outputs, to its range."""


def _join(ranges: list[Range]) -> Range:
    return Range(min(found.low for found in ranges), max(found.high for found in ranges))
