"""A signature made ready for calls."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.manifest import (
    DictNode,
    FloatNode,
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
from npu_persist.bundle.signature.describe import describe_call, describe_port, describe_value
from npu_persist.bundle.signature.tree import Opaque, rebuild
from npu_persist.errors import InputError, ManifestError, Problem

if TYPE_CHECKING:
    import numpy as np

_KINDS = {
    "positional_only": inspect.Parameter.POSITIONAL_ONLY,
    "positional_or_keyword": inspect.Parameter.POSITIONAL_OR_KEYWORD,
    "var_positional": inspect.Parameter.VAR_POSITIONAL,
    "keyword_only": inspect.Parameter.KEYWORD_ONLY,
    "var_keyword": inspect.Parameter.VAR_KEYWORD,
}
_POSITIONAL = frozenset({"positional_only", "positional_or_keyword"})
_VARIABLE = frozenset({"var_positional", "var_keyword"})
_MISSING = object()


class CallPlan:
    """A signature made ready for calls: `flatten` turns a call into tensors, `rebuild` turns results into structure."""

    def __init__(
        self,
        signature: Signature,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        optional: Container[int] = (),
    ) -> None:
        """Make a plan for a graph's signature.

        Args:
            signature: how the module is called.
            inputs: the graph's inputs.
            outputs: the graph's outputs.
            optional: inputs, by index, for which a call may give None, or nothing: `flatten` then gives None.

        Raises:
            ManifestError: it is no signature that Python could have, or a parameter without default has no argument.

        """
        self.signature = signature
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._arguments = dict(signature.arguments)
        self._optional = optional
        try:
            self._binder = inspect.Signature([_parameter(*part) for part in _parts(signature, optional)])
            rebuild(signature.result, self.outputs)  # raises for named tuples that cannot be
        except ValueError as error:
            raise ManifestError(
                f"the manifest's signature is none that a module can have: {error}. The manifest is damaged or "
                "npu_persist did not write it: persist the model again, or get another copy of the bundle.",
                problems=(Problem("signature", str(error)),),
            ) from error
        self._leading = self._leading_tensors()

    def _leading_tensors(self) -> int:
        """Count of tensors when a call of just that many positional arguments maps to them one to one, else -1."""
        count = len(self._arguments)
        leading = self.signature.parameters[:count]
        is_plain = all(
            parameter.kind in {"positional_only", "positional_or_keyword"}
            and self._arguments.get(parameter.name) == TensorNode(position)
            for position, parameter in enumerate(leading)
        )
        return count if is_plain and count == len(self.inputs) == len(leading) else -1

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
            named = re.search(r"'([^']+)'", str(error))
            raise InputError(
                f"the call does not fit the model: {error}. Expected {self}",
                argument=None if named is None else named[1],
                expected=str(self),
                got=str(error),
            ) from error
        bound.apply_defaults()
        leaves: list[Any] = [_MISSING] * len(self.inputs)
        for parameter in self.signature.parameters:
            value = bound.arguments[parameter.name]
            tree = self._arguments.get(parameter.name, parameter.default)
            if tree is not None:
                self._collect(tree, value, parameter.name, leaves)
            elif value:  # what * or ** took
                raise self._error(parameter.name, "nothing: the persisted example did not give it", value)
        return leaves

    def _collect(self, tree: Tree, value: Any, where: str, leaves: list[Any]) -> None:
        if isinstance(tree, TensorNode):
            if value is None and tree.index in self._optional:
                leaves[tree.index] = None
                return
            if value is None or isinstance(value, (str, bytes, Mapping)):
                raise self._error(where, describe_port(self.inputs[tree.index]), value)
            leaves[tree.index] = value
        elif isinstance(tree, (ValueNode, FloatNode)):
            if not _is_same_value(tree.value, value):
                raise self._error(
                    where,
                    f"{tree.value!r}: the value was fixed when the module was traced; to vary it, persist with a "
                    "tensor in its place, or persist a second bundle",
                    value,
                )
        elif isinstance(tree, OpaqueNode):
            if not (isinstance(value, Opaque) and value.text == tree.text):
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
        given = _read_fields(tree, value)
        names = [name for name, _ in tree.fields]
        if any(name not in names and item is not None for name, item in given.items()):
            raise self._error(where, f"{tree.type_name} with only the fields {names}", value)
        for name, child in tree.fields:
            # A ModelOutput has no key for what is None.
            item = given.get(name, None if child == ValueNode(None) else _MISSING)
            if item is _MISSING:
                raise self._error(where, f"{tree.type_name} with the fields {names}", value)
            yield f"{where}.{name}", child, item

    def _error(self, where: str, expected: str, got: Any) -> InputError:
        text = describe_value(got)
        return InputError(
            f"argument {where}: expected {expected}; got {text}. Expected {self}",
            argument=where,
            expected=expected,
            got=text,
        )

    def rebuild(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
        """Return the module's result structure filled with `arrays`, one for each output of the graph."""
        result = self.signature.result
        return arrays[result.index] if isinstance(result, TensorNode) else rebuild(result, arrays)

    def __str__(self) -> str:
        return describe_call(self.signature, self.inputs, self.outputs)


def _parts(signature: Signature, optional: Container[int]) -> list[tuple[str, str, Tree | None]]:
    given = dict(signature.arguments)
    parts: list[tuple[str, str, Tree | None]] = []
    is_last = True
    for parameter in reversed(signature.parameters):
        tree, default = given.get(parameter.name), parameter.default
        if default is None and parameter.kind not in _VARIABLE and tree is None:
            raise ValueError(f"parameter {parameter.name} has neither a default nor an argument")
        is_positional = parameter.kind in _POSITIONAL
        if default is None and isinstance(tree, TensorNode) and tree.index in optional:
            # Python has no positional parameter without a default after one with: there None has to be written.
            default = ValueNode(None) if is_last or not is_positional else None
        is_last = is_last and not (is_positional and default is None)
        parts.append((parameter.name, parameter.kind, default))
    return parts[::-1]


def _parameter(name: str, kind: str, default: Tree | None) -> inspect.Parameter:
    value = inspect.Parameter.empty if default is None else rebuild(default, ())
    return inspect.Parameter(name, _KINDS[kind], default=value)


def _read_fields(tree: NamedTupleNode | RecordNode, value: Any) -> dict[Any, Any]:
    """Return the fields of a record-like value; some of the wanted ones where it is none."""
    if isinstance(value, Mapping):
        return {name: value[name] for name in value}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    names = [name for name, _ in tree.fields]
    if isinstance(value, (list, tuple)):
        is_whole = isinstance(tree, NamedTupleNode) and len(value) == len(names)
        return dict(zip(names, value, strict=True)) if is_whole else {}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _is_same_value(expected: float | str | None, value: Any) -> bool:
    """Tell whether a value is the one that was fixed: as equal numbers, but flags only equal flags."""
    if expected is None or isinstance(expected, str):
        return value is None if expected is None else isinstance(value, str) and value == expected
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(expected, bool) and isinstance(value, bool) and value == expected
    is_nan = expected != expected  # noqa: PLR0124 - math.isnan fails for integers beyond a float's range
    return isinstance(value, (int, float)) and (value == expected or (is_nan and value != value))  # noqa: PLR0124
