"""Staging directories: where a bundle is filled before it is published.

The promise: a staging directory is removed when its block ends, however it ends, and if the process is killed, `prune`
removes it. A directory that a living process fills is left alone: that process holds a lock that the operating system
lets go of with the process. Where the file system has no locks, what was made lately is left alone in their place.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from npu_persist.files.filesystem import DISK_FULL, NO_LOCKS, is_directory, remove, store_errors, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.files.filesystem import Lock

LOCK_SUFFIX = ".lock"
"""What the name of a staging directory's lock file ends with."""

UNLOCKED_AGE = 24 * 3600.0
"""Seconds after which nobody is filling a staging directory any more, where locks cannot tell."""

_LOST_RACES = 100
"""How often others may be faster: a prune, before going on without a lock, for one that makes no file locks nothing."""


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """Make a new staging directory in `root`, and remove it at the end if it is still there.

    Raises:
        StoreError: It cannot be made, or the disk is full inside the block.
    """
    with store_errors(f"make a staging directory in {root}"):
        path, lock = _claim(root)
    try:
        with store_errors(f"make {path}"):
            path.mkdir()
        # The block may do more than write here; other errors than these are its own.
        with store_errors(f"write to {path}", only=DISK_FULL):
            yield path
    finally:
        with suppress(OSError):  # what cannot be removed now is a leftover, for prune
            remove(path)
        _give_back(_lock_path(path), lock)


def prune_staging(root: Path) -> Iterator[Path]:
    """Remove what killed processes left in `root`; yield each staging directory that was removed."""
    names = os.listdir(root) if is_directory(root) else []  # noqa: PTH208 (nothing is removed through a link)
    for key in sorted({name.removesuffix(LOCK_SUFFIX) for name in names}):
        path = root / key
        lock = None
        try:
            lock = try_lock(_lock_path(path))
        except (PermissionError, FileNotFoundError, FileExistsError):
            continue  # another user's; or the root was removed while the lock file was made
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            if _is_young(path):
                continue
        else:
            if lock is None:
                continue  # its process lives
        try:
            # Looked at under the lock: it may have been published since it was listed.
            found = os.path.lexists(path)
            remove(path)
        finally:
            _give_back(_lock_path(path), lock)
        if found:
            yield path


def _make_root(root: Path) -> None:
    for race in range(_LOST_RACES):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError):  # another process removed it, since it was empty
            if race + 1 == _LOST_RACES or _is_something_else(root):
                raise
        else:
            return


def _is_something_else(root: Path) -> bool:
    try:
        return not stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError:
        return False


def _claim(root: Path) -> tuple[Path, Lock | None]:
    path, lock = root, None
    for race in range(_LOST_RACES):
        _make_root(root)
        path = root / os.urandom(8).hex()
        lock_path = _lock_path(path)
        try:
            lock = try_lock(lock_path)
        except (FileNotFoundError, FileExistsError):  # another process removed the root again
            if race + 1 == _LOST_RACES:
                raise
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            break
        if lock is None:
            continue
        if lock_path.exists():
            break
        # A prune took the file for a leftover, between its making and its locking; now that it is locked none can.
        lock.release()
    return path, lock


def _is_young(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime < UNLOCKED_AGE
    return False


def _give_back(lock_path: Path, lock: Lock | None) -> None:
    if lock is not None and os.name == "nt":  # where an open file cannot be removed
        lock.release()
    with suppress(OSError):
        remove(lock_path)
    if lock is not None:
        lock.release()  # not before the file is gone: one that is not locked is a leftover to any prune


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{LOCK_SUFFIX}")
