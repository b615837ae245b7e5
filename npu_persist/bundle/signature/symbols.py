"""Names of dynamic axes: a symbol (`batch`), or one computed from it (`2*batch+1`, and of outputs `(batch+1)//2`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

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
