"""Staging directories, in which a bundle or cache entry is filled before it is published.

A staging directory is locked by the process that fills it, so that `prune_staging` removes only those of processes that
were killed. Where the file system has no locks, it leaves those alone that were made within a day.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from npu_persist.files.filesystem import DISK_FULL, is_directory, remove, store_errors
from npu_persist.files.locks import LOCK_SUFFIX, NO_LOCKS, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.files.locks import Lock

UNLOCKED_AGE = 24 * 3600.0
"""Age in seconds after which a staging directory is taken for a leftover where there are no locks."""

_ATTEMPTS = 100
"""How often other processes may remove the empty root, or prune a lock file, between two steps of ours."""


@contextmanager
def staged(root: Path) -> Iterator[Path]:
    """Make a new staging directory in `root`, and remove it at the end if it is still there."""
    with store_errors(f"make a staging directory in {root}"):
        path, lock = _reserve(root)
    try:
        with store_errors(f"make {path}"):
            path.mkdir()
        # The block may do more than write here: its other errors are its own.
        with store_errors(f"write to {path}", only=DISK_FULL):
            yield path
    finally:
        with suppress(OSError):  # then it is a leftover for prune
            remove(path)
        _remove_lock_file(path, lock)


def prune_staging(root: Path) -> Iterator[Path]:
    """Remove what killed processes left in `root`; yield each staging directory that was removed."""
    names = os.listdir(root) if is_directory(root) else []  # noqa: PTH208
    for name in sorted({name.removesuffix(LOCK_SUFFIX) for name in names}):
        path = root / name
        lock = None
        try:
            lock = try_lock(_lock_path(path))
        except (PermissionError, FileNotFoundError):
            continue  # another user's; or the root was removed meanwhile
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            if _is_young(path):
                continue
        else:
            if lock is None:
                continue
        try:
            found = os.path.lexists(path)  # it may have been published before it was locked
            remove(path)
        finally:
            _remove_lock_file(path, lock)
        if found:
            yield path


def _reserve(root: Path) -> tuple[Path, Lock | None]:
    """Choose a name and lock it; without a lock where there are none."""
    attempt = 0
    while True:
        attempt += 1
        path = root / os.urandom(8).hex()
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = try_lock(_lock_path(path))
        except (FileNotFoundError, FileExistsError):  # another process removed the root, since it was empty
            if attempt == _ATTEMPTS:
                raise
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return path, None
        else:
            if lock is not None or attempt == _ATTEMPTS:
                return path, lock


def _is_young(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime < UNLOCKED_AGE
    return False


def _remove_lock_file(path: Path, lock: Lock | None) -> None:
    if lock is not None and os.name == "nt":  # where an open file cannot be removed
        lock.release()
    with suppress(OSError):
        remove(_lock_path(path))
    if lock is not None:
        lock.release()  # after the file is gone: any prune takes an unlocked one for a leftover


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{LOCK_SUFFIX}")
