"""The folder of the compile cache: its file names, and what is removed from it.

    <home>/compile-cache/
      <key>/                              an entry; the key is 64 hex digits
        artifact.json                     its description, read-only
        model.blob | openvino/...         what the compiler made, read-only
        used                              its time is that of the last use; locked while the entry is in use
      <key>.lock                          locked by the process that compiles
      quarantine/<key>-<16 hex digits>/   damaged, or being removed; of an entry that cannot be renamed its description
      staging/                            entries that are being filled

Staging is in here, not in the store: the cache alone may be on another disk, or the only folder that can be written.
Other names are never removed or renamed, and no link is followed.
"""

from __future__ import annotations

import logging
import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from npu_persist.artifact.artifact import ARTIFACT_FILE, USED_FILE
from npu_persist.cache.entry import CacheEntry, read_entry, read_stamp, tree_size
from npu_persist.files.filesystem import (
    in_threads,
    list_directory,
    make_folder,
    move_directory,
    refuse_links,
    remove,
    remove_unused,
    rename_new,
    store_errors,
)
from npu_persist.files.locks import LOCK_SUFFIX, try_lock, unshared
from npu_persist.files.staging import prune_staging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_QUARANTINED = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}", re.ASCII)
_OWN = frozenset({"quarantine", "staging"})
_DAY = 24 * 3600


def is_key(name: str) -> bool:
    """Tell whether a text is a key."""
    return _KEY.fullmatch(name) is not None


class Removed(msgspec.Struct, frozen=True):
    """What was removed, and why.

    Attributes:
        path: Where it was.
        size: Its bytes.
        reason: "quarantined", "damaged", "not used for 31 days", "least recently used", "not in use" or "left by an
            interrupted run".
        reference: The bundle that it was compiled from, if known.
        device: The device that it was compiled for, if known.
    """

    path: Path
    size: int
    reason: str
    reference: str | None = None
    device: str | None = None


class Limits(msgspec.Struct, frozen=True):
    """What may stay: bytes of all entries, seconds without use; and the device whose entries are looked at."""

    max_size: int | None = None
    older_than: float | None = None
    device: str | None = None


