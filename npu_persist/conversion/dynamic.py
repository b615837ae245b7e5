"""`dynamic_shapes` as `torch.export` takes it, read into one bounded dimension an axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from torch.export import Dim
from torch.export.dynamic_shapes import _DimHint, _DimHintType

from npu_persist.bundle.graph_records import (
    DictNode,
    Dimension,
    ListNode,
    NamedTupleNode,
    Port,
    RecordNode,
    TensorNode,
    Tree,
    TupleNode,
)
from npu_persist.bundle.signature import read_symbol, size_of
from npu_persist.conversion.sizes import Symbol
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from npu_persist.conversion.call import Call

_UNBOUNDED = 1 << 31
"""From here on, an upper bound (a number near 2**63, or torch's own infinity) means none."""


@dataclass(frozen=True)
class Axes:
    """Which axes of which inputs are dynamic: by the input's index, the user's own Dim or hint for each axis."""

    dims: Mapping[int, Mapping[int, Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.dims.values())

    def shape(self, index: int, example: torch.Tensor) -> tuple[int | Dimension, ...]:
        """Return the shape of input `index`: the example's sizes, or a dimension where an axis is dynamic."""
        dims = self.dims.get(index, {})
        return tuple(_dimension(dims[axis]) if axis in dims else size for axis, size in enumerate(example.shape))


def axes_of(ports: Sequence[Port]) -> Axes:
    """Return the axes that a graph's inputs were made with."""
    roots: dict[str, Any] = {}

    def make(dimension: Dimension) -> Any:
        if dimension.name is None:
            return Dim.AUTO(min=dimension.min, max=dimension.max)
        factor, root, offset = read_symbol(dimension.name)
        if root not in roots:
            highest = None if dimension.max is None else (dimension.max - offset) // factor
            roots[root] = Dim(root, min=-((offset - dimension.min) // factor), max=highest)
        return roots[root] if (factor, offset) == (1, 0) else factor * roots[root] + offset

    return Axes(
        {
            index: {axis: make(size) for axis, size in enumerate(port.shape) if isinstance(size, Dimension)}
            for index, port in enumerate(ports)
        }
    )


def read_dynamic_shapes(spec: Any, call: Call) -> Axes:
    """Read the user's specification against the structure of the example call."""
    if spec is None:
        return Axes()
    trees = dict(call.arguments)
    if isinstance(spec, Mapping):
        entries = dict(spec)
    elif isinstance(spec, (tuple, list)) and len(spec) <= len(trees):
        entries = dict(zip(trees, spec, strict=False))
    else:
        raise UsageError(f"dynamic_shapes must be a dict or a tuple for the arguments {[*trees]}; got {spec!r}")
    for name in entries:
        if name not in trees:
            raise UsageError(f"dynamic_shapes names {name!r}; the example call has the arguments {[*trees]}")
    return Axes(dict(axes for name, entry in entries.items() for axes in _read(trees[name], entry, name, call)))


def _read(tree: Tree, entry: Any, where: str, call: Call) -> Iterator[tuple[int, dict[int, Any]]]:
    """Yield the index of each tensor and its dynamic axes."""
    if entry is None:
        return
    if isinstance(tree, TensorNode):
        yield tree.index, _read_tensor(call.tensors[tree.index], entry, where)
        return
    children: dict[Any, Tree]
    if isinstance(tree, (ListNode, TupleNode)):
        children = dict(enumerate(tree.items))
    elif isinstance(tree, DictNode):
        children = dict(tree.items)
    elif isinstance(tree, (NamedTupleNode, RecordNode)):
        children = dict(tree.fields)
    else:
        raise UsageError(f"dynamic_shapes of {where}: the example has no tensor there; got {entry!r}")
    given = dict(entry) if isinstance(entry, Mapping) else dict(zip(children, entry, strict=False))
    for key, part in given.items():
        if key not in children:
            raise UsageError(f"dynamic_shapes of {where}: no part {key!r} in the example, only {list(children)}")
        yield from _read(children[key], part, f"{where}.{key}", call)


def _read_tensor(tensor: torch.Tensor, entry: Any, where: str) -> dict[int, Any]:
    axes: dict[Any, Any] = {}
    if isinstance(entry, Mapping):
        axes = dict(entry)
    elif isinstance(entry, (tuple, list)):
        axes = dict(enumerate(entry))
    is_axes = isinstance(entry, (Mapping, tuple, list))
    if not is_axes or not all(type(axis) is int and -tensor.ndim <= axis < tensor.ndim for axis in axes):
        raise UsageError(
            f"dynamic_shapes of {where}: expected axes of a tensor with shape {list(tensor.shape)}; got {entry!r}"
        )
    for axis, dim in axes.items():
        _check_example(dim, tensor.shape[axis], f"{where}, axis {axis}")
    return {axis % tensor.ndim: dim for axis, dim in axes.items() if not _is_static(dim)}


def _is_static(dim: Any) -> bool:
    return dim is None or isinstance(dim, int) or (isinstance(dim, _DimHint) and dim.type is _DimHintType.STATIC)


def _check_example(dim: Any, size: int, where: str) -> None:
    if isinstance(dim, bool) or not (dim is None or isinstance(dim, (int, Dim, _DimHint))):
        raise UsageError(
            f"dynamic_shapes of {where}: expected a torch.export.Dim, Dim.AUTO, an int or None; got {dim!r}"
        )
    if isinstance(dim, int):
        if dim != size:
            raise UsageError(f"dynamic_shapes of {where} fixes {dim}; the example has {size}")
    elif not _is_static(dim):
        bounds = _dimension(dim)
        if size < bounds.min or (bounds.max is not None and size > bounds.max):
            raise UsageError(
                f"dynamic_shapes of {where}: the example has {size}, outside of {bounds.min} to {bounds.max}"
            )


def _dimension(dim: Any) -> Dimension:
    if isinstance(dim, _DimHint):
        low, high = getattr(dim, "min", None), getattr(dim, "max", None)
        return Dimension(None, int(low or 0), None if high is None or high >= _UNBOUNDED else int(high))
    low, high = dim.min, dim.max
    return Dimension(_symbol(dim), int(low), None if high >= _UNBOUNDED else int(high))


def _symbol(dim: Any) -> str:
    """Return a Dim's name; for one derived from another, always in the form `2*batch+1`."""
    root = getattr(dim, "root", None)
    if root is None:
        return str(dim.__name__)
    offset = int(dim.fn(0))
    factor = int(dim.fn(1)) - offset
    return f"{factor}*{root.__name__}" + (f"{offset:+d}" if offset else "")


def input_ports(call: Call, axes: Axes) -> tuple[Port, ...]:
    """Return the inputs that the graph of a call will have."""
    return tuple(
        Port(name, cast("Any", str(tensor.dtype).removeprefix("torch.")), axes.shape(index, tensor))
        for index, (name, tensor) in enumerate(zip(call.input_names, call.tensors, strict=True))
    )


def to_export_shapes(call: Call, axes: Axes) -> Any:
    """Return the specification for `torch.export.export` of the wrapped call, whose arguments are all tensors."""
    if not axes:
        return None
    return {"tensors": tuple(dict(axes.dims.get(index, {})) or None for index in range(len(call.tensors)))}


def find_symbols(call: Call, axes: Axes) -> dict[str, Symbol]:
    """Return the sizes that may vary, by name; axes without a name are one if they are equal in the example."""
    found: dict[str, Symbol] = {}
    for index, tensor in enumerate(call.tensors):
        for axis, dimension in enumerate(axes.shape(index, tensor)):
            if not isinstance(dimension, Dimension):
                continue
            name = _unnamed(tensor.shape[axis]) if dimension.name is None else dimension.name
            factor, root, offset = (1, name, 0) if dimension.name is None else read_symbol(name)
            found.setdefault(
                root,
                Symbol(
                    (tensor.shape[axis] - offset) // factor,
                    max(-((offset - dimension.min) // factor), 1),
                    None if dimension.max is None else (dimension.max - offset) // factor,
                ),
            )
    return found


def resize_to(call: Call, axes: Axes, sizes: Mapping[str, int]) -> list[torch.Tensor] | None:
    """Return the example's tensors with each symbol at a size, or None where the bounds forbid it."""
    wanted_shapes: list[tuple[int, ...]] = []
    for index, tensor in enumerate(call.tensors):
        wanted_shape: list[int] = []
        for axis, dimension in enumerate(axes.shape(index, tensor)):
            if isinstance(dimension, int):
                wanted_shape.append(dimension)
                continue
            name = dimension.name
            wanted = sizes[_unnamed(tensor.shape[axis])] if name is None else size_of(name, sizes)
            if wanted is None or wanted < dimension.min or (dimension.max is not None and wanted > dimension.max):
                return None
            wanted_shape.append(wanted)
        wanted_shapes.append(tuple(wanted_shape))
    return resize(call.tensors, wanted_shapes)


def _unnamed(size: int) -> str:
    """Return the name for an axis without one: Dim.AUTO leaves it to torch which axes are equal."""
    return f"the axis of {size}"


def resize(tensors: Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...] | None]) -> list[torch.Tensor]:
    """Return tensors of other shapes, None for the same: repeated or cut, so that values stay in their range.

    What is empty in the example becomes ones, or zeros of integers.
    """
    resized = []
    for tensor, shape in zip(tensors, shapes, strict=True):
        other = tensor
        for axis, (size, wanted) in enumerate(zip(tensor.shape, shape or tensor.shape, strict=True)):
            repeats = [1] * tensor.ndim
            repeats[axis] = -(-wanted // max(size, 1))
            if size == 0 != wanted:
                other = other.new_full((*other.shape[:axis], 1, *other.shape[axis + 1 :]), tensor.is_floating_point())
            other = other.repeat(repeats).narrow(axis, 0, wanted) if wanted != size else other
        resized.append(other.clone())
    return resized
