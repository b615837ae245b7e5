"""Holds: what marks a folder of the cache as in use, by its file `used`.

The promise: while a hold lives, in whatever process, `unused` says that its folder is not; the operating system ends
the hold with the process, however that ends. Taking one never fails: where there can be none, there is none.

POSIX: a shared flock. It belongs to the open file, so a forked child shares the hold, which ends when both have closed
it; and two holds of one process are two. Windows: the open file itself, since CPython opens files without
FILE_SHARE_DELETE, and what is open so can be neither removed nor renamed, nor the folder that it is in.
"""

from __future__ import annotations

import os
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import USED_FILE
from npu_persist.files.filesystem import is_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Self

_WINDOWS = os.name == "nt"
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags that open a regular file as ever, and neither follow a link nor wait for the other end of a pipe."""

_ATTEMPTS = 20
_PAUSE = 0.001


class Hold:
    """A folder that is in use, until `release`, the end of the block, or that of the process."""

    __slots__ = ("__weakref__", "_close")

    def __init__(self, descriptor: int) -> None:
        self._close = weakref.finalize(self, os.close, descriptor)
        self._close.atexit = False  # the operating system does it, and a forked child has nothing to say about it

    def release(self) -> None:
        """End it; more than once is fine."""
        # Closing only: unlocking would end the hold of a forked child as well.
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def take_hold(folder: Path) -> Hold | None:
    """Mark a folder as in use, and now as the time of its last use.

    Returns:
        The hold; None where the folder is gone or being removed, or cannot be marked.
    """
    path = folder / USED_FILE
    try:
        hold = Hold(descriptor := os.open(path, os.O_RDONLY | os.O_CREAT | _SAFELY, 0o666))
    except OSError:
        return None
    with suppress(OSError):  # a file of another user
        os.utime(descriptor if os.utime in os.supports_fd else path)
    if _WINDOWS or (_share(descriptor) and _is_at(descriptor, path)):
        return hold
    hold.release()
    return None


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Tell whether nobody holds a folder; while the block runs nobody can take a hold, where there are locks.

    Who looks at the same time in another process makes it look used: at worst something is removed a little later.
    """
    path = folder / USED_FILE
    if not is_directory(folder) or not os.path.lexists(path):
        yield True
    elif _WINDOWS:
        # Nothing may stay open here: the caller is going to rename the folder.
        yield _can_be_renamed(path)
    else:
        try:
            descriptor = _open_to_lock(path)
        except OSError:  # no file of ours
            yield True
            return
        try:
            yield _exclude(descriptor)
        finally:
            os.close(descriptor)


def _share(descriptor: int) -> bool:
    import fcntl

    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # someone asks `unused`, and is done in a moment
            time.sleep(_PAUSE)
        except OSError:  # no locks here
            return False
        else:
            return True
    return False


def _exclude(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here: files that are open or mapped outlive their removal
        return True
    return True


def _open_to_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | _SAFELY)  # NFS locks only what is open for writing
    except PermissionError:
        return os.open(path, os.O_RDONLY | _SAFELY)


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether a file is still where it was opened: its folder may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _can_be_renamed(path: Path) -> bool:
    try:
        os.rename(path, path)  # noqa: PTH104
    except PermissionError:
        return False
    except FileNotFoundError:  # removed since it was seen
        return True
    return True
