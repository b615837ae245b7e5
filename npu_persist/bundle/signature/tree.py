"""From the manifest's trees back to nested Python values."""

from __future__ import annotations

import collections
import functools
from typing import TYPE_CHECKING, Any

from npu_persist.bundle.manifest import (
    DictNode,
    FloatNode,
    ListNode,
    NamedTupleNode,
    RecordNode,
    TensorNode,
    Tree,
    TupleNode,
    ValueNode,
)
from npu_persist.bundle.signature.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence


class Opaque:
    """Stands for a default value that could not be written to the manifest; equal to nothing a caller can pass."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def rebuild(tree: Tree, arrays: Sequence[Any]) -> Any:
    """Return the structure that `tree` describes, its tensors taken from `arrays` by index.

    Dataclasses and ModelOutputs become a `Record`; named tuples are made anew under their name and fields.

    Raises:
        ValueError: a named tuple's name or fields are no Python names.

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
        return Record(tree.type_name, {name: rebuild(item, arrays) for name, item in tree.fields})
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
