"""Faults in the functions of `os`: one that fails, a disk that is full from some call on.

The calls are those through which a store changes anything. What the n-th of them does is chosen by number, so that a
test can go through all of them without knowing how publishing works. `injection` does the same at system calls, and
kills: these run on every platform, and in a moment.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODE = "chmod" if os.name == "nt" else "fchmod"
"""How a file becomes read-only."""

CHANGING = ("mkdir", "open", "link", "replace", "rename", "fsync", MODE, "unlink", "rmdir")
"""Functions of `os` that change a file system, or wait for it; of `open`, the calls that write."""

ALLOCATING = ("mkdir", "open", "link", "replace", "fsync")
"""Those that a full disk refuses."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@contextmanager
def before_call(action: Callable[[int, str], None], names: tuple[str, ...] = CHANGING) -> Iterator[None]:
    """Call `action` with number and name before each call of one of the functions."""
    count = 0
    originals = {name: getattr(os, name) for name in names}

    def wrap(name: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if name != "open" or args[1] & _WRITING:
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


def path_at(path: str | os.PathLike[str], descriptor: int | None) -> Path:
    """Return the whole path of what a call of `os` names in the folder of a descriptor."""
    return Path(path) if descriptor is None else Path(f"/proc/self/fd/{descriptor}").readlink() / path


def disk_full(*_: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
