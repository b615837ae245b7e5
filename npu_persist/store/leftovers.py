"""Leftovers: what interrupted runs leave in a store, and `prune` removes.

The promise: nothing that a reference can mean is removed, and nothing that a living process works on.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from npu_persist.bundle.bundle import PARTIAL_SUFFIX
from npu_persist.files.filesystem import is_directory, remove_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.store.layout import NameFolder

PARTIAL_AGE = 3600.0
"""Seconds after which nobody is copying to a file any more."""


def prune_name(folder: NameFolder) -> Iterator[Path]:
    """Remove the leftovers of one name; yield each thing that was removed."""
    yield from folder.sweep()
    yield from folder.remove_empty()
    for number in folder.versions():
        yield from _prune_partial(folder.version_path(number))
    if remove_if_empty(folder):
        yield folder.path


def remove_if_empty(folder: NameFolder) -> bool:
    """Remove the folder of a name in which nothing was ever published; tell whether that happened."""
    if folder.versions() or not is_directory(folder.path):
        return False
    with suppress(OSError):
        os.rmdir(folder.aliases_path)  # noqa: PTH106
    with suppress(OSError):
        os.rmdir(folder.path)  # noqa: PTH106
        return True
    return False


def _prune_partial(directory: Path) -> Iterator[Path]:
    for path in directory.rglob(f"*{PARTIAL_SUFFIX}"):
        with suppress(FileNotFoundError):
            found = path.lstat()
            # Linking changes ctime only, copying mtime.
            if time.time() - max(found.st_mtime, found.st_ctime) > PARTIAL_AGE:
                remove_file(path)
                yield path
