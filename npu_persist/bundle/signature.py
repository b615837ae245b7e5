"""How a persisted module is called: nested arguments to a flat list of tensors, and a flat list back to nested results.

Everything but tensors (None, flags, numbers, strings) was fixed when the module was traced; a call that passes another
value is refused.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.bundle.graph_records import (
    Bounds,
    DictNode,
    Dimension,
    FloatNode,
    ListNode,
    NamedTupleNode,
    OpaqueNode,
    Parameter,
    Port,
    RecordNode,
    Signature,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)
from npu_persist.errors import InputError, ManifestError, Problem

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    import numpy as np


class ModelOutput(Mapping[str, Any]):
    """A dataclass or transformers output of the module, whose class does not exist where the model is loaded.

    Fields are read as attributes, by key or by position, and cannot be set. A field that is None is an attribute but
    not a key, as in transformers' ModelOutput. A field named like one of a mapping's methods (`values`, `items`) is
    what its attribute gives, as it was in the module.

    >>> output = ModelOutput("Output", {"logits": 1.5, "loss": None})
    >>> output.logits, output["logits"], output[0], output.loss, list(output)
    (1.5, 1.5, 1.5, None, ['logits'])
    """

    __slots__ = ("_fields", "_type_name")

    def __init__(self, type_name: str, fields: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_type_name", type_name)
        object.__setattr__(self, "_fields", dict(fields))

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            fields = object.__getattribute__(self, "_fields")
            if name in fields:
                return fields[name]
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        # Reached for names with an underscore that are fields, and for those that are nothing.
        fields: dict[str, Any] = object.__getattribute__(self, "_fields")
        if name in fields:
            return fields[name]
        raise AttributeError(f"{self._type_name} has no field {name!r}; its fields are {', '.join(fields)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self._type_name} is read-only: cannot set {name!r}")

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return _present(self._fields)[key]
        if self._fields[key] is None:
            raise KeyError(key)
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self._fields.items() if value is not None)

    def __len__(self) -> int:
        return len(_present(self._fields))

    def __reduce__(self) -> tuple[type[ModelOutput], tuple[str, dict[str, Any]]]:
        return (ModelOutput, (self._type_name, self._fields))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._fields})

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are not None, in order."""
        return _present(self._fields)

    def __repr__(self) -> str:
        return f"{self._type_name}({', '.join(f'{name}={value!r}' for name, value in self._fields.items())})"


