"""Shape buckets: the sizes that a graph with open axes is compiled for, and how calls are padded to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.bundle.graph_records import Buckets, Dimension, Padding, allows
from npu_persist.bundle.signature import describe_bounds, describe_port, describe_values, read_symbol
from npu_persist.errors import DynamicShapeError, UsageError

if TYPE_CHECKING:
    from npu_persist.bundle.graph_records import Bounds, Port

Shapes = Mapping[str, tuple[int, ...]]
"""The sizes of the inputs that have open axes, by the input's name."""

SIDES = ("right", "left")


class OpenAxis(NamedTuple):
    """An axis of varying size: it is `factor * root + offset`."""

    axis: int
    bounds: Dimension
    factor: int
    root: str
    offset: int


def open_axes(port: Port) -> tuple[OpenAxis, ...]:
    """Return the axes of a port whose sizes vary; one without a name is a symbol of its own, called `x[0]`."""
    return tuple(
        OpenAxis(axis, size, *(read_symbol(size.name) if size.name is not None else (1, f"{port.name}[{axis}]", 0)))
        for axis, size in enumerate(port.shape)
        if isinstance(size, Dimension)
    )


def read_sizes(ports: Iterable[Port], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the size of each symbol, from the shapes of inputs that agree on it."""
    return {
        found.root: (shapes[port.name][found.axis] - found.offset) // found.factor
        for port in ports
        if port.name in shapes
        for found in open_axes(port)
    }


def resolve(inputs: Sequence[Port], buckets: object, padding: object = None) -> Buckets:
    """Return buckets with a shape for each input that has open axes, smallest first."""
    given = read_buckets(buckets)
    names = [port.name for port in inputs]
    for name in (name for bucket in given for name in bucket if name not in names):
        raise UsageError(f"buckets: expected one of the inputs {', '.join(names)}; got {name!r}")
    opened = [port for port in inputs if open_axes(port)]
    if not opened:
        raise DynamicShapeError(
            f"buckets: expected a graph with dynamic axes; got one whose inputs have fixed sizes: {_list(inputs)}. "
            "Load it without buckets, or persist it with buckets or dynamic_shapes, and with an example of another size"
        )
    shapes = sorted((_resolve_shapes(inputs, opened, bucket) for bucket in given), key=_order)
    for smaller, larger in pairwise(shapes):
        if smaller == larger:
            raise UsageError(f"buckets: expected buckets that differ; got {describe_shapes(larger)} twice")
    return Buckets(tuple(shapes), _resolve_padding(inputs, opened, padding))


def choose(buckets: Iterable[Shapes], shapes: Mapping[str, Sequence[int]]) -> Shapes | None:
    """Return the smallest bucket, by its elements, into which a call of these shapes fits; None if there is none."""
    fitting = (
        bucket
        for bucket in buckets
        if all(
            size <= limit for name, limits in bucket.items() for size, limit in zip(shapes[name], limits, strict=True)
        )
    )
    return min(fitting, key=_order, default=None)


def describe_shapes(shapes: Shapes) -> str:
    """Return a bucket as text.

    >>> describe_shapes({"ids": (1, 128), "mask": (1, 128)})
    'ids=1x128,mask=1x128'
    """
    return ",".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items())


def require_bounds(inputs: Iterable[Port], reference: str, device: str) -> None:
    """Check that no axis is without an upper bound, as a device wants that compiles for fixed sizes."""
    for port in inputs:
        for axis, bounds, *_ in open_axes(port):
            if bounds.max is None:
                name = f" ({bounds.name})" if bounds.name else ""
                example = ", ".join(
                    str(size) if isinstance(size, int) else str(size.max or max(size.min, 128)) for size in port.shape
                )
                raise DynamicShapeError(
                    f"{reference}: axis {axis}{name} of input {port.name} has no largest size ({describe_port(port)}), "
                    f"and {device} compiles for fixed sizes. Say for which, as in buckets=[{{{port.name!r}: "
                    f"({example})}}], when you load, compile or persist",
                    input=port.name,
                    axis=axis,
                )


def read_buckets(buckets: object) -> list[dict[str, tuple[int, ...]]]:
    """Return what a caller wrote as a list of buckets, whatever the graph."""
    if isinstance(buckets, (str, bytes, Mapping)) or not isinstance(buckets, Sequence) or not buckets:
        raise UsageError(f"buckets: {_EXPECTED}; got {buckets!r}")
    return [_check_bucket(bucket) for bucket in buckets]


_EXPECTED = 'expected a list of shapes by the name of the input, such as [{"input_ids": (1, 128)}]'


def _check_bucket(bucket: object) -> dict[str, tuple[int, ...]]:
    if not isinstance(bucket, Mapping) or not bucket:
        raise UsageError(f"buckets: {_EXPECTED}; got the bucket {bucket!r}")
    for name, shape in bucket.items():
        is_shape = isinstance(shape, (tuple, list)) and all(type(size) is int and size > 0 for size in shape)
        if not isinstance(name, str) or not is_shape:
            raise UsageError(f"buckets: {_EXPECTED}, sizes at least 1; got {name!r}: {shape!r}")
    return {name: tuple(shape) for name, shape in bucket.items()}


def _resolve_shapes(inputs: Sequence[Port], opened: Sequence[Port], bucket: Shapes) -> dict[str, tuple[int, ...]]:
    ports = {port.name: port for port in inputs}
    sizes: dict[str, int] = {}
    for name, shape in bucket.items():
        port = ports[name]
        if len(shape) != len(port.shape):
            raise UsageError(
                f"buckets: expected {len(port.shape)} sizes for {name}, which is {describe_port(port)}; got {shape}"
            )
        for axis, (wanted, size) in enumerate(zip(port.shape, shape, strict=True)):
            if isinstance(wanted, int) and size != wanted:
                raise _axis_error(port, axis, f"{wanted}, which is fixed", size)
        for axis, _, factor, root, offset in open_axes(port):
            known = sizes.setdefault(root, (shape[axis] - offset) // factor)
            if factor * known + offset != shape[axis]:
                raise _axis_error(port, axis, f"{factor * known + offset}, since {root} is {known}", shape[axis])
    return {port.name: _resolve_shape(port, sizes) for port in opened}


def _resolve_shape(port: Port, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = list(port.shape)
    for axis, bounds, factor, root, offset in open_axes(port):
        if root not in sizes:
            raise _axis_error(port, axis, f"a size: no other input of the bucket gives {root}", None)
        size = shape[axis] = factor * sizes[root] + offset
        if size < max(bounds.min, 1) or (bounds.max is not None and size > bounds.max):
            raise _axis_error(port, axis, f"{describe_bounds(bounds)}", size)
    return tuple(size for size in shape if isinstance(size, int))


def _axis_error(port: Port, axis: int, expected: str, got: int | None) -> DynamicShapeError:
    return DynamicShapeError(
        f"buckets: axis {axis} of {port.name}: expected {expected}; got {'none' if got is None else got}. The input is "
        f"{describe_port(port)}",
        input=port.name,
        axis=axis,
    )


def _resolve_padding(inputs: Sequence[Port], opened: Sequence[Port], padding: object) -> dict[str, Padding]:
    given: Mapping[Any, Any] = {} if padding is None else padding  # type: ignore[assignment]
    if not isinstance(given, Mapping):
        raise UsageError(f'padding: expected Padding by the name of the input, {{"ids": Padding(0)}}; got {padding!r}')
    ports = {port.name: port for port in opened}
    for name, one in given.items():
        if name not in ports:
            known = name in {port.name for port in inputs}
            got = f"{name!r}, whose sizes are all fixed" if known else repr(name)
            raise UsageError(f"padding: expected one of the inputs with open axes, {', '.join(ports)}; got {got}")
        _check_padding(ports[name], one)
    sides = _resolve_sides(opened, given)
    return {
        port.name: Padding(
            float(given[port.name].value) if port.name in given else _nearest_to_zero(port.bounds),
            sides[port.name],  # type: ignore[arg-type]
        )
        for port in opened
    }


def _nearest_to_zero(bounds: Bounds | None) -> float:
    if bounds is None or allows(bounds, 0):
        return 0.0
    return float(bounds.low if bounds.low is not None and bounds.low > 0 else bounds.high or 0)


def require_allowed_padding(inputs: Iterable[Port], buckets: Buckets) -> None:
    """Check that inputs are padded with values that they may have."""
    for port in inputs:
        padding = buckets.padding.get(port.name)
        if port.bounds is not None and padding is not None and not allows(port.bounds, padding.value):
            raise UsageError(
                f"padding of {port.name}: expected a value from {describe_values(port.bounds)}, since the model uses "
                f"it as an index; got {padding.value:g}. Give one, as in padding={{{port.name!r}: "
                f"Padding({_nearest_to_zero(port.bounds):g})}}"
            )


def _check_padding(port: Port, padding: object) -> None:
    if not isinstance(padding, Padding) or padding.side not in SIDES:
        raise UsageError(f'padding of {port.name}: expected Padding(value, side="right" or "left"); got {padding!r}')
    import numpy as np  # only where there is something to check

    value: Any = padding.value
    is_number = isinstance(value, (bool, int, float)) and math.isfinite(value)
    with np.errstate(all="ignore"):
        held = float(np.asarray(float(value)).astype(port.dtype)) if is_number else math.nan
    # A float type rounds, and that is as the module's own constants; beyond its range it holds infinity.
    if not math.isfinite(held) or (not port.dtype.startswith("float") and held != value):
        raise UsageError(f"padding of {port.name}: expected a number that {port.dtype} can hold; got {value!r}")


def _resolve_sides(opened: Sequence[Port], given: Mapping[str, Padding]) -> dict[str, str]:
    """Return the side of each input: axes that share a symbol are padded on the same side, or they would part."""
    sides: dict[str, str] = {}
    by_root: dict[str, tuple[str, str]] = {}

    def settle(port: Port, side: str) -> None:
        sides[port.name] = side
        for found in open_axes(port):
            other, origin = by_root.setdefault(found.root, (side, port.name))
            if other != side:
                raise UsageError(
                    f"padding: {port.name} is padded on the {side} and {origin} on the {other}, but axis {found.axis} "
                    f"of {port.name} is {found.root} of {origin}: both must be padded on the same side"
                )

    for port in opened:
        if port.name in given:
            settle(port, given[port.name].side)
    rest = [port for port in opened if port.name not in given]
    while rest:
        related = (port for port in rest if any(found.root in by_root for found in open_axes(port)))
        port = next(related, rest[0])
        rest.remove(port)
        known = (by_root[found.root][0] for found in open_axes(port) if found.root in by_root)
        settle(port, next(known, SIDES[0]))
    return sides


def _order(shapes: Shapes) -> tuple[int, Any]:
    return sum(math.prod(shape) for shape in shapes.values()), sorted(shapes.items())


def _list(inputs: Iterable[Port]) -> str:
    return ", ".join(f"{port.name} {describe_port(port)}" for port in inputs)
