"""Names of dynamic axes: a symbol (`batch`), or one computed from it (`2*batch+1`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_DERIVED = re.compile(r"([1-9][0-9]{0,8})\*(.+?)([+-][0-9]{1,9})?", re.ASCII)


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

    >>> size_of("2*batch+1", {"batch": 3})
    7
    """
    factor, root, offset = read_symbol(name)
    return factor * sizes[root] + offset if root in sizes else None