def _present(fields: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(value for value in fields.values() if value is not None)


class Opaque:
    """Stands for a default value that could not be written to the manifest; equal to nothing a caller can pass."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def rebuild(tree: Tree, arrays: Sequence[Any]) -> Any:
    """Return the structure that `tree` describes, its tensors taken from `arrays` by index.

    Dataclasses and ModelOutputs become a `ModelOutput`; named tuples are made anew under their name and fields.
    """
    if isinstance(tree, TensorNode):
        return arrays[tree.index]
    if isinstance(tree, (ValueNode, FloatNode)):
        return tree.value
    if isinstance(tree, ListNode):
        return [rebuild(item, arrays) for item in tree.items]
    if isinstance(tree, TupleNode):
        return tuple(rebuild(item, arrays) for item in tree.items)
    if isinstance(tree, DictNode):
        return {key: rebuild(item, arrays) for key, item in tree.items}
    if isinstance(tree, RecordNode):
        return ModelOutput(tree.type_name, {name: rebuild(item, arrays) for name, item in tree.fields})
    if isinstance(tree, NamedTupleNode):
        made = _named_tuple(tree.type_name, tuple(name for name, _ in tree.fields))
        return made(*(rebuild(item, arrays) for _, item in tree.fields))
    return Opaque(tree.text)


@functools.lru_cache(maxsize=1000)
def _named_tuple(type_name: str, fields: tuple[str, ...]) -> Any:
    base: Any = collections.namedtuple  # noqa: PYI024 - made from data
    made = base(type_name, fields)
    # Pickle would look the class up by its name, and there is no module that has it.
    made.__reduce__ = lambda value: (_restore, (type_name, fields, tuple(value)))
    return made


def _restore(type_name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _named_tuple(type_name, fields)(*values)


_DERIVED = re.compile(r"([1-9][0-9]{0,8})\*(.+?)([+-][0-9]{1,9})?", re.ASCII)


_STEPS = re.compile(r"\(*(.+?)([+-][0-9]{1,9})?\)?//([1-9][0-9]{0,8})\)*", re.ASCII)


class Symbol(NamedTuple):
    """What a name says of a size: it is `factor * root + offset`."""

    factor: int
    root: str
    offset: int


def read_symbol(name: str) -> Symbol:
    """Return what the name of an axis says.

    >>> read_symbol("batch")
    Symbol(factor=1, root='batch', offset=0)
    >>> read_symbol("2*batch+1")
    Symbol(factor=2, root='batch', offset=1)
    """
    found = _DERIVED.fullmatch(name)
    return Symbol(1, name, 0) if found is None else Symbol(int(found[1]), found[2], int(found[3] or 0))


def size_of(name: str, sizes: Mapping[str, int]) -> int | None:
    """Return the size of an axis from the sizes of the symbols; None if its symbol has none.

    >>> size_of("2*batch+1", {"batch": 3}), size_of("(batch+1)//2", {"batch": 3})
    (7, 2)
    """
    factor, root, offset = read_symbol(name)
    if root in sizes:
        return factor * sizes[root] + offset
    steps = _STEPS.fullmatch(root)
    if steps is None or steps[1] not in sizes:
        return None
    return factor * ((sizes[steps[1]] + int(steps[2] or 0)) // int(steps[3])) + offset


def find_root(name: str, roots: Container[str]) -> str | None:
    """Return the symbol that an axis follows; None if it is none of those there are.

    >>> find_root("2*((batch+1)//2)", {"batch"})
    'batch'
    """
    root = read_symbol(name).root
    steps = None if root in roots else _STEPS.fullmatch(root)
    found = root if steps is None else steps[1]
    return found if found in roots else None


def write_symbol(root: str, *, factor: int = 1, shift: int = 0, stride: int = 1, offset: int = 0) -> str:
    """Return the name of an axis of size `factor * ((root + shift) // stride) + offset`, as `size_of` reads it.

    >>> write_symbol("n"), write_symbol("n", shift=1, stride=2), write_symbol("n", factor=2, stride=3, offset=-1)
    ('n', '(n+1)//2', '2*(n//3)-1')
    """
    if stride == 1:
        inner, offset = root, offset + factor * shift
    else:
        inner = f"({root}{shift:+d})//{stride}" if shift else f"{root}//{stride}"
        inner = f"({inner})" if factor != 1 or offset else inner
    return inner if factor == 1 and not offset else f"{factor}*{inner}" + (f"{offset:+d}" if offset else "")


_LONGEST = 200
"""Characters of a value that an error shows."""


def describe_shape(shape: Sequence[int | Dimension]) -> str:
    """Return a shape as text.

    >>> describe_shape((1, Dimension("batch", 1, 8), Dimension(None, 0, None)))
    '[1, batch:1..8, ?:0..]'
    """
    return f"[{', '.join(str(axis) if isinstance(axis, int) else _describe_dimension(axis) for axis in shape)}]"


def describe_port(port: Port) -> str:
    """Return what a port takes or gives: `float32[1, 4]`."""
    return f"{port.dtype}{describe_shape(port.shape)}"


def describe_tree(tree: Tree, ports: Sequence[Port]) -> str:
    """Return a nested structure as text, each tensor as dtype and shape."""
    if isinstance(tree, TensorNode):
        return describe_port(ports[tree.index])
    if isinstance(tree, (ValueNode, FloatNode)):
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


def describe_call(signature: Signature, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """Return a signature as text: `(x: float32[1, 4], /, *, mask: bool[4], scale=2.0) -> float32[1, 2]`.

    What stands after a colon must be given; what stands after `=` may be left out, and is taken as it stands there.
    """
    return (
        f"({', '.join(_describe_parameters(signature, inputs))}) -> "
        f"{describe_tree(signature.result, outputs)}"
    )  # fmt: skip


def _describe_parameters(signature: Signature, inputs: Sequence[Port]) -> Iterator[str]:
    trees = dict(signature.arguments)
    previous, has_star = "", False
    for parameter in signature.parameters:
        if previous == "positional_only" and parameter.kind != "positional_only":
            yield "/"
        if parameter.kind == "keyword_only" and not has_star:
            has_star = True
            yield "*"
        previous = parameter.kind
        star = {"var_positional": "*", "var_keyword": "**"}.get(parameter.kind, "")
        tree = trees.get(parameter.name)
        if tree is not None or not star:
            has_star = has_star or star == "*"
            yield star + _describe_parameter(parameter, tree, inputs)
    if previous == "positional_only":
        yield "/"


def _describe_parameter(parameter: Parameter, tree: Tree | None, inputs: Sequence[Port]) -> str:
    if tree is None and parameter.default is not None:
        return f"{parameter.name}={describe_tree(parameter.default, ())}"
    if tree is None:
        return parameter.name
    may_be_left_out = tree == parameter.default
    return f"{parameter.name}{'=' if may_be_left_out else ': '}{describe_tree(tree, inputs)}"


def _describe_dimension(dimension: Dimension) -> str:
    return f"{dimension.name or '?'}:{describe_bounds(dimension)}"


def describe_bounds(dimension: Dimension) -> str:
    """Return the sizes that a dynamic axis allows.

    >>> describe_bounds(Dimension("batch", 1, None))
    '1..'
    """
    return f"{dimension.min}..{'' if dimension.max is None else dimension.max}"


def describe_values(bounds: Bounds) -> str:
    """Return the values that an input may have.

    >>> describe_values(Bounds(-5, 4)), describe_values(Bounds(0, None)), describe_values(Bounds(0, None, "batch"))
    ('-5 to 4', '0 to any', '0 to batch - 1')
    """
    if bounds.below is not None:
        return f"{bounds.low} to {bounds.below} - 1"
    low, high = ("any" if value is None else str(value) for value in (bounds.low, bounds.high))
    return f"{low} to {high}"


def describe_value(value: Any) -> str:
    """Return what a caller passed as text: dtype and shape of an array, the kind and size of a container."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        text = f"{dtype}{list(shape)}"
        return text if shape else f"{text} of value {value}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Mapping):
        return _shorten(f"a {type(value).__name__} with the keys {list(value)}")
    return _shorten(repr(value))


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


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
        """Make a plan for a graph's signature."""
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
                f"the manifest's signature is impossible for a module: {error}. The manifest is damaged or "
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
        """Bind one call and return its tensors in the order of the graph's inputs."""
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
                raise self._error(parameter.name, "no value: the persisted example did not pass it", value)
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
                    "tensor instead, or persist a second bundle",
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
