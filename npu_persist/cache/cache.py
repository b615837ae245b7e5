"""The folder of the compile cache: find, publish, put aside, remove.

    <home>/compile-cache/
      <key>/                        an entry; the key is 64 hex digits
        artifact.json               what it is (see `artifact`), read-only
        model.blob | openvino/...   what the compiler made, read-only
        used                        its time is that of the last use; locked while it is in use (see `hold`)
      <key>.lock                    locked by the process that compiles
      aside/<key>-<16 hex digits>/  damaged, or being removed
      staging/                      entries that are being filled (see `store.staging`)

The promise: an entry appears and disappears by one rename, and its bytes are on the disk by then. Nothing is removed or
renamed that is not named as above, and no link is followed. Every error of the file system is a `StoreError`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from npu_persist.artifact import ARTIFACT_FILE, USED_FILE, check_layout
from npu_persist.cache.amounts import parse_size
from npu_persist.cache.entry import Entry, read_entry, read_stamp, tree_size
from npu_persist.cache.hold import unused
from npu_persist.errors import ArtifactError, StoreError, UsageError
from npu_persist.files import (
    fsync_directory,
    fsync_file,
    is_directory,
    make_read_only,
    remove,
    rename_new,
    store_errors,
    try_lock,
    write_file,
)
from npu_persist.store.staging import LOCK_SUFFIX, prune_staging, staged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from npu_persist.artifact import Artifact
    from npu_persist.files import Lock

FOLDER = "compile-cache"
"""Where in a home the cache is."""

QUOTA_VARIABLE = "NPU_PERSIST_CACHE_QUOTA"
"""Environment variable that says how large the cache may be: `20GB`; `0` keeps only what is in use."""

DEFAULT_QUOTA = 20 * 1000**3
"""Bytes that the cache may have if nobody says otherwise."""

logger = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ASIDE = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}", re.ASCII)
_OWN = frozenset({"aside", "staging"})
_LOST_RACES = 10
"""How often something else may be found in an entry's place before giving up."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, and why.

    Attributes:
        path: Where it was.
        size: Its bytes.
        reason: Why: "put aside", "damaged", "not used for 31 days".
        reference: The bundle that it was compiled from, where that was known.
    """

    path: Path
    size: int
    reason: str
    reference: str | None = None


class CompileCache:
    """Compiled artifacts of one machine, by key.

    Attributes:
        path: Its folder. It is made when something is published.
        quota: Bytes that it may have; kept after each publish.
    """

    def __init__(self, home: Path, *, quota: int | None = None) -> None:
        """Choose a cache; nothing is read or made yet.

        Args:
            home: The store's directory.
            quota: Bytes that it may have; None for `$NPU_PERSIST_CACHE_QUOTA`, and 20 GB if that is not set.

        Raises:
            UsageError: `$NPU_PERSIST_CACHE_QUOTA` is no size.
        """
        self.path = home / FOLDER
        self.quota = _default_quota() if quota is None else quota
        self._aside = self.path / "aside"
        self._staging = self.path / "staging"

    def find(self, key: str) -> Entry | None:
        """Return the entry of a key. Its description was read and checked, its files were not looked at.

        A damaged one is put aside, and None returned.

        Raises:
            StoreError: The cache cannot be read.
        """
        if _KEY.fullmatch(key) is None:
            return None
        with store_errors(f"look into the compile cache {self.path}"):
            try:
                entry = read_entry(self.path / key)
            except FileNotFoundError:
                return None
        if entry.problem is not None:
            self.put_aside(entry, entry.problem)
            return None
        return entry

    def entries(self) -> tuple[Entry, ...]:
        """Return what is in the cache, by key: damaged entries and things that do not belong there with a problem.

        Raises:
            StoreError: The cache cannot be read.
        """
        found = []
        for name in self._names():
            if _KEY.fullmatch(name):
                with suppress(FileNotFoundError):  # removed since it was listed
                    found.append(_read_any(self.path / name))
        return tuple(found)

    def strangers(self) -> tuple[Path, ...]:
        """Return what is in the cache's folder by a name that nothing of ours has. It is never touched.

        Raises:
            StoreError: The cache cannot be read.
        """
        return tuple(
            self.path / name
            for name in self._names()
            if name not in _OWN and _KEY.fullmatch(name) is None and not _is_lock(name)
        )

    @contextmanager
    def claim(self, key: str, timeout: float) -> Iterator[bool]:
        """Let one process compile: wait until nobody else compiles for this key.

        The waiting ends early when the entry appears. So look again with `find` inside the block, whatever is yielded.

        Args:
            key: What is to be compiled.
            timeout: Seconds to wait at most.

        Yields:
            Whether this process has the claim. False where there is no lock to be had, and after the time: compile
            all the same.
        """
        lock = self._wait(self.path / f"{key}{LOCK_SUFFIX}", self.path / key, time.monotonic() + timeout)
        try:
            yield lock is not None
        finally:
            # The file stays: who waits may have it open already, and who comes later would lock another one.
            if lock is not None:
                lock.release()

    def stage(self) -> AbstractContextManager[Path]:
        """Give a new, empty directory to fill for `publish`; it is removed at the end of the block.

        Raises:
            StoreError: It cannot be made, or the disk is full inside the block.
        """
        return staged(self._staging)

    def publish(self, artifact: Artifact, staging: Path) -> Entry:
        """Make a filled staging directory the entry of its key, and keep the quota.

        If another process was faster, its entry is kept, unless it is damaged.

        Args:
            artifact: The description, whose `files` are those in the directory. The digests are the writer's word.
            staging: What `stage` gave, with these files.

        Returns:
            The entry that is there now.

        Raises:
            ArtifactError: The directory is not what the artifact says.
            StoreError: The file system refuses. The cache is as it was.
        """
        if staging.parent != self._staging or not is_directory(staging):
            raise UsageError(
                f"expected a staging directory of this cache, in {self._staging}, got {staging}. Fill what "
                "`with cache.stage() as staging` gives"
            )
        path = self.path / artifact.key
        with store_errors(f"put {artifact.name}, compiled for {artifact.device}, into {self.path}"):
            _settle(artifact, staging)
            entry = Entry(artifact.key, path, artifact, None, read_stamp(staging))
            other = self._take_place(staging, path)
        if other is not None:
            return other
        self._keep_quota(but=path)
        return entry

    def put_aside(self, entry: Entry | str, reason: str) -> None:
        """Take an entry that is not what it should be out of the way; the log says why. Never an error.

        Args:
            entry: What was found to be damaged; if another entry has taken its place since, that one stays. A key means
                whatever is there now.
            reason: What is wrong with it.
        """
        try:
            if isinstance(entry, str):
                entry = read_entry(self.path / entry)
            moved = self._move_aside(entry.path, entry.stamp)
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("compile cache: %s cannot be used (%s), nor put aside: %s", entry, reason, error)
            return
        if moved is not None:
            logger.warning("compile cache: %s was put aside: %s", entry.path, reason)

    def prune(
        self, *, max_size: int | None = None, older_than: float | None = None, device: str | None = None
    ) -> list[Removed]:
        """Remove entries, but none that is in use: damaged ones, then the least recently used.

        What was put aside and what interrupted runs left goes first. Without arguments the quota is kept.

        Args:
            max_size: Bytes that may be left.
            older_than: Seconds without use after which an entry goes.
            device: Only entries of this device, such as `NPU`; all of them, without one of the other two.

        Returns:
            What was removed.

        Raises:
            StoreError: The file system refuses.
        """
        if device is None and max_size is None and older_than is None:
            max_size = self.quota
        elif max_size is None and older_than is None:
            max_size = 0
        with store_errors(f"prune the compile cache {self.path}"):
            return [*self._sweep(), *self._shrink(max_size, older_than, device)]

    def sweep(self) -> list[Removed]:
        """Remove what was put aside, and what interrupted runs left; entries stay.

        Raises:
            StoreError: The file system refuses.
        """
        with store_errors(f"prune the compile cache {self.path}"):
            return list(self._sweep())

    def _names(self) -> list[str]:
        with store_errors(f"list the compile cache {self.path}"):
            try:
                return sorted(os.listdir(self.path))  # noqa: PTH208
            except FileNotFoundError:
                return []

    def _wait(self, lock_path: Path, path: Path, deadline: float) -> Lock | None:
        pause = _FIRST_PAUSE
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = try_lock(lock_path)
            except OSError as error:
                logger.warning("compile cache: no lock, so that several processes may compile the same: %s", error)
                return None
            left = deadline - time.monotonic()
            if lock is not None or left <= 0 or os.path.lexists(path):
                return lock
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _take_place(self, staging: Path, path: Path) -> Entry | None:
        """Rename a settled staging directory to its place; return the sound entry that is there already, if one is."""
        # Made with the first entry, so that removing needs no new folder when the disk is full.
        self._aside.mkdir(parents=True, exist_ok=True)
        for attempt in count(1):
            try:
                rename_new(staging, path)
            except FileExistsError:
                if attempt == _LOST_RACES:
                    raise
            else:
                break
            other = self.find(path.name)
            if other is None or other.artifact is None:
                continue
            try:
                check_layout(other.path, other.artifact)
            except FileNotFoundError:
                continue
            except ArtifactError as error:
                self.put_aside(other, str(error))
            else:
                return other
        return None

    def _move_aside(self, path: Path, stamp: tuple[int, int]) -> Path | None:
        """Rename an entry into `aside`; None if it is gone, or another one has taken its place."""
        self._aside.mkdir(exist_ok=True)
        target = self._aside / f"{path.name}-{os.urandom(8).hex()}"
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

    def _remove(self, entry: Entry, reason: str) -> Removed | None:
        """Remove an entry; None if it is in use, or gone."""
        size = entry.size
        with unused(entry.path) as free:
            if not free:
                return None
            try:
                moved = self._move_aside(entry.path, entry.stamp)
            except PermissionError:
                if os.name != "nt":
                    raise
                return None  # someone opened a file of it just now
        if moved is None:
            return None
        with suppress(OSError):  # what cannot be removed now is a leftover, for the next prune
            remove(moved)
        return Removed(entry.path, size, reason, entry.reference)

    def _sweep(self) -> Iterator[Removed]:
        if not is_directory(self.path.parent):
            return
        yield from self._remove_asides()
        for path in prune_staging(self._staging):
            yield Removed(path, 0, "left by an interrupted run")
        for name in filter(_is_lock, self._names()):
            _remove_lock(self.path / name)

    def _remove_asides(self) -> Iterator[Removed]:
        names = os.listdir(self._aside) if is_directory(self._aside) else []  # noqa: PTH208
        for path in (self._aside / name for name in sorted(names) if _ASIDE.fullmatch(name)):
            size = tree_size(path)
            with unused(path) as free:
                if not free:
                    continue
            with suppress(PermissionError):  # another user's; on Windows, one that is in use after all
                remove(path)
                yield Removed(path, size, "put aside")

    def _shrink(
        self, max_size: int | None, older_than: float | None, device: str | None, but: Path | None = None
    ) -> Iterator[Removed]:
        entries = [entry for entry in self.entries() if device is None or _is_for(entry, device)]
        entries.sort(key=lambda entry: (entry.artifact is not None, entry.last_used))
        sizes = {entry.path: entry.size for entry in entries}
        total = sum(sizes.values())
        now = time.time()
        for entry in entries:
            idle = now - entry.last_used.timestamp()
            if entry.artifact is None:
                reason = "damaged"
            elif older_than is not None and idle > older_than:
                reason = f"not used for {idle / 86400:.3g} days"
            elif max_size is not None and total > max_size:
                reason = "least recently used"
            else:
                continue
            if entry.path != but and (removed := self._remove(entry, reason)):
                total -= sizes[entry.path]
                yield removed

    def _keep_quota(self, but: Path) -> None:
        """Keep the quota; the entry that was just made stays, for its maker is about to use it."""
        try:
            if tree_size(self.path) <= self.quota:
                return
            for removed in (*self._remove_asides(), *self._shrink(self.quota, None, None, but)):
                logger.info("compile cache: removed %s to keep the quota (%s)", removed.path, removed.reason)
        except (OSError, StoreError) as error:  # what was compiled can be used all the same
            logger.warning("compile cache: %s cannot be kept below %d bytes: %s", self.path, self.quota, error)

    def __repr__(self) -> str:
        return f"CompileCache({str(self.path.parent)!r})"


def _default_quota() -> int:
    text = os.environ.get(QUOTA_VARIABLE)
    return parse_size(text, QUOTA_VARIABLE) if text else DEFAULT_QUOTA


def _settle(artifact: Artifact, staging: Path) -> None:
    """Make a staged entry ready to be renamed: complete, on the disk, read-only."""
    check_layout(staging, artifact)
    paths = [staging / relative for relative in artifact.files]
    for path in paths:
        fsync_file(path)
        make_read_only(path)
    write_file(staging / USED_FILE, b"")
    # The description last: whatever the crash, where it is on the disk its files are too.
    write_file(staging / ARTIFACT_FILE, artifact.to_json())
    make_read_only(staging / ARTIFACT_FILE)
    folders = {staging, *(folder for path in paths for folder in path.parents if folder.is_relative_to(staging))}
    for folder in sorted(folders, reverse=True):  # what is inside a folder before the folder
        fsync_directory(folder)


def _read_any(path: Path) -> Entry:
    try:
        return read_entry(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        return Entry(path.name, path, None, f"cannot be read: {error.strerror or error}", (0, 0))


def _is_for(entry: Entry, device: str) -> bool:
    """Tell whether an entry is for a device: `GPU` means `GPU.1` too, `AUTO` means `AUTO:NPU,CPU`."""
    if entry.artifact is None:
        return False
    found, wanted = entry.artifact.device.upper(), device.upper()
    return found == wanted or found.startswith((f"{wanted}.", f"{wanted}:"))


def _is_lock(name: str) -> bool:
    return name.endswith(LOCK_SUFFIX) and _KEY.fullmatch(name.removesuffix(LOCK_SUFFIX)) is not None


def _remove_lock(path: Path) -> None:
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
