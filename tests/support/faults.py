"""Faults in the file system: a call that fails, a disk that is full from some call on, a process that is killed.

The calls are those through which a store changes anything. What the n-th of them does is chosen by number, so that a
test can go through all of them without knowing how publishing works.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANGING = ("mkdir", "open", "link", "replace", "rename", "fsync", "chmod", "unlink", "rmdir")
"""Functions of `os` that change a file system, or wait for it."""

ALLOCATING = ("mkdir", "open", "link", "replace", "fsync")
"""Those that a full disk refuses."""


@contextmanager
def before_call(action: Callable[[int, str], None], names: tuple[str, ...] = CHANGING) -> Iterator[None]:
    """Call `action` with number and name before each call of one of the functions."""
    count = 0
    originals = {name: getattr(os, name) for name in names}

    def wrap(name: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            action(count, name)
            return originals[name](*args, **kwargs)

        return wrapped

    try:
        for name in names:
            setattr(os, name, wrap(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def disk_full(*_: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed(*_: object) -> None:
    """Be killed, as by the kernel: no exception, no cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)
