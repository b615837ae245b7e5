"""The folder of the compile cache, and what its names mean.

    <home>/compile-cache/
      <key>/                        an entry; the key is 64 hex digits
        artifact.json               what it is (see `artifact`), read-only
        model.blob | openvino/...   what the compiler made, read-only
        used                        its time is that of the last use; locked while it is in use (see `hold`)
      <key>.lock                    locked by the process that compiles
      aside/<key>-<16 hex digits>/  damaged, or being removed
      staging/                      entries that are being filled (see `staging`)

The staging folder is in here and not the store's: the cache alone may be on another disk, or be what can be written.

The promise: nothing is removed or renamed that is not named as above, and no link is followed.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import USED_FILE
from npu_persist.cache.entry import Entry, read_entry, read_stamp
from npu_persist.files.filesystem import is_directory, remove, rename_new, store_errors
from npu_persist.files.locks import LOCK_SUFFIX, try_lock, unshared

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "compile-cache"
"""Where in a home the cache is."""

log = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ASIDE = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}", re.ASCII)
_OWN = frozenset({"aside", "staging"})


def is_key(name: str) -> bool:
    """Tell whether a text is a key."""
    return _KEY.fullmatch(name) is not None


class Folder:
    """The folder, which need not exist.

    Attributes:
        path: `<home>/compile-cache`.
        aside: Where damaged entries go.
        staging: Where entries are filled.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / NAME
        self.aside = self.path / "aside"
        self.staging = self.path / "staging"

    def entries(self) -> Iterator[Entry]:
        """Yield what is named like an entry, by key; what cannot be read too, with that as its problem."""
        for path in (self.path / name for name in self._names() if is_key(name)):
            with suppress(FileNotFoundError):  # removed since it was listed
                yield _read_any(path)

    def locks(self) -> Iterator[Path]:
        """Yield the lock files."""
        yield from (self.path / name for name in self._names() if _is_lock(name))

    def asides(self) -> Iterator[Path]:
        """Yield what was put aside."""
        names = os.listdir(self.aside) if is_directory(self.aside) else []  # noqa: PTH208
        yield from (self.aside / name for name in sorted(names) if _ASIDE.fullmatch(name))

    def strangers(self) -> Iterator[Path]:
        """Yield what has a name that nothing of ours has."""
        yield from (self.path / name for name in self._names() if not (name in _OWN or is_key(name) or _is_lock(name)))

    def move_aside(self, path: Path, stamp: tuple[int, int]) -> Path | None:
        """Rename an entry into `aside`, and return where it is; None if it is gone, or another has taken its place.

        Raises:
            OSError: The file system refuses.
        """
        self.aside.mkdir(exist_ok=True)
        target = self.aside / f"{path.name}-{os.urandom(8).hex()}"
        try:
            if read_stamp(path) != stamp:
                return None
            rename_new(path, target)
            if read_stamp(target) == stamp:
                return target
        except FileNotFoundError:
            return None
        with suppress(OSError):  # replaced between the look and the rename: back with it, unless there is a third
            rename_new(target, path)
        return None

    def remove_entry(self, entry: Entry) -> bool:
        """Remove an entry by one rename, and then its files; tell whether that happened.

        It did not if the entry is in use, gone, or another user's.

        Raises:
            OSError: The file system refuses.
        """
        with unshared(entry.path / USED_FILE) as free:
            if not free:
                return False
            try:
                moved = self.move_aside(entry.path, entry.stamp)
            except PermissionError as error:  # another user's; on Windows, one of whose files was opened just now
                log.warning("compile cache: %s cannot be removed: %s", entry.path, error)
                return False
        if moved is None:
            return False
        with suppress(OSError):  # what cannot be removed now is a leftover, for the next prune
            remove(moved)
        return True

    def _names(self) -> list[str]:
        with store_errors(f"list the compile cache {self.path}"):
            try:
                return sorted(os.listdir(self.path))  # noqa: PTH208
            except FileNotFoundError:
                return []


def remove_aside(path: Path) -> bool:
    """Remove what was put aside; tell whether that happened: not if it is in use, or another user's."""
    with unshared(path / USED_FILE) as free:
        if not free:
            return False
    with suppress(PermissionError):  # on Windows also what is in use after all
        remove(path)
        return True
    return False


def remove_lock(path: Path) -> None:
    """Remove a lock file that nobody holds."""
    with suppress(OSError):
        lock = try_lock(path)
        if lock is None:
            return
        try:
            if os.name != "nt":  # where an open file cannot be removed
                remove(path)
        finally:
            lock.release()
        if os.name == "nt":
            remove(path)


def _is_lock(name: str) -> bool:
    return name.endswith(LOCK_SUFFIX) and is_key(name.removesuffix(LOCK_SUFFIX))


def _read_any(path: Path) -> Entry:
    try:
        return read_entry(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        return Entry(path.name, path, None, f"cannot be read: {error.strerror or error}", (0, 0))
