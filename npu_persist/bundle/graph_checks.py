"""The rules that relate the records of a graph to one another, which the schema cannot express."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.document import key_location, show
from npu_persist.bundle.graph_records import (
    DictNode,
    Dimension,
    ListNode,
    NamedTupleNode,
    RecordNode,
    TensorNode,
    TupleNode,
    allows,
    axis_bounds,
    below_axis,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from npu_persist.bundle.document import Problems
    from npu_persist.bundle.graph_records import Bounds, Buckets, Graph, Port, State, Tree


def check_graphs(graphs: tuple[Graph, ...], problems: Problems) -> None:
    """Check each graph, and that no two share a name or file."""
    if not graphs:
        problems.add("graphs", "expected at least one graph, got none")
    _check_unique((graph.name.lower() for graph in graphs), "graphs", "graph names", problems)
    _check_unique((graph.path for graph in graphs), "graphs", "graph paths", problems)
    for index, graph in enumerate(graphs):
        where = f"graphs[{index}]"
        if not graph.path.endswith(".xml"):
            problems.add(f"{where}.path", f"expected a path that ends in .xml, got {show(graph.path)}")
        for direction, ports in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            _check_unique((port.name for port in ports), f"{where}.{direction}", "names", problems)
            for number, port in enumerate(ports):
                _check_shape(port.shape, f"{where}.{direction}[{number}].shape", problems)
                if port.bounds is not None:
                    place = f"{where}.{direction}[{number}].bounds"
                    _check_bounds(port, port.bounds, place, problems, is_input=direction == "inputs")
        _check_signature(graph, f"{where}.signature", problems)
        if graph.buckets is not None:
            _check_buckets(graph, graph.buckets, f"{where}.buckets", problems)
        _check_states(graph, f"{where}.states", problems)


def _check_states(graph: Graph, where: str, problems: Problems) -> None:
    states = graph.states
    _check_unique((state.name for state in states), where, "names", problems)
    _check_unique((state.variable for state in states), where, "variables", problems)
    if states and graph.buckets is not None:
        problems.add(where, "expected no states in a graph with buckets, since each bucket would have its own")
    for number, state in enumerate(states):
        place = f"{where}[{number}]"
        _check_shape(state.shape, f"{place}.shape", problems)
        if len(state.first) != len(state.shape):
            problems.add(f"{place}.first", f"expected {len(state.shape)} sizes, got {len(state.first)}")
        for axis, (size, first) in enumerate(zip(state.shape, state.first, strict=False)):
            low, high = axis_bounds(size)
            if first is None and (isinstance(size, int) or size.name is None):
                problems.add(f"{place}.first[{axis}]", "expected a size, since the axis depends on no other; got null")
            elif first is not None and not low <= first <= high:
                problems.add(f"{place}.first[{axis}]", f"expected a size that the shape allows, got {first}")
        if state.initial is None and None in state.first:
            problems.add(f"{place}.initial", "expected a number, since the size is known at the first call; got null")
        if state.bounds is not None:
            _check_bounds(state, state.bounds, f"{place}.bounds", problems, is_input=True)
        growth = state.growth
        if growth is not None and (
            growth.axis >= len(state.first)
            or isinstance(state.shape[growth.axis], int)
            or state.first[growth.axis] is None
        ):
            problems.add(f"{place}.growth.axis", f"expected an open axis with a first size, got {growth.axis}")


def _check_shape(shape: tuple[int | Dimension, ...], where: str, problems: Problems) -> None:
    for axis, size in enumerate(shape):
        if isinstance(size, Dimension) and size.max is not None and size.max < size.min:
            problems.add(f"{where}[{axis}].max", f"expected at least min, {size.min}, got {size.max}")


def _check_bounds(port: Port | State, bounds: Bounds, where: str, problems: Problems, *, is_input: bool) -> None:
    low, high = bounds.low, bounds.high
    if not is_input or "int" not in port.dtype:
        problems.add(where, f"expected bounds of an integer input only, got those of {port.dtype} {show(port.name)}")
    elif low is None and high is None:
        problems.add(where, "expected low or high, got neither")
    elif bounds.below is not None and below_axis(port) is None:
        problems.add(f"{where}.below", f"expected the name of a dimension of the input, got {show(bounds.below)}")
    elif low is not None and high is not None and high < low:
        problems.add(f"{where}.high", f"expected at least low, {low}, got {high}")


def _check_buckets(graph: Graph, buckets: Buckets, where: str, problems: Problems) -> None:
    opened = {port.name: port.shape for port in graph.inputs if any(isinstance(axis, Dimension) for axis in port.shape)}
    if not buckets.shapes:
        problems.add(f"{where}.shapes", "expected at least one bucket, got none")
    for port in graph.inputs:
        if (padding := buckets.padding.get(port.name)) is not None and not allows(port.bounds, padding.value):
            place = f"{key_location(f'{where}.padding', port.name)}.value"
            problems.add(place, f"expected a value within the input's bounds, got {padding.value:g}")
    named = [(f"{where}.shapes[{index}]", shapes) for index, shapes in enumerate(buckets.shapes)]
    for place, names in [*named, (f"{where}.padding", buckets.padding)]:
        if set(names) != set(opened):
            problems.add(
                place, f"expected the inputs with open axes, {show(sorted(opened))}, got {show(sorted(names))}"
            )
    for place, shapes in named:
        for name, shape in shapes.items():
            if not _fits(opened.get(name, shape), shape):
                problems.add(
                    key_location(place, name), f"expected sizes that the input allows, got {show(list(shape))}"
                )


def _fits(promised: tuple[int | Dimension, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether a shape is one that an input allows; relations between its axes are no matter of the format."""
    return len(promised) == len(shape) and all(
        axis == size if isinstance(axis, int) else max(axis.min, 1) <= size and (axis.max is None or size <= axis.max)
        for axis, size in zip(promised, shape, strict=True)
    )


