"""Nested torch arguments and results, flattened into tensors and a `Tree`, and built again.

The counterpart without torch is `npu_persist.bundle.signature`. Tensors become leaves; numbers, flags, strings and None
stay in the tree as fixed values; a type that cannot be built without its class is an error.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.utils import _pytree as pytree

from npu_persist.bundle.graph_records import (
    DictNode,
    FloatNode,
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
"""Builds a structure from tensors."""


class CacheError(ConversionError):
    """A cache of keys and values, an object of a class that a loaded model does not have, is among the values."""


@dataclasses.dataclass(frozen=True)
class Flattened:
    """A nested value as its tensors, each with its path, and what it takes to build it again."""

    tree: Tree
    rebuild: Rebuild
    tensors: tuple[torch.Tensor, ...]
    names: tuple[str, ...]


def flatten(
    value: Any,
    name: str = "",
    *,
    unique: bool,
    is_number: Callable[[torch.Tensor], bool] | None = None,
    sizes: Container[str] = (),
) -> Flattened:
    """Flatten a nested value.

    Args:
        value: The value.
        name: Its name, which the names of its tensors begin with.
        unique: Whether a tensor that comes twice is one leaf.
        is_number: Tells tensors that are plain numbers.
        sizes: Names of plain numbers that are tensors.
    """
    leaves = _Leaves(unique, is_number, sizes)
    tree, rebuild = leaves.flatten(value, name)
    return Flattened(tree, rebuild, tuple(leaves.tensors), tuple(leaves.names))


class _Leaves:
    """The tensors of one value, collected in order."""

    def __init__(
        self,
        unique: bool,  # noqa: FBT001
        is_number: Callable[[torch.Tensor], bool] | None,
        sizes: Container[str],
    ) -> None:
        self.tensors: list[torch.Tensor] = []
        self.names: list[str] = []
        self._unique = unique
        self._is_number = is_number
        self._sizes = sizes
        self._seen: dict[int, int] = {}

    def _add(self, tensor: torch.Tensor, name: str) -> int:
        if self._unique and id(tensor) in self._seen:
            return self._seen[id(tensor)]
        self._seen[id(tensor)] = len(self.tensors)
        self.tensors.append(tensor)
        self.names.append(name)
        return len(self.tensors) - 1

    def flatten(self, value: Any, name: str) -> tuple[Tree, Rebuild]:
        if type(value) is int and name in self._sizes:
            value = torch.tensor(value)
        if isinstance(value, torch.Tensor):
            if self._is_number is not None and self._is_number(value):
                number = int(value)
                return ValueNode(number), lambda _: number
            index = self._add(value, name)
            return TensorNode(index), lambda tensors: tensors[index]
        if value is None or isinstance(value, (bool, int, float, str)):
            return _constant(value), lambda _: value
        return self._flatten_container(value, name)

    def _flatten_container(self, value: Any, name: str) -> tuple[Tree, Rebuild]:
        if isinstance(value, Mapping) and not dataclasses.is_dataclass(value):
            strange = [key for key in value if type(key) not in {str, int}]
            if strange:
                raise ConversionError(
                    f"{name} is a dict with the key {strange[0]!r}; keys must be strings or integers."
                )
            kind: Any = type(value) if type(value) in {dict, collections.OrderedDict} else dict
            trees, build = self._parts(value, name, kind)
            return DictNode(trees), build
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            make = cast("Any", type(value))._make
            trees, build = self._parts(dict(zip(value._fields, value, strict=True)), name, lambda d: make(d.values()))
            return NamedTupleNode(type(value).__name__, trees), build
        if isinstance(value, list):
            trees, build = self._parts(dict(enumerate(value)), name, lambda parts: [*parts.values()])
            return ListNode(tuple(tree for _, tree in trees)), build
        if isinstance(value, tuple):
            trees, build = self._parts(dict(enumerate(value)), name, lambda parts: (*parts.values(),))
            return TupleNode(tuple(tree for _, tree in trees)), build
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._flatten_dataclass(value, name)
        if type(value) in pytree.SUPPORTED_NODES:
            node = pytree.SUPPORTED_NODES[type(value)]
            children, context = node.flatten_fn(value)
            numbered = {str(index): child for index, child in enumerate(children)}
            trees, build = self._parts(numbered, name, lambda d: node.unflatten_fn([*d.values()], context))
            return RecordNode(type(value).__name__, trees), build
        if isinstance(value, np.ndarray):
            raise ConversionError(
                f"{name} is a numpy.ndarray, and a graph takes and gives tensors: torch.from_numpy makes one of it. In "
                "the forward, use only torch: numpy computations cannot be captured."
            )
        is_cache = "Cache" in type(value).__name__
        advice = " (for a causal language model: call it with use_cache=False)" if is_cache else ""
        raise (CacheError if is_cache else ConversionError)(
            f"{name} is a {type(value).__module__}.{type(value).__qualname__}, which a loaded model could not take or "
            f"give without that class. Use tensors, numbers, lists, tuples, dicts or dataclasses instead{advice}."
        )

    def _flatten_dataclass(self, value: Any, name: str) -> tuple[Tree, Rebuild]:
        settable = {field.name: field.init for field in dataclasses.fields(value)}

        def make(parts: dict[str, Any]) -> Any:
            return type(value)(**{field: part for field, part in parts.items() if settable[field]})

        trees, build = self._parts({field: getattr(value, field) for field in settable}, name, make)
        return RecordNode(type(value).__name__, trees), build

    def _parts(
        self, parts: Mapping[Any, Any], name: str, make: Callable[[dict[Any, Any]], Any]
    ) -> tuple[tuple[tuple[Any, Tree], ...], Rebuild]:
        """Return the trees of a container's parts, and what builds the container from its rebuilt parts."""
        prefix = f"{name}." if name else ""
        flat = {key: self.flatten(part, f"{prefix}{key}") for key, part in parts.items()}
        rebuilds = {key: rebuild for key, (_, rebuild) in flat.items()}
        return (
            tuple((key, tree) for key, (tree, _) in flat.items()),
            lambda tensors: make({key: rebuild(tensors) for key, rebuild in rebuilds.items()}),
        )


def _constant(value: Any) -> Tree:
    """Return the node of a constant: of the builtin behind a subclass (a str enum, numpy's float64)."""
    if isinstance(value, float):
        return ValueNode(float(value)) if math.isfinite(value) else FloatNode(cast("Any", str(float(value))))
    for kind in (bool, int, str):
        if isinstance(value, kind):
            return ValueNode(kind(value))
    return ValueNode(None)


def forward_signature(forward: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a module's `forward`; that of a traced module is in its schema."""
    try:
        return inspect.signature(forward)
    except ValueError:
        names = [argument.name for argument in cast("Any", forward).schema.arguments[1:]]
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])


def describe_parameters(forward: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Return the parameters of a module's `forward`, their defaults as trees: opaque unless plain values."""
    described: list[Parameter] = []
    for parameter in forward_signature(forward).parameters.values():
        default: Tree | None = None
        if parameter.default is not inspect.Parameter.empty:
            try:
                flat = flatten(parameter.default, parameter.name, unique=True)
                default = OpaqueNode("<a tensor>") if flat.tensors else flat.tree
            except ConversionError:
                default = OpaqueNode(f"<{type(parameter.default).__name__}>")
        described.append(Parameter(parameter.name, _KINDS[parameter.kind], default))
    return tuple(described)
