"""Nested torch arguments and results, taken apart into tensors and a `Tree`, and put together again.

The other half, without torch, is `npu_persist.bundle.signature`. Tensors become leaves, whatever the nesting; numbers,
flags, strings and None stay in the tree as fixed values; a type that cannot be told apart without its class is refused
by name.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.utils import _pytree as pytree

from npu_persist.bundle.manifest import (
    DictNode,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Parameter,
    ParameterKind,
    RecordNode,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)
from npu_persist.errors import ConversionError

_KINDS: dict[Any, ParameterKind] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional_only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional_or_keyword",
    inspect.Parameter.VAR_POSITIONAL: "var_positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
    inspect.Parameter.VAR_KEYWORD: "var_keyword",
}

Rebuild = Callable[[Sequence[torch.Tensor]], Any]
"""Puts a structure together again from tensors."""


class Leaves:
    """Collects the tensors of a structure, in order, each with the path at which it stood."""

    def __init__(self, *, unique: bool, is_number: Callable[[torch.Tensor], bool] | None = None) -> None:
        """Start empty.

        Args:
            unique: whether a tensor that comes twice is one leaf.
            is_number: which tensors stand for plain integers; these are no leaves.

        """
        self.tensors: list[torch.Tensor] = []
        self.names: list[str] = []
        self._unique = unique
        self.is_number = is_number
        self._seen: dict[int, int] = {}

    def add(self, tensor: torch.Tensor, name: str) -> int:
        """Add a tensor and return its index."""
        if self._unique and id(tensor) in self._seen:
            return self._seen[id(tensor)]
        self._seen[id(tensor)] = len(self.tensors)
        self.tensors.append(tensor)
        self.names.append(name)
        return len(self.tensors) - 1


def take_apart(value: Any, name: str, leaves: Leaves) -> tuple[Tree, Rebuild]:
    """Return the tree of a nested value and the function that builds it again from its tensors.

    Args:
        value: tensors in lists, tuples, dicts, named tuples, dataclasses, transformers' and diffusers' outputs, and
            types registered with torch.utils._pytree, beside None, numbers, flags and strings.
        name: path of the value, for the leaves' names and for errors.
        leaves: takes the tensors.

    Raises:
        ConversionError: a type that a loaded model could neither take nor give.

    """
    if isinstance(value, torch.Tensor):
        if leaves.is_number is not None and leaves.is_number(value):
            number = int(value)
            return ValueNode(number), lambda _: number
        index = leaves.add(value, name)
        return TensorNode(index), lambda tensors: tensors[index]
    if value is None or isinstance(value, (bool, int, float, str)):
        return ValueNode(_plain(value)), lambda _: value
    if isinstance(value, Mapping) and not dataclasses.is_dataclass(value):
        return _take_apart_mapping(value, name, leaves)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = [take_apart(item, f"{name}.{field}", leaves) for field, item in zip(value._fields, value, strict=True)]
        fields = tuple((field, tree) for field, (tree, _) in zip(value._fields, parts, strict=True))
        return NamedTupleNode(type(value).__name__, fields), _build(cast("Any", type(value))._make, parts)
    if isinstance(value, (list, tuple)):
        parts = [take_apart(item, f"{name}.{index}", leaves) for index, item in enumerate(value)]
        kind, make = (ListNode, list) if isinstance(value, list) else (TupleNode, tuple)
        return kind(tuple(tree for tree, _ in parts)), _build(make, parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _take_apart_dataclass(value, name, leaves)
    if type(value) in pytree.SUPPORTED_NODES:
        return _take_apart_registered(value, name, leaves)
    raise ConversionError(
        f"{name or 'the result'} is a {type(value).__module__}.{type(value).__qualname__}, which a loaded model could "
        f"not take or give without that class. Use tensors, numbers, lists, tuples, dicts or dataclasses instead"
        + (" (for a causal language model: call it with use_cache=False)." if "Cache" in type(value).__name__ else ".")
    )


def _take_apart_mapping(value: Mapping[Any, Any], name: str, leaves: Leaves) -> tuple[Tree, Rebuild]:
    strange = [key for key in value if type(key) not in {str, int}]
    if strange:
        raise ConversionError(
            f"{name or 'the result'} is a dict with the key {strange[0]!r}; keys must be strings or integers."
        )
    parts = [take_apart(item, f"{name}.{key}", leaves) for key, item in value.items()]
    keys = list(value)
    tree = DictNode(tuple((key, part) for key, (part, _) in zip(keys, parts, strict=True)))
    make: Any = type(value) if type(value) in {dict, collections.OrderedDict} else dict
    return tree, _build(lambda items: make(zip(keys, items, strict=True)), parts)


def _take_apart_dataclass(value: Any, name: str, leaves: Leaves) -> tuple[Tree, Rebuild]:
    fields = [field.name for field in dataclasses.fields(value)]
    parts = [take_apart(getattr(value, field), f"{name}.{field}", leaves) for field in fields]
    tree = RecordNode(type(value).__name__, tuple((f, part) for f, (part, _) in zip(fields, parts, strict=True)))

    def make(items: Sequence[Any]) -> Any:
        settable = {
            field.name: item for field, item in zip(dataclasses.fields(value), items, strict=True) if field.init
        }
        return type(value)(**settable)

    return tree, _build(make, parts)


def _take_apart_registered(value: Any, name: str, leaves: Leaves) -> tuple[Tree, Rebuild]:
    node = pytree.SUPPORTED_NODES[type(value)]
    children, context = node.flatten_fn(value)
    parts = [take_apart(item, f"{name}.{index}", leaves) for index, item in enumerate(children)]
    keys = [str(index) for index in range(len(children))]
    tree = RecordNode(type(value).__name__, tuple((key, part) for key, (part, _) in zip(keys, parts, strict=True)))
    return tree, _build(lambda items: node.unflatten_fn(items, context), parts)


def _build(make: Callable[[list[Any]], Any], parts: Sequence[tuple[Tree, Rebuild]]) -> Rebuild:
    rebuilds = [rebuild for _, rebuild in parts]
    return lambda tensors: make([rebuild(tensors) for rebuild in rebuilds])


def _plain(value: Any) -> bool | int | float | str | None:
    """Return the builtin behind a subclass (a str enum, numpy's float64)."""
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None


def forward_signature(forward: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a module's `forward`; that of a traced module is in its schema."""
    try:
        return inspect.signature(forward)
    except ValueError:
        names = [argument.name for argument in cast("Any", forward).schema.arguments[1:]]
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])


def describe_parameters(forward: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Return the parameters of a module's `forward`, their defaults as trees: opaque where no plain values."""
    described: list[Parameter] = []
    for parameter in forward_signature(forward).parameters.values():
        default: Tree | None = None
        if parameter.default is not inspect.Parameter.empty:
            try:
                leaves = Leaves(unique=True)
                default, _ = take_apart(parameter.default, parameter.name, leaves)
                if leaves.tensors:
                    default = OpaqueNode("<a tensor>")
            except ConversionError:
                default = OpaqueNode(f"<{type(parameter.default).__name__}>")
        described.append(Parameter(parameter.name, _KINDS[parameter.kind], default))
    return tuple(described)
