"""Whether the sizes of the call that is being captured are fixed: then a decomposition may count with them."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIXED: ContextVar[bool] = ContextVar("fixed", default=True)


@contextlib.contextmanager
def sizes_are(*, fixed: bool) -> Iterator[None]:
    """Say whether every size inside of the block stays as it is in the example."""
    token = _FIXED.set(fixed)
    try:
        yield
    finally:
        _FIXED.reset(token)


def fixed_size(size: Any) -> int | None:
    """Return a size as a number, or None where it may be another in the next call."""
    if isinstance(size, torch.SymInt) or not _FIXED.get():
        return None
    return int(size)