def _check_signature(graph: Graph, where: str, problems: Problems) -> None:
    signature = graph.signature
    parameters = [parameter.name for parameter in signature.parameters]
    _check_unique(parameters, f"{where}.parameters", "names", problems)
    _check_unique((name for name, _ in signature.arguments), f"{where}.arguments", "names", problems)
    used: list[int] = []
    for index, (name, tree) in enumerate(signature.arguments):
        if name not in parameters:
            problems.add(f"{where}.arguments[{index}][0]", f"expected the name of a parameter, got {show(name)}")
        used += _tensors(tree, f"{where}.arguments[{index}][1]", problems)
    if sorted(used) != list(range(len(graph.inputs))):
        problems.add(
            f"{where}.arguments",
            f"expected each of the {len(graph.inputs)} inputs exactly once, got tensors {_shorten(sorted(used))}",
        )
    for index, parameter in enumerate(signature.parameters):
        if parameter.default is not None and _tensors(parameter.default, f"{where}.parameters[{index}]", problems):
            problems.add(f"{where}.parameters[{index}].default", "expected constants, got a tensor")
    given = set(_tensors(signature.result, f"{where}.result", problems))
    if beyond := sorted(index for index in given if index >= len(graph.outputs)):
        problems.add(
            f"{where}.result", f"expected tensors below {len(graph.outputs)} (outputs), got {_shorten(beyond)}"
        )


def _tensors(tree: Tree, where: str, problems: Problems) -> list[int]:
    match tree:
        case TensorNode(index):
            return [index]
        case ListNode(items) | TupleNode(items):
            return [index for item in items for index in _tensors(item, where, problems)]
        case DictNode(pairs):
            _check_unique((key for key, _ in pairs), where, "keys of each dict", problems)
            return [index for _, item in pairs for index in _tensors(item, where, problems)]
        case NamedTupleNode(_, fields) | RecordNode(_, fields):
            _check_unique((name for name, _ in fields), where, "field names of each record", problems)
            return [index for _, item in fields for index in _tensors(item, where, problems)]
        case _:
            return []


def _check_unique(values: Iterable[Hashable], where: str, what: str, problems: Problems) -> None:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            problems.add(where, f"expected different {what}, got {show(value)} twice")
        seen.add(value)


def _shorten(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"[{shown}]" if len(numbers) <= 10 else f"[{shown}, …]"  # noqa: PLR2004
