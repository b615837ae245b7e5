"""Staging directories, in which a bundle, a cache entry or an export is filled before it is published.

A staging directory is locked by the process that fills it, so that `prune_staging` removes only those of processes that
were killed. Where the file system has no locks, it leaves those alone that were made within a day.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from errno import ELOOP
from functools import partial
from typing import TYPE_CHECKING

from npu_persist.files.filesystem import (
    DISK_FULL,
    FOLDER_MODE,
    PRIVATE_FOLDER_MODE,
    in_threads,
    is_older,
    list_directory,
    make_folder,
    refuse_links,
    remove,
    remove_unused,
    store_errors,
)
from npu_persist.files.locks import LOCK_SUFFIX, NO_LOCKS, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.files.locks import Lock

UNLOCKED_AGE = 24 * 3600.0
"""Age in seconds after which a staging directory is taken for a leftover where there are no locks."""

_OWN_NAME = re.compile(rf"[0-9a-f]{{16}}(?:{re.escape(LOCK_SUFFIX)})?", re.ASCII)
_ATTEMPTS = 100
"""How often a prune of another process may take our lock file for a leftover before we have locked it."""


@contextmanager
def staged(root: Path, *, below: Path, prefix: str = "", parents: bool = True) -> Iterator[Path]:
    """Make a new staging directory in `root`, and remove it at the end if it is still there.

    `root` is made if it is missing, and stays; so are the folders that it is in, if `parents`. A link on the way from
    `below` to it is refused.
    """
    with store_errors(f"make a staging directory in {root}"):
        refuse_links(root, below=below)
        # What is written in here may have any mode until it is published: others do not get in.
        make_folder(root, parents=parents, mode=PRIVATE_FOLDER_MODE)
        path, lock = _reserve(root, prefix)
    try:
        with store_errors(f"make {path}"):
            path.mkdir(FOLDER_MODE)
        # The block may do more than write here: its other errors are its own.
        with store_errors(f"write to {path}", only=DISK_FULL):
            yield path
    finally:
        with suppress(OSError):  # then it is a leftover for prune
            remove(path, below=below)
        _remove_lock_file(path, lock, below)


@contextmanager
def drafted(target: Path) -> Iterator[Path]:
    """Make a new directory beside `target`, to be renamed to it. For folders outside of a store."""
    with staged(target.parent, below=target.parent, prefix=_prefix(target)) as path:
        yield path


def prune_drafts(target: Path) -> None:
    """Remove what killed processes left beside `target`, where no prune comes along. Never an error."""
    with suppress(OSError):
        own = [name for name in list_directory(target.parent) if _is_own(name, _prefix(target))]
        list(_prune(target.parent, own, target.parent))


def prune_staging(root: Path, *, below: Path) -> Iterator[Path]:
    """Remove what killed processes left in `root`, but not through a link; yield each staging directory."""
    yield from _prune(root, list_directory(root), below)


def _prefix(target: Path) -> str:
    return f".{target.name}."


def _is_own(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and _OWN_NAME.fullmatch(name.removeprefix(prefix)) is not None


def _prune(root: Path, names: list[str], below: Path) -> Iterator[Path]:
    paths = [root / name for name in sorted({name.removesuffix(LOCK_SUFFIX) for name in names})]
    for path, is_removed in zip(paths, in_threads(partial(_prune_one, below=below), paths), strict=True):
        if is_removed:
            yield path


def _prune_one(path: Path, below: Path) -> bool:
    """Remove a staging directory and its lock file, unless a process works on it; tell whether there was one."""
    refuse_links(path.parent, below=below)
    lock = None
    try:
        lock = try_lock(_lock_path(path))
    except (PermissionError, FileNotFoundError):
        return False  # another user's; or the root was removed meanwhile
    except OSError as error:
        if error.errno not in {ELOOP, *NO_LOCKS}:
            raise
        if error.errno != ELOOP and _is_young(path):  # a link is no lock of ours
            return False
    else:
        if lock is None:
            return False
    try:
        found = os.path.lexists(path)  # it may have been published before it was locked
        return remove_unused(path, below=below) and found
    finally:
        _remove_lock_file(path, lock, below)


def _reserve(root: Path, prefix: str) -> tuple[Path, Lock | None]:
    """Choose a name and lock it; without a lock where there are none."""
    attempt = 0
    while True:
        attempt += 1
        path = root / f"{prefix}{os.urandom(8).hex()}"
        try:
            lock = try_lock(_lock_path(path))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return path, None
        if lock is not None or attempt == _ATTEMPTS:
            return path, lock


def _is_young(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return not is_older(path.lstat().st_mtime, UNLOCKED_AGE)
    return False


def _remove_lock_file(path: Path, lock: Lock | None, below: Path) -> None:
    if lock is not None and os.name == "nt":  # where an open file cannot be removed
        lock.release()
    with suppress(OSError):
        remove(_lock_path(path), below=below)
    if lock is not None:
        lock.release()  # after the file is gone: any prune takes an unlocked one for a leftover


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{LOCK_SUFFIX}")
