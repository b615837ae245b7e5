"""Shapes, structures, calls and values as short text, for errors and listings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.manifest import (
    DictNode,
    Dimension,
    FloatNode,
    ListNode,
    OpaqueNode,
    Parameter,
    Port,
    Signature,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

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