class Folder:
    """The folder, which need not exist.

    Attributes:
        path: `<home>/compile-cache`.
        quarantine_path: Where damaged entries go.
        staging: Where entries are filled.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "compile-cache"
        self.quarantine_path = self.path / "quarantine"
        self.staging = self.path / "staging"

    def entries(self) -> Iterator[CacheEntry]:
        """Yield the entries, by key; damaged and unreadable ones with their problem."""
        for path in (self.path / name for name in self._names() if is_key(name)):
            with suppress(FileNotFoundError):  # removed since it was listed
                yield _read_any(path)

    def unknown_files(self) -> Iterator[Path]:
        """Yield files and folders with names that this cache does not use."""
        yield from (self.path / name for name in self._names() if not (name in _OWN or is_key(name) or _is_lock(name)))

    def quarantine(self, path: Path, stamp: tuple[int, int]) -> Path | None:
        """Rename an entry into the quarantine and return where it is; None if it is gone or another took its place."""
        refuse_links(self.quarantine_path, below=self.path)
        make_folder(self.quarantine_path)
        target = self.quarantine_path / f"{path.name}-{os.urandom(8).hex()}"
        try:
            if read_stamp(path) != stamp:
                return None
            is_whole = move_directory(path, target, first=ARTIFACT_FILE, below=self.path)
            if not is_whole or read_stamp(target) == stamp:
                return target
        except FileNotFoundError:
            return None
        with suppress(OSError):  # it was replaced just before the rename: undo that, unless there is a third one
            rename_new(target, path, below=self.path)
        return None

    def move_out(self, entry: CacheEntry) -> Path | None:
        """Remove an entry by one rename, and return where its files are; None if it is in use, gone, or another user's.

        What is not removed there is a leftover for the next prune.
        """
        with unshared(entry.path / USED_FILE) as free:
            if not free:
                return None
            try:
                return self.quarantine(entry.path, entry.stamp)
            except PermissionError as error:  # another user's; on Windows, one of whose files was opened just now
                log.warning("compile cache: %s cannot be removed: %s", entry.path, error)
                return None

    def remove_entries(self, limits: Limits, keep: Path | None = None) -> list[Removed]:
        """Remove damaged entries, then the least recently used, until the limits are kept; `keep` stays in any case."""
        entries = [entry for entry in self.entries() if limits.device is None or _is_for(entry, limits.device)]
        entries.sort(key=lambda entry: (entry.artifact is not None, entry.last_used))
        sizes = {entry.path: entry.size for entry in entries}
        total = sum(sizes.values())
        moved: list[Path] = []
        removed: list[Removed] = []
        for entry in entries:
            reason = _reason_to_remove(entry, limits, total)
            if reason is None or entry.path == keep:
                continue
            place = self.move_out(entry)
            if place or not os.path.lexists(entry.path):  # another process prunes, too: its space is free as well
                total -= sizes[entry.path]
            if place is not None:
                device = None if entry.artifact is None else entry.artifact.device
                moved.append(place)
                removed.append(Removed(entry.path, sizes[entry.path], reason, entry.reference, device))
        for _ in in_threads(self._remove_if_possible, moved):
            pass
        return removed

    def remove_quarantined(self) -> Iterator[Removed]:
        """Remove what is in quarantine and not in use."""
        paths = [
            self.quarantine_path / name for name in list_directory(self.quarantine_path) if _QUARANTINED.fullmatch(name)
        ]
        yield from filter(None, in_threads(self._remove_quarantined, paths))

    def remove_leftovers(self) -> Iterator[Removed]:
        """Remove what is in quarantine, and what interrupted runs left."""
        yield from self.remove_quarantined()
        for path in prune_staging(self.staging, below=self.path):
            yield Removed(path, 0, "left by an interrupted run")
        for name in self._names():
            if _is_lock(name):
                _remove_lock_file(self.path / name)

    def _remove_if_possible(self, path: Path) -> None:
        with suppress(OSError):
            remove(path, below=self.path)

    def _remove_quarantined(self, path: Path) -> Removed | None:
        size = tree_size(path)
        with unshared(path / USED_FILE) as free:
            pass  # and closed: Windows removes no open file
        with suppress(PermissionError):  # another user's
            if free and remove_unused(path, below=self.path):
                return Removed(path, size, "quarantined")
        return None

    def _names(self) -> list[str]:
        with store_errors(f"list the compile cache {self.path}"):
            try:
                return sorted(os.listdir(self.path))  # noqa: PTH208
            except FileNotFoundError:
                return []


def _remove_lock_file(path: Path) -> None:
    with suppress(OSError):
        lock = try_lock(path)
        if lock is None:
            return
        with lock:
            if os.name != "nt":  # where an open file cannot be removed
                remove(path)
        if os.name == "nt":
            remove(path)


def _is_lock(name: str) -> bool:
    return name.endswith(LOCK_SUFFIX) and is_key(name.removesuffix(LOCK_SUFFIX))


def _read_any(path: Path) -> CacheEntry:
    try:
        return read_entry(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        return CacheEntry(path.name, path, None, f"cannot be read: {error.strerror or error}", (0, 0))


def _is_for(entry: CacheEntry, device: str) -> bool:
    """Tell whether an entry is for a device: `GPU` means `GPU.1` too, and `AUTO` `AUTO:NPU,CPU`."""
    if entry.artifact is None:
        return False
    found, wanted = entry.artifact.device.upper(), device.upper()
    return found == wanted or found.startswith((f"{wanted}.", f"{wanted}:"))


def _reason_to_remove(entry: CacheEntry, limits: Limits, total: int) -> str | None:
    idle = time.time() - entry.last_used.timestamp()
    if entry.artifact is None:
        return "damaged"
    if limits.older_than is not None and idle > limits.older_than:
        return f"not used for {idle / _DAY:.3g} days"
    if limits.max_size is not None and total > limits.max_size:
        return "least recently used" if limits.max_size else "not in use"
    return None
