"""Locks on files, which the operating system releases when their process ends, however it ends.

They only save work: everything stays correct on a file system that has none, or whose locks do nothing.

POSIX has flock, which belongs to the open file: two locks of one process exclude each other, and a forked child shares
its parent's. On Windows an exclusive lock is a locked byte, and a shared one the open file itself: CPython opens files
without FILE_SHARE_DELETE, so that neither they nor the folder they are in can be removed or renamed.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from contextlib import contextmanager, suppress
from errno import EINVAL, EIO, ENOLCK, ENOSYS, EOPNOTSUPP
from typing import TYPE_CHECKING

from npu_persist.files.filesystem import FILE_MODE, is_directory

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Self

LOCK_SUFFIX = ".lock"
"""End of a lock file's name."""

NO_LOCKS = frozenset({EINVAL, EIO, ENOLCK, ENOSYS, EOPNOTSUPP})
"""Error numbers of a file system that has no locks: of NFS, FUSE, 9p and others."""

_WINDOWS = os.name == "nt"
_REGULAR_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags that neither follow a link nor wait for the other end of a pipe."""

_ATTEMPTS = 20
_PAUSE = 0.001


class Lock:
    """A lock, until `release`, the end of the block, or that of the process."""

    __slots__ = ("__weakref__", "_close", "_descriptor", "_is_exclusive")

    def __init__(self, descriptor: int, *, is_exclusive: bool) -> None:
        self._descriptor, self._is_exclusive = descriptor, is_exclusive
        self._close = weakref.finalize(self, os.close, descriptor)
        self._close.atexit = False  # the operating system does it, and a forked child must not

    def release(self) -> None:
        """Release the lock; more than once is fine."""
        # An exclusive lock ends although a forked child has the file open. A shared one is the child's as well.
        if self._is_exclusive and self._close.alive:
            with suppress(OSError):  # a network file system may fail here; closing the file ends the lock as well
                _unlock(self._descriptor)
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path) -> Lock | None:
    """Lock a lock file exclusively, without waiting; the file is made if it is missing, and stays."""
    descriptor = _make_or_open(path)
    try:
        if _lock(descriptor) and (_WINDOWS or _is_at(descriptor, path)):
            return Lock(descriptor, is_exclusive=True)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def try_share(path: Path) -> Lock | None:
    """Lock a file together with others that do so, and set its time to now; the file is made if it is missing."""
    descriptor = _open_to_share(path)
    if descriptor is None:
        return None
    lock = Lock(descriptor, is_exclusive=False)
    with suppress(OSError):  # another user's file
        os.utime(descriptor if os.utime in os.supports_fd else path)
    if _WINDOWS or (_share(descriptor) and _is_at(descriptor, path)):
        return lock
    lock.release()
    return None


@contextmanager
def unshared(path: Path) -> Iterator[bool]:
    """Tell whether nobody shares a file's lock; while the block runs nobody can, where there are locks.

    Of two that ask at once, each may take the other for one that shares it.
    """
    if not is_directory(path.parent) or not os.path.lexists(path):
        yield True
    elif _WINDOWS:
        yield _can_be_renamed(path)  # nothing may stay open here: the caller is going to rename the folder
    else:
        try:
            descriptor = _open_to_lock(path)
        except OSError:  # no file of ours
            yield True
            return
        try:
            yield _lock_if_possible(descriptor)
        finally:
            os.close(descriptor)


if sys.platform == "win32":

    def _lock(descriptor: int) -> bool:
        from npu_persist.files.windows import lock_byte  # ctypes, which nothing else of a lock needs

        return lock_byte(descriptor)

    def _unlock(descriptor: int) -> None:
        from npu_persist.files.windows import unlock_byte

        unlock_byte(descriptor)

    def _share(_descriptor: int) -> bool:
        return True

else:

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _share(descriptor: int) -> bool:
        for _ in range(_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # someone is in `unshared`, and done in a moment
                time.sleep(_PAUSE)
            except OSError:  # no locks here
                return False
            else:
                return True
        return False


def _lock_if_possible(descriptor: int) -> bool:
    try:
        return _lock(descriptor)
    except OSError:  # no locks here: files that are open or mapped outlive their removal
        return True


def _make_or_open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | _REGULAR_FILE
    for _ in range(_ATTEMPTS if _WINDOWS else 0):
        try:
            return os.open(path, flags, FILE_MODE)
        except PermissionError:
            if not path.exists():
                raise
            time.sleep(_PAUSE)  # someone is removing it, and done in a moment
    return os.open(path, flags, FILE_MODE)


def _open_to_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | _REGULAR_FILE)  # NFS locks only what is open for writing
    except PermissionError:
        return os.open(path, os.O_RDONLY | _REGULAR_FILE)


def _open_to_share(path: Path) -> int | None:
    for _ in range(_ATTEMPTS):
        try:
            return os.open(path, os.O_RDONLY | os.O_CREAT | _REGULAR_FILE, FILE_MODE)
        except PermissionError:
            if not _WINDOWS:
                return None
            time.sleep(_PAUSE)  # someone is in `unshared`, and done in a moment
        except OSError:
            return None
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether a file is still where it was opened: it may have been removed before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _can_be_renamed(path: Path) -> bool:
    try:
        os.rename(path, path)  # noqa: PTH104
    except PermissionError:
        return False
    except FileNotFoundError:  # removed meanwhile
        pass
    return True
