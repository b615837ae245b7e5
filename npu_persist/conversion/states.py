"""States: results of a module that its next call takes again, as variables of the graph.

The module is captured, converted and probed as it is, with its states as inputs and outputs. What is written has them
inside: `hide` takes them out of the call signature, and `stateful.make_stateful` out of the graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import torch

from npu_persist.bundle.buckets import open_axes
from npu_persist.bundle.graph_records import (
    DictNode,
    Dimension,
    Growth,
    ListNode,
    NamedTupleNode,
    RecordNode,
    Signature,
    State,
    TensorNode,
    Tree,
    TupleNode,
    axis_bounds,
)
from npu_persist.bundle.signature import describe_shape, find_root, write_symbol
from npu_persist.conversion.call import DTYPES
from npu_persist.conversion.dynamic import input_ports
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import openvino as ov

    from npu_persist.bundle.graph_records import Port
    from npu_persist.conversion.call import Call
    from npu_persist.conversion.capture import Capture
    from npu_persist.conversion.dynamic import Axes

KEPT = {**dict.fromkeys(("int64", "int16"), "int32"), "float64": "float32"}
"""What devices keep other types as; they compute with these, too."""
_EXACT = 2**53
"""Up to here float64, JSON's numbers, holds every integer."""
_LONG = 10_000
"""A length at which a state without a largest one is tried."""


class _Pair(NamedTuple):
    """An argument and the result that becomes it: each with its path, and its index among the graph's tensors."""

    name: str
    argument: int
    output: str
    result: int


