"""Find how the sizes of a graph's outputs follow from those of its inputs, by trying other sizes.

An output's axis gets a name (`n`, `2*n+1`, `(n+1)//2`: see `signature.size_of`) only if every size that was tried
agrees with it, the smallest and the largest among them; otherwise it has none.

OpenVINO knows the size of each output for given sizes of the inputs, but no formula for it. Convolutions, pooling,
concatenation and interpolation give steps of equal width and height, `factor * ((n + shift) // stride) + offset`: a
line, or two neighbouring steps, determine all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from npu_persist.bundle.buckets import open_axes, read_sizes
from npu_persist.bundle.graph_records import Dimension
from npu_persist.bundle.signature import describe_port, size_of, write_symbol
from npu_persist.errors import DynamicShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import openvino as ov

    from npu_persist.bundle.buckets import Shapes
    from npu_persist.bundle.graph_records import Port

    SizeOf = Callable[[int], "int | None"]


def name_outputs(
    model: ov.Model, inputs: Sequence[Port], outputs: Sequence[Port], buckets: Sequence[Shapes]
) -> tuple[Port, ...]:
    """Return the outputs of a graph, their open axes named after the inputs' or fixed where they never change."""
    if not any(isinstance(axis, Dimension) for port in outputs for axis in port.shape):
        return tuple(outputs)
    graph = _Graph(model, inputs)
    sizes = [read_sizes(inputs, bucket) for bucket in buckets]
    top = {root: max(one[root] for one in sizes) for root in sizes[0]}
    tried = {root: _tries(graph, top, root, {one[root] for one in sizes}) for root in top}
    return tuple(
        replace(
            port,
            shape=tuple(
                _relate(graph, top, tried, (index, axis), size) if isinstance(size, Dimension) else size
                for axis, size in enumerate(port.shape)
            ),
        )
        for index, port in enumerate(outputs)
    )


def find_unrelated(inputs: Sequence[Port], outputs: Sequence[Port]) -> tuple[Port, int] | None:
    """Return the first output, and axis, whose size does not follow from one of the inputs' open axes."""
    sizes = {found.root: 1 for port in inputs for found in open_axes(port)}
    for port in outputs:
        for axis, size in enumerate(port.shape):
            if isinstance(size, Dimension) and (size.name is None or size_of(size.name, sizes) is None):
                return port, axis
    return None


def require_related(inputs: Sequence[Port], outputs: Sequence[Port], reference: str) -> None:
    """Check that every output's size follows from one open axis of the inputs."""
    found = find_unrelated(inputs, outputs)
    if found is not None:
        port, axis = found
        opened = ", ".join(f"{one.name} axis {place.axis}" for one in inputs for place in open_axes(one))
        raise DynamicShapeError(
            f"{reference}: buckets: the size of axis {axis} of output {port.name} ({describe_port(port)}) does not "
            f"follow from one open axis of the inputs ({opened}), so what padding adds to it could not be cut off. "
            "Give axes that always have equal sizes one name (dynamic_shapes of persist), leave open fewer axes, or do "
            "without buckets",
            input=port.name,
            axis=axis,
        )


_ENOUGH = 2
"""Sizes beside the largest that a graph has to take, before anything is said of how its outputs follow."""


class _Graph:
    """The sizes of a graph's outputs, by the sizes of its inputs' symbols."""

    def __init__(self, model: ov.Model, inputs: Sequence[Port]) -> None:
        self._model = model.clone()
        self._inputs = inputs
        self._known: dict[tuple[tuple[str, int], ...], list[list[int | None]] | None] = {}
        bounds = {found.root: found.bounds.min for port in inputs for found in open_axes(port) if found.factor == 1}
        self.lowest = {root: max(lowest, 1) for root, lowest in bounds.items()}

    def outputs(self, sizes: Mapping[str, int]) -> list[list[int | None]] | None:
        """Return the shape of each output, None for a size that follows from values; None if the graph refuses."""
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            self._known[key] = self._ask(sizes)
        return self._known[key]

    def _ask(self, sizes: Mapping[str, int]) -> list[list[int | None]] | None:
        shapes: dict[int, list[int]] = {}
        for index, port in enumerate(self._inputs):
            shape = list(port.shape)
            for axis, _, factor, root, offset in open_axes(port):
                shape[axis] = factor * sizes[root] + offset
            shapes[index] = [size for size in shape if isinstance(size, int)]
        try:
            self._model.reshape(shapes)
        except RuntimeError:  # too small for a kernel, too long for a table of positions
            return None
        found = [port.get_partial_shape() for port in self._model.outputs]
        if any(shape.rank.is_dynamic for shape in found):
            return None
        return [[axis.get_length() if axis.is_static else None for axis in shape] for shape in found]


