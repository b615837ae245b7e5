"""How a persisted module is called: nested arguments to a flat list of tensors, and a flat list back to nested results.

The loaded model is called exactly like the module it was made from. What is no tensor (None, flags, numbers, strings)
was fixed when the module was traced; a call that brings another value is refused here, never ignored.
"""

from __future__ import annotations

import collections
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from npu_persist.errors import InputError
from npu_persist.manifest import (
    DictNode,
    Dimension,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Port,
    RecordNode,
    Signature,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)

if TYPE_CHECKING:
    import numpy as np

_KINDS = {
    "positional_only": inspect.Parameter.POSITIONAL_ONLY,
    "positional_or_keyword": inspect.Parameter.POSITIONAL_OR_KEYWORD,
    "var_positional": inspect.Parameter.VAR_POSITIONAL,
    "keyword_only": inspect.Parameter.KEYWORD_ONLY,
    "var_keyword": inspect.Parameter.VAR_KEYWORD,
}
_MISSING = object()
_LONGEST = 80
"""Characters of a value that an error shows."""


class Record(Mapping[str, Any]):
    """A dataclass or ModelOutput of the traced module, whose class does not exist where the model is loaded.

    Fields are read as attributes, by key or by position. A field that is None is an attribute but not a key, as in
    transformers' ModelOutput.
    """

    __slots__ = ("_fields", "_type_name")

    def __init__(self, type_name: str, fields: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_type_name", type_name)
        object.__setattr__(self, "_fields", dict(fields))

    def __getattr__(self, name: str) -> Any:
        try:
            return object.__getattribute__(self, "_fields")[name]
        except KeyError:
            names = ", ".join(object.__getattribute__(self, "_fields"))
            raise AttributeError(f"{self._type_name} has no field {name!r}; its fields are {names}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self._type_name} is read-only: cannot set {name!r}")

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            if self._fields[key] is None:
                raise KeyError(key)
            return self._fields[key]
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self._fields.items() if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __reduce__(self) -> tuple[type[Record], tuple[str, dict[str, Any]]]:
        return (Record, (self._type_name, self._fields))

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order."""
        return tuple(value for value in self._fields.values() if value is not None)

    def __repr__(self) -> str:
        return f"{self._type_name}({', '.join(f'{name}={value!r}' for name, value in self._fields.items())})"


class _Opaque:
    """Stands for a default value that could not be written to the manifest; equal to nothing a caller can pass."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class CallPlan:
    """A signature made ready for calls: `flatten` turns a call into tensors, `rebuild` turns results into structure."""

    def __init__(self, signature: Signature, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        self.signature = signature
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._arguments = dict(signature.arguments)
        self._binder = inspect.Signature(
            [
                inspect.Parameter(
                    parameter.name,
                    _KINDS[parameter.kind],
                    default=inspect.Parameter.empty if parameter.default is None else rebuild(parameter.default, ()),
                )
                for parameter in signature.parameters
            ]
        )
        self._leading = self._leading_tensors()

    def _leading_tensors(self) -> int:
        """Count of tensors when a call of just that many positional arguments maps to them one to one, else -1."""
        count = len(self._arguments)
        leading = self.signature.parameters[:count]
        rest = self.signature.parameters[count:]
        plain = all(
            parameter.kind in {"positional_only", "positional_or_keyword"}
            and isinstance(node := self._arguments.get(parameter.name), TensorNode)
            and node.index == position
            for position, parameter in enumerate(leading)
        )
        optional = all(p.default is not None or p.kind in {"var_positional", "var_keyword"} for p in rest)
        return count if plain and optional and count == len(self.inputs) == len(leading) else -1

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """Bind one call and return its tensors in the order of the graph's inputs.

        Args:
            args: positional arguments of the call, as the module's `forward` takes them.
            kwargs: keyword arguments of the call.

        Returns:
            One array-like for each input of the graph, unchecked for dtype and shape.

        Raises:
            InputError: an argument is missing, unknown, of another structure than the persisted example, or has another
                value than the one that was fixed when the module was traced.

        """
        if not kwargs and len(args) == self._leading:
            return args
        try:
            bound = self._binder.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"the call does not fit the model: {error}. Expected {self}") from error
        bound.apply_defaults()
        leaves: list[Any] = [_MISSING] * len(self.inputs)
        for parameter in self.signature.parameters:
            value = bound.arguments[parameter.name]
            tree = self._arguments.get(parameter.name)
            if tree is not None:
                self._collect(tree, value, parameter.name, leaves)
            elif parameter.default is not None:
                self._collect(parameter.default, value, parameter.name, leaves)
            elif value:
                raise self._error(parameter.name, "nothing: the persisted example did not give it", value)
        return leaves

    def _collect(self, tree: Tree, value: Any, where: str, leaves: list[Any]) -> None:
        if isinstance(tree, TensorNode):
            if value is None or isinstance(value, (str, bytes, Mapping)):
                raise self._error(where, _describe_port(self.inputs[tree.index]), value)
            leaves[tree.index] = value
        elif isinstance(tree, ValueNode):
            if not _is_same_value(tree.value, value):
                raise self._error(
                    where,
                    f"{tree.value!r}: the value was fixed when the module was traced; to vary it, persist with a "
                    "tensor in its place, or persist a second bundle",
                    value,
                )
        elif isinstance(tree, OpaqueNode):
            if not (isinstance(value, _Opaque) and value.text == tree.text):
                raise self._error(where, f"to be left out: only its default {tree.text} was traced", value)
        else:
            for key, child, item in self._children(tree, value, where):
                self._collect(child, item, key, leaves)

    def _children(self, tree: Tree, value: Any, where: str) -> Iterator[tuple[str, Tree, Any]]:
        if isinstance(tree, (ListNode, TupleNode)):
            if not isinstance(value, (list, tuple)) or len(value) != len(tree.items):
                kind = "list" if isinstance(tree, ListNode) else "tuple"
                raise self._error(where, f"a {kind} of {len(tree.items)}", value)
            for index, (child, item) in enumerate(zip(tree.items, value, strict=True)):
                yield f"{where}[{index}]", child, item
        elif isinstance(tree, DictNode):
            wanted = [key for key, _ in tree.items]
            if not isinstance(value, Mapping) or set(value) != set(wanted):
                raise self._error(where, f"a dict with the keys {wanted}", value)
            for key, child in tree.items:
                yield f"{where}[{key!r}]", child, value[key]
        elif isinstance(tree, (NamedTupleNode, RecordNode)):
            yield from self._fields(tree, value, where)

    def _fields(self, tree: NamedTupleNode | RecordNode, value: Any, where: str) -> Iterator[tuple[str, Tree, Any]]:
        names = [name for name, _ in tree.fields]
        if isinstance(tree, NamedTupleNode) and isinstance(value, (list, tuple)) and len(value) == len(names):
            value = dict(zip(names, value, strict=True))
        for name, child in tree.fields:
            item = value.get(name, _MISSING) if isinstance(value, Mapping) else getattr(value, name, _MISSING)
            if item is _MISSING and child == ValueNode(None):
                item = None
            if item is _MISSING:
                raise self._error(where, f"{tree.type_name} with the fields {names}", value)
            yield f"{where}.{name}", child, item

    def _error(self, where: str, expected: str, got: Any) -> InputError:
        text = _describe(got)
        return InputError(
            f"argument {where}: expected {expected}; got {text}. Expected {self}",
            argument=where,
            expected=expected,
            got=text,
        )

    def rebuild(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
        """Return the module's result structure filled with `arrays`, one for each output of the graph."""
        result = self.signature.result
        if isinstance(result, TensorNode):
            return arrays[result.index]
        return rebuild(result, arrays)

    def __str__(self) -> str:
        parts = []
        for parameter in self.signature.parameters:
            star = {"var_positional": "*", "var_keyword": "**"}.get(parameter.kind, "")
            tree = self._arguments.get(parameter.name)
            text = f"{star}{parameter.name}"
            if tree is not None:
                text += f": {describe_tree(tree, self.inputs)}"
            if parameter.default is not None and not (tree is not None and isinstance(tree, TensorNode)):
                text += f"={describe_tree(parameter.default, ())}"
            if tree is not None or not star:
                parts.append(text)
        return f"({', '.join(parts)}) -> {describe_tree(self.signature.result, self.outputs)}"


_namedtuple_types: dict[tuple[str, tuple[str, ...]], Any] = {}


def rebuild(tree: Tree, arrays: Sequence[Any]) -> Any:
    """Return the structure that `tree` describes, its tensors taken from `arrays` by index.

    Dataclasses and ModelOutputs become a `Record`; named tuples are made anew under their name and fields.
    """
    if isinstance(tree, TensorNode):
        return arrays[tree.index]
    if isinstance(tree, ValueNode):
        return tree.value
    if isinstance(tree, ListNode):
        return [rebuild(item, arrays) for item in tree.items]
    if isinstance(tree, TupleNode):
        return tuple(rebuild(item, arrays) for item in tree.items)
    if isinstance(tree, DictNode):
        return {key: rebuild(item, arrays) for key, item in tree.items}
    if isinstance(tree, RecordNode):
        return Record(tree.type_name, {name: rebuild(item, arrays) for name, item in tree.fields})
    if isinstance(tree, NamedTupleNode):
        key = (tree.type_name, tuple(name for name, _ in tree.fields))
        made = _namedtuple_types.get(key)
        if made is None:
            made = _namedtuple_types[key] = collections.namedtuple(*key)  # noqa: PYI024 - made from data
        return made(*(rebuild(item, arrays) for _, item in tree.fields))
    return _Opaque(tree.text)


def describe_shape(shape: Sequence[int | Dimension]) -> str:
    """Return a shape as text: `[1, 4, batch:1..8, ?]`."""
    return f"[{', '.join(str(axis) if isinstance(axis, int) else _describe_dimension(axis) for axis in shape)}]"


def describe_tree(tree: Tree, ports: Sequence[Port]) -> str:
    """Return a nested structure as text, each tensor as dtype and shape."""
    if isinstance(tree, TensorNode):
        return _describe_port(ports[tree.index])
    if isinstance(tree, ValueNode):
        return repr(tree.value)
    if isinstance(tree, OpaqueNode):
        return tree.text
    if isinstance(tree, ListNode):
        return f"[{', '.join(describe_tree(item, ports) for item in tree.items)}]"
    if isinstance(tree, TupleNode):
        return f"({', '.join(describe_tree(item, ports) for item in tree.items)}{',' * (len(tree.items) == 1)})"
    if isinstance(tree, DictNode):
        return f"{{{', '.join(f'{key!r}: {describe_tree(item, ports)}' for key, item in tree.items)}}}"
    fields = ", ".join(f"{name}={describe_tree(item, ports)}" for name, item in tree.fields)
    return f"{tree.type_name}({fields})"


def _describe_port(port: Port) -> str:
    return f"{port.dtype}{describe_shape(port.shape)}"


def _describe_dimension(dimension: Dimension) -> str:
    bounds = f"{dimension.min}..{'' if dimension.max is None else dimension.max}"
    return f"{dimension.name or '?'}:{bounds}"


def _describe(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{dtype}{list(shape)}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {list(value)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_same_value(expected: float | str | None, value: Any) -> bool:
    if expected is None or isinstance(expected, str):
        return value is None if expected is None else isinstance(value, str) and value == expected
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool) and value == expected
    if not isinstance(value, (int, float)):
        return False
    return value == expected or (math.isnan(value) and math.isnan(expected))


def size_of(name: str, sizes: Mapping[str, int]) -> int | None:
    """Return the size of a dimension: its own, or `2*batch+1` computed from `batch`; None if that is unknown."""
    found = re.fullmatch(r"(\d+)\*(.+?)([+-]\d+)?", name)
    if found is None:
        return sizes.get(name)
    factor, root, offset = found.groups()
    return None if root not in sizes else int(factor) * sizes[root] + int(offset or 0)