@dataclass(frozen=True, eq=False)
class States:
    """The states of a captured call.

    Attributes:
        pairs: What belongs together.
        states: What the manifest says of them, in the same order.
        values: What each holds at first, of the example's size where an axis follows an input.
        inputs: Indices of the call's tensors that stay inputs.
        outputs: Indices of the results that stay outputs.
        signature: How the module is called without its states.
    """

    pairs: tuple[_Pair, ...]
    states: tuple[State, ...]
    values: tuple[torch.Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature: Signature


def check_states(states: object, initial: object) -> None:
    """Raise UsageError unless these are mappings, from names to names and to values."""
    if not isinstance(states, Mapping) or not states:
        raise UsageError(
            f'states: expected a dict of arguments to results, such as {{"hidden": "output.1"}}; got {states!r}'
        )
    for name, output in states.items():
        if not isinstance(name, str) or not isinstance(output, str) or name.count("*") != output.count("*"):
            raise UsageError(
                f"states: expected the name of an argument and of a result, with a * in both or neither; got {name!r}: "
                f"{output!r}"
            )
    if initial is not None and not isinstance(initial, Mapping):
        raise UsageError(f"initial: expected a dict of state names to initial values; got {initial!r}")


def find_states(
    capture: Capture, model: ov.Model, axes: Axes, given: Mapping[str, str], initial: Mapping[str, Any] | None
) -> States:
    """Return the states of a captured call, whose converted graph has them as inputs and outputs.

    Raises:
        UsageError: There is no such argument or result, they are of different types or sizes, or nothing is left.
    """
    call, results = capture.call, capture.results
    pairs = _find_pairs(capture, given)
    _check_initial(pairs, initial)
    taken = {pair.argument for pair in pairs}
    inputs = tuple(index for index in range(len(call.tensors)) if index not in taken)
    if not inputs:
        raise UsageError("states: a graph needs at least one argument: leave one out of states.")
    ports = _ports(call, axes, inputs)
    states, values = [], []
    growths = _Growths(model, call, axes, inputs)
    for pair in pairs:
        example, result = call.tensors[pair.argument], results.tensors[pair.result]
        if example.dtype != result.dtype or example.ndim != result.ndim:
            raise UsageError(
                f"states: {pair.name} is {_describe(example)}, and {pair.output}, which it takes in the next call, "
                f"{_describe(result)}"
            )
        if not model.get_parameters()[pair.argument].output(0).get_target_inputs():
            raise UsageError(f"states: the forward does not use {pair.name}: leave it out.")
        shape = axes.shape(pair.argument, example)
        for axis, size in enumerate(shape):
            if isinstance(size, int) and result.shape[axis] != size:
                raise UsageError(
                    f"states: {pair.name} is {_describe(example)}, and {pair.output}, which it takes in the next call, "
                    f"{_describe(result)}. If it grows, declare that: dynamic_shapes={{{pair.name!r}: {{{axis}: "
                    "torch.export.Dim('past', min=0, max=1024)}}, and a capacity as max"
                )
        growth = growths.find(pair, shape)
        sizes = tuple(_first_sizes(pair, shape, growth, ports))
        variable = f"{call.input_names[pair.argument]}{results.names[pair.result]}"  # as OpenVINO's MakeStateful does
        kind: Any = DTYPES[example.dtype]
        kind = KEPT.get(kind, kind)
        state = State(pair.name, pair.output, variable, kind, shape, sizes, growth=growth)
        value, first, number = _first_value(state, example, (initial or {}).get(pair.name))
        states.append(msgspec.structs.replace(state, first=first, initial=number))
        values.append(value)
    outputs, signature = hide(capture, pairs, inputs)
    return States(tuple(pairs), tuple(states), tuple(values), inputs, outputs, signature)


def _describe(tensor: torch.Tensor) -> str:
    return f"{DTYPES[tensor.dtype]}{list(tensor.shape)}"


def _ports(call: Call, axes: Axes, inputs: Sequence[int]) -> list[Port]:
    ports = input_ports(call, axes)
    return [ports[index] for index in inputs]


def _leaves(tree: Tree, path: str) -> Iterator[tuple[str, int]]:
    """Yield the path and the index of each tensor."""
    if isinstance(tree, TensorNode):
        yield path, tree.index
        return
    for key, child in _children(tree):
        yield from _leaves(child, f"{path}.{key}" if path else str(key))


def _children(tree: Tree) -> Sequence[tuple[Any, Tree]]:
    if isinstance(tree, (ListNode, TupleNode)):
        return [*enumerate(tree.items)]
    if isinstance(tree, DictNode):
        return tree.items
    return tree.fields if isinstance(tree, (NamedTupleNode, RecordNode)) else ()


def _output(path: str) -> str:
    """Return the name of a result by its path: `output.1` for the second of a tuple."""
    return f"output.{path}".rstrip(".") if not path or path[0].isdigit() else path


def _find_pairs(capture: Capture, given: Mapping[str, str]) -> list[_Pair]:
    call, results = capture.call, capture.results
    arguments = {path: index for name, tree in call.arguments for path, index in _leaves(tree, name)}
    outputs = {_output(path): index for path, index in _leaves(results.tree, "")}
    aliases = {name: index for index, name in enumerate(results.names) if name not in outputs}
    pairs: list[_Pair] = []
    for name, output in given.items():
        found = [*_expand(name, output, arguments, outputs)]
        if not found and "*" not in name and name in arguments and output in aliases:
            index = aliases[output]  # a result that has an argument's name is another in the graph
            path = next(path for path, at in outputs.items() if at == index)
            found = [(name, path)]
        if not found:
            where = output if any(_within(path, name) for path in arguments) or "*" in name else name
            kind, there = ("result", [*outputs]) if where is output else ("tensor among the arguments", [*arguments])
            raise UsageError(f"states: there is no {kind} {where!r} in the example call; there is {', '.join(there)}.")
        pairs += [_Pair(path, arguments[path], result, outputs[result]) for path, result in found]
    seen: set[int] = set()
    for pair in pairs:
        if pair.argument in seen:
            raise UsageError(f"states: {pair.name} is named twice.")
        seen.add(pair.argument)
    return pairs


def _expand(
    name: str, output: str, arguments: Mapping[str, int], outputs: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Yield paths of an argument and a result: of both as they are, or of all tensors in them."""
    if "*" in name:
        pattern = re.compile("([^.]+)".join(map(re.escape, name.split("*"))) + r"(?=\.|$)")
        matches = [found for path in arguments if (found := pattern.match(path))]
        for match in dict.fromkeys((found[0], found.groups()) for found in matches):
            places = iter(match[1])
            yield from _expand(match[0], re.sub(r"\*", lambda _, at=places: next(at), output), arguments, outputs)  # type: ignore[misc]
        return
    taken = [path.removeprefix(name) for path in arguments if _within(path, name)]
    there = [path.removeprefix(output) for path in outputs if _within(path, output)]
    if not taken or not there:
        return
    if sorted(taken) != sorted(there):
        lacking = min(set(taken) ^ set(there))
        owner = output if lacking in taken else name
        raise UsageError(
            f"states: {name} and {output} are of different structure: {owner} has no tensor at {owner}{lacking}. Name "
            "the tensors one by one."
        )
    yield from ((f"{name}{rest}", f"{output}{rest}") for rest in taken)


def _within(path: str, owner: str) -> bool:
    return path == owner or path.startswith(f"{owner}.")


def _check_initial(pairs: Sequence[_Pair], initial: Mapping[str, Any] | None) -> None:
    names = [pair.name for pair in pairs]
    if unknown := [name for name in initial or {} if name not in names]:
        raise UsageError(f"initial: {unknown[0]!r} is not one of the states {', '.join(names)}.")


def _first_sizes(
    pair: _Pair, shape: Sequence[int | Dimension], growth: Growth | None, ports: Sequence[Port]
) -> list[int | None]:
    """Return the sizes with which a conversation begins; None where an axis follows one of the arguments."""
    roots = {found.root for port in ports for found in open_axes(port)}
    first: list[int | None] = []
    for axis, size in enumerate(shape):
        is_growing = growth is not None and growth.axis == axis
        if isinstance(size, int) or is_growing:
            first.append(size if isinstance(size, int) else size.min)
        elif size.name is None:
            raise UsageError(
                f"states: axis {axis} of {pair.name} is open and has no name. Give dynamic_shapes a torch.export.Dim: "
                "the same as that of the argument's axis that it is always equal to, or one of its own if it begins at "
                "its min"
            )
        else:
            first.append(None if find_root(size.name, roots) is not None else size.min)
    return first


def _first_value(
    state: State, example: torch.Tensor, given: Any
) -> tuple[torch.Tensor, tuple[int | None, ...], float | None]:
    """Return what a state holds at first, its sizes then, and the number that all of its elements are, if they are."""
    first = [*state.first]
    sizes = [example.shape[axis] if size is None else size for axis, size in enumerate(first)]
    if given is None:
        return torch.zeros(sizes, dtype=example.dtype), state.first, 0.0
    value = torch.as_tensor(given).detach().cpu()
    if not torch.equal(value.to(example.dtype).to(value.dtype), value) and not value.is_floating_point():
        raise UsageError(f"initial: {state.name} is {state.dtype}, which does not hold these {value.dtype} values.")
    value = value.to(example.dtype)
    if value.ndim == 0:
        value = value.expand(sizes)
    elif state.growth is not None and value.ndim == len(sizes):
        first[state.growth.axis] = sizes[state.growth.axis] = value.shape[state.growth.axis]
    value = value.contiguous()
    allowed = [axis_bounds(size) for size in state.shape]
    if [*value.shape] != sizes or any(
        not low <= size <= high for size, (low, high) in zip(sizes, allowed, strict=True)
    ):
        raise UsageError(f"initial: {state.name} is {state.dtype}{describe_shape(state.shape)}; got {_describe(value)}")
    number = float(value.reshape(-1)[0]) if value.numel() else 0.0
    is_one = bool((value == number).all()) and np.isfinite(number) and abs(number) < _EXACT
    if not is_one and None in first:
        raise UsageError(
            f"initial: {state.name} depends on the sizes of an argument: its initial value must be one finite number."
        )
    return value, tuple(first), number if is_one else None


class _Growths:
    """Finds how states grow, by giving the graph other sizes."""

    def __init__(self, model: ov.Model, call: Call, axes: Axes, inputs: Sequence[int]) -> None:
        self._model: ov.Model | None = None
        self._source = model
        self._call = call
        self._shapes = [axes.shape(index, tensor) for index, tensor in enumerate(call.tensors)]
        self._roots = {found.root for port in _ports(call, axes, inputs) for found in open_axes(port)}
        self._ports = input_ports(call, axes)
        self._sizes = {
            found.root: (call.tensors[index].shape[found.axis] - found.offset) // found.factor
            for index, port in enumerate(self._ports)
            for found in open_axes(port)
        }

    def find(self, pair: _Pair, shape: Sequence[int | Dimension]) -> Growth | None:
        """Return along which axis a state grows, and by how much."""
        for axis, size in enumerate(shape):
            if isinstance(size, Dimension) and (by := self._along(pair, axis, size)) is not None:
                return Growth(axis, by)
        return None

    def _along(self, pair: _Pair, axis: int, bounds: Dimension) -> int | str | None:
        """Return how much longer a result is than its argument along an axis; None where that is not even."""
        base = self._ask(pair, axis, {})
        if base is None:
            return None
        moving = []
        for root, size in self._sizes.items():
            steps = [self._ask(pair, axis, {root: size + step}) for step in (1, 2, 3)]
            if root not in self._roots:  # its own length: a window does not grow beyond itself
                steps.append(self._ask(pair, axis, {root: _LONG if bounds.max is None else bounds.max}))
            if all(step in {base, None} for step in steps):
                continue
            if root not in self._roots or None in steps:
                return None
            moving.append((root, steps))
        if not moving:
            return base if base > 0 else None
        if len(moving) > 1:
            return None
        root, (one, two, three) = moving[0]
        factor = (one or 0) - base
        if factor < 1 or (two, three) != (base + 2 * factor, base + 3 * factor):
            return None
        return write_symbol(root, factor=factor, offset=base - factor * self._sizes[root])

    def _ask(self, pair: _Pair, axis: int, other: Mapping[str, int]) -> int | None:
        sizes = {**self._sizes, **other}
        if self._model is None:
            self._model = self._source.clone()
        shapes: dict[int, list[int]] = {}
        for index, port in enumerate(self._ports):
            wanted = [size if isinstance(size, int) else 0 for size in port.shape]
            for found in open_axes(port):
                wanted[found.axis] = found.factor * sizes[found.root] + found.offset
            shapes[index] = wanted
        try:
            self._model.reshape(shapes)
        except RuntimeError:  # sizes that do not fit together
            return None
        size = self._model.outputs[pair.result].get_partial_shape()[axis]
        return size.get_length() - shapes[pair.argument][axis] if size.is_static else None


def hide(capture: Capture, pairs: Sequence[_Pair], inputs: Sequence[int]) -> tuple[tuple[int, ...], Signature]:
    """Return which results stay outputs, and the signature without the states.

    What is a state is left out of the structure that it is in; a container of nothing else is left out itself. Of a
    tuple of results of which one is left, that one is the result. A module that returns nothing but its states goes on
    returning them.
    """
    signature = capture.signature
    gone = {pair.name for pair in pairs}
    places = {index: place for place, index in enumerate(inputs)}
    arguments = [(name, _prune(tree, name, gone)) for name, tree in signature.arguments]
    kept = tuple((name, _number(tree, places)) for name, tree in arguments if tree is not None)
    dropped = {name for name, tree in arguments if tree is None}
    parameters = tuple(parameter for parameter in signature.parameters if parameter.name not in dropped)
    results = {path for path, _ in _leaves(signature.result, "")}
    named = {pair.output for pair in pairs}
    tree = _prune(signature.result, "", {path for path in results if _output(path) in named})
    if tree is None:
        tree = signature.result
    elif tree != signature.result and isinstance(tree, (TupleNode, ListNode)) and len(tree.items) == 1:
        tree = tree.items[0]
    outputs = sorted({index for _, index in _leaves(tree, "")})
    if not outputs:
        raise UsageError("states: a graph needs at least one result: leave one out of states.")
    result = _number(tree, {index: place for place, index in enumerate(outputs)})
    return tuple(outputs), Signature(parameters, kept, result)


def _prune(tree: Tree, path: str, gone: set[str]) -> Tree | None:
    """Return a structure without the tensors at these paths; None if nothing else is in it."""
    if isinstance(tree, TensorNode):
        return None if path in gone else tree
    children = _children(tree)
    parts = [(key, _prune(child, f"{path}.{key}" if path else str(key), gone)) for key, child in children]
    kept = [(key, part) for key, part in parts if part is not None]
    if len(kept) == len(children) and all(part is child for (_, part), (_, child) in zip(kept, children, strict=True)):
        return tree
    return _with(tree, kept) if kept else None


def _number(tree: Tree, places: Mapping[int, int]) -> Tree:
    """Return a structure with other indices of its tensors."""
    if isinstance(tree, TensorNode):
        return TensorNode(places[tree.index])
    children = _children(tree)
    return _with(tree, [(key, _number(child, places)) for key, child in children]) if children else tree


def _with(tree: Tree, children: Sequence[tuple[Any, Tree]]) -> Tree:
    """Return a container of the same kind with other parts."""
    if isinstance(tree, (ListNode, TupleNode)):
        return type(tree)(tuple(part for _, part in children))
    if isinstance(tree, DictNode):
        return DictNode(tuple(children))
    if isinstance(tree, (NamedTupleNode, RecordNode)):
        return type(tree)(tree.type_name, tuple(children))
    return tree


def carry(found: States, results: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return what the states' arguments are in the next call, by their index."""
    return {pair.argument: results[pair.result] for pair in found.pairs}