def _tries(graph: _Graph, top: Mapping[str, int], root: str, buckets: set[int]) -> list[int]:
    """Return sizes of one symbol, below the largest, that the graph takes."""
    high, low = top[root], graph.lowest.get(root, 1)
    # Some graphs take multiples of a power of two only.
    sizes = {low, low + 1, low + 2, high // 3, high // 2, *(high - (1 << bit) for bit in range(7)), *buckets}
    within = sorted(size for size in sizes if low <= size < high)
    taken = [size for size in within if graph.outputs({**top, root: size}) is not None]
    return taken if len(taken) >= min(_ENOUGH, len(within)) else []


def _relate(
    graph: _Graph,
    top: Mapping[str, int],
    tried: Mapping[str, Sequence[int]],
    place: tuple[int, int],
    unknown: Dimension,
) -> int | Dimension:
    """Return what an output's axis is: a size, a dimension with a name, or the dimension without one."""
    index, axis = place

    def size(sizes: Mapping[str, int]) -> int | None:
        shapes = graph.outputs(sizes)
        return None if shapes is None else shapes[index][axis]

    largest = size(top)
    if largest is None or any(not sizes and top[root] > graph.lowest.get(root, 1) for root, sizes in tried.items()):
        return replace(unknown, name=None)
    moving = [root for root, sizes in tried.items() if any(size({**top, root: n}) != largest for n in sizes)]
    if not moving:
        return largest
    name = None
    if len(moving) == 1:
        (root,) = moving
        name = _fit(root, lambda n: size({**top, root: n}), top[root], tried[root])
    return replace(unknown, name=name)


def _fit(root: str, size: SizeOf, high: int, tried: Sequence[int]) -> str | None:
    """Return the formula of a size that grows in equal steps with a symbol; None if it grows in another way."""
    low = tried[0]
    name = _line(root, size, low, high) or _steps(root, size, low, high)
    return name if name and all(size_of(name, {root: n}) == size(n) for n in (*tried, high)) else None


def _line(root: str, size: SizeOf, low: int, high: int) -> str | None:
    below, above = size(low), size(high)
    if below is None or above is None or above <= below or (above - below) % (high - low):
        return None
    factor = (above - below) // (high - low)
    return write_symbol(root, factor=factor, offset=above - factor * high)


def _steps(root: str, size: SizeOf, low: int, high: int) -> str | None:
    first = _last_other(size, low, high)
    if first is None:
        return None
    second = _last_other(size, low, first)
    above, at = size(high), size(first)
    if above is None or at is None:
        return None
    if second is None:  # one step in all the range: any stride that has no other there
        stride, factor = max(first - low + 1, high - first), above - at
    else:
        below = size(second)
        stride, factor = first - second, 0 if below is None else at - below
    shift = -(first + 1) % stride
    if factor <= 0:
        return None
    offset = at - factor * ((first + shift) // stride)
    return write_symbol(root, factor=factor, shift=shift, stride=stride, offset=offset)


def _last_other(size: SizeOf, low: int, high: int) -> int | None:
    """Return the largest number below `high` at which the size is another than at `high`; None if there is none."""
    wanted, step, same = size(high), 1, high
    while same > low:
        other = max(high - step, low)
        if size(other) != wanted:
            while same - other > 1:
                middle = (same + other) // 2
                same, other = (middle, other) if size(middle) == wanted else (same, middle)
            return other
        same, step = other, step * 2
    return None
