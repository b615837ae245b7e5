"""Whose files are believed: those that nobody but this process's user and root can have written."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

_believed: set[Path] = set()


def find_distrust(folder: Path) -> str | None:
    """Return why a folder of a store may hold what other users wrote, and what to do; None if not, or on Windows.

    What the compile cache, the known keys and the stamps say is believed: it runs on a device, or decides what may. So
    nobody but this process's user and root may have been able to write there; a process of root's believes only root.
    The store's home counts, too: who may write there can put another folder in the place of this one. A folder that is
    believed is not looked at again.
    """
    if os.name == "nt" or folder in _believed:
        return None
    try:
        reason = _describe(folder.parent, os.stat(folder.parent), is_home=True)  # noqa: PTH116
        reason = reason or _describe(folder, os.stat(folder))  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{folder} cannot be looked at: {error.strerror or error}"
    if reason is None:
        _believed.add(folder)
    return reason


def is_own(found: os.stat_result) -> bool:
    """Tell whether a file or folder is this process's user's or root's, and nobody else may write to it."""
    return os.name == "nt" or (found.st_uid in _users() and not found.st_mode & _OTHERS_WRITE)


def _describe(path: Path, found: os.stat_result, *, is_home: bool = False) -> str | None:
    if found.st_uid not in _users():
        return (
            f"{path} belongs to user {found.st_uid}, and this process is user {os.geteuid()}'s, who cannot know what "
            "others put there. Set NPU_PERSIST_HOME to a store of this user's own"
        )
    # In a folder like /tmp nobody may rename what is another's.
    if not found.st_mode & _OTHERS_WRITE or (is_home and found.st_mode & stat.S_ISVTX):
        return None
    return f"other users may write to {path} (mode {stat.S_IMODE(found.st_mode):o}). Run: chmod go-w {path}"


def _users() -> tuple[int, int]:
    return os.geteuid(), 0
