"""The compile cache: find, publish, put aside, prune, verify, export and import. `folder` draws its folder.

The promise: an entry appears and disappears by one rename, and its bytes are on the disk by then. Finding one reads one
small file. Nothing is wrong where locks and holds do nothing: work is done twice, or files are read that are removed
meanwhile, which their digests show. Every error of the file system is a `StoreError`. A load imports what finding
needs, and pruning and transfer when they are needed.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_FILE, USED_FILE, check_layout
from npu_persist.cache.entry import Entry, read_entry, read_stamp, tree_size
from npu_persist.cache.folder import Folder, is_key
from npu_persist.errors import ArtifactError, NotFoundError, NpuPersistError, StoreError, UsageError
from npu_persist.files.filesystem import (
    fsync_directory,
    fsync_file,
    is_directory,
    make_read_only,
    rename_new,
    store_errors,
    write_file,
)
from npu_persist.files.locks import LOCK_SUFFIX, try_lock
from npu_persist.files.staging import staged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.cache.pruning import Removed
    from npu_persist.files.locks import Lock

QUOTA_VARIABLE = "NPU_PERSIST_CACHE_QUOTA"
"""Environment variable that says how large the cache may be: `20GB`; `0` keeps only what is in use."""

DEFAULT_QUOTA = 20 * 1000**3
"""Bytes that the cache may have if nobody says otherwise."""

MIN_PREFIX_LENGTH = 4
"""Fewest hex digits that stand for a key."""

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1
_LOST_RACES = 10
"""How often something else may be found in an entry's place before giving up."""


class CompileCache:
    """Compiled artifacts of one machine, by key.

    Example:
        >>> from npu_persist import CompileCache, Store
        >>> cache = CompileCache(Store().home, quota=5 * 1000**3)
        >>> [(entry.reference, entry.size) for entry in cache.entries()]
        []
        >>> cache.prune(older_than=30 * 24 * 3600)
        []

    Attributes:
        home: The store's directory, in which it is.
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
        self.home = home
        self.quota = _default_quota() if quota is None else quota
        self._folder = Folder(home)
        self.path = self._folder.path

    def find(self, key: str) -> Entry | None:
        """Return the entry of a key. Its description was read and checked, its files were not looked at.

        A damaged one is put aside, and None returned.

        Raises:
            StoreError: The cache cannot be read.
        """
        if not is_key(key):
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
        """Return what is in the cache, by key; damaged entries too, with their problem.

        Raises:
            StoreError: The cache cannot be read.
        """
        return tuple(self._folder.entries())

    def strangers(self) -> tuple[Path, ...]:
        """Return what is in the cache's folder by a name that nothing of ours has. It is never touched.

        Raises:
            StoreError: The cache cannot be read.
        """
        return tuple(self._folder.strangers())

    def lookup(self, digits: str) -> Entry:
        """Return the entry whose key starts so.

        Raises:
            NotFoundError: There is none, or more than one.
        """
        found = [entry for entry in self.entries() if len(digits) >= MIN_PREFIX_LENGTH and entry.key.startswith(digits)]
        if len(found) != 1:
            raise NotFoundError(
                f"expected the start of one key, at least {MIN_PREFIX_LENGTH} hex digits; got {digits!r}, with which "
                f"{len(found) or 'no'} keys in {self.path} start. `npu-persist cache list` shows them"
            )
        return found[0]

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
        return staged(self._folder.staging)

    def publish(self, artifact: Artifact, staging: Path, *, instead_of: Entry | None = None) -> Entry:
        """Make a filled staging directory the entry of its key, and keep the quota.

        If another process was faster, its entry is kept, unless it is damaged.

        Args:
            artifact: The description, whose `files` are those in the directory. The digests are the writer's word.
            staging: What `stage` gave, with these files.
            instead_of: An entry of the same key to replace, if it is still there.

        Returns:
            The entry that is there now.

        Raises:
            ArtifactError: The directory is not what the artifact says.
            StoreError: The file system refuses. The cache is as it was.
        """
        if staging.parent != self._folder.staging or not is_directory(staging):
            raise UsageError(
                f"expected a staging directory of this cache, in {self._folder.staging}, got {staging}. Fill what "
                "`with cache.stage() as staging` gives"
            )
        path = self.path / artifact.key
        with store_errors(f"put {artifact.name}, compiled for {artifact.device}, into {self.path}"):
            _settle(artifact, staging)
            entry = Entry(artifact.key, path, artifact, None, read_stamp(staging))
            if instead_of is not None:
                self._folder.move_aside(path, instead_of.stamp)
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
        path = self.path / entry if isinstance(entry, str) else entry.path
        try:
            moved = self._folder.move_aside(path, read_stamp(path) if isinstance(entry, str) else entry.stamp)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("compile cache: %s is not used (%s), but cannot be put aside: %s", path, reason, error)
            return
        if moved is not None:
            log.warning("compile cache: %s was put aside: %s", path, reason)

    def prune(
        self, *, max_size: int | None = None, older_than: float | None = None, device: str | None = None
    ) -> list[Removed]:
        """Remove entries, but none that is in use: damaged ones, then the least recently used.

        What was put aside and what interrupted runs left goes first. Without arguments the quota is kept.

        Args:
            max_size: Bytes that may be left; 0 removes all that is not in use.
            older_than: Seconds without use after which an entry goes.
            device: Only entries of this device, such as `NPU`; all of them, without one of the other two.

        Returns:
            What was removed.

        Raises:
            StoreError: The file system refuses.
        """
        from npu_persist.cache.pruning import Limits, remove_entries, remove_leftovers

        if max_size is None and older_than is None:
            max_size = self.quota if device is None else 0
        with store_errors(f"prune the compile cache {self.path}"):
            return [
                *remove_leftovers(self._folder),
                *remove_entries(self._folder, Limits(max_size, older_than, device)),
            ]

    def sweep(self) -> list[Removed]:
        """Remove what was put aside, and what interrupted runs left; entries stay.

        Raises:
            StoreError: The file system refuses.
        """
        from npu_persist.cache.pruning import remove_leftovers

        with store_errors(f"prune the compile cache {self.path}"):
            return list(remove_leftovers(self._folder))

    def verify(self) -> Iterator[tuple[Entry, NpuPersistError | None]]:
        """Read every byte of every entry; yield each with what is wrong with it, or None.

        Raises:
            StoreError: The cache cannot be read.
        """
        for entry in self.entries():
            try:
                with store_errors(f"read {entry.path}"):
                    entry.check()
            except NpuPersistError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    continue  # removed meanwhile
                yield entry, error
            else:
                yield entry, None

    def export(self, entry: Entry, directory: Path) -> None:
        """Copy an entry to a new folder, which `import_entry` takes on an identical machine.

        Raises:
            UsageError: There is something at `directory`.
            ArtifactError: The entry is damaged.
            StoreError: The file system refuses.
        """
        from npu_persist.cache.transfer import copy_out

        copy_out(entry, directory)

    def import_entry(self, directory: Path) -> Entry:
        """Take in what `export` made, under the key that its description makes; every byte is verified.

        A blob is code that a device runs: import only what you trust.

        Returns:
            The entry; a sound one that is there already stays.

        Raises:
            NotFoundError: There is no exported entry.
            ArtifactError: It is damaged.
            StoreError: The file system refuses.
        """
        from npu_persist.cache.transfer import copy_in

        with self.stage() as staging:
            artifact = copy_in(directory, staging)
            there = self.find(artifact.key)
            if there is not None:
                try:
                    there.check()
                except (ArtifactError, OSError) as error:
                    self.put_aside(there, str(error))
            return self.publish(artifact, staging)

    def _wait(self, lock_path: Path, path: Path, deadline: float) -> Lock | None:
        pause = _FIRST_PAUSE
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = try_lock(lock_path)
            except OSError as error:
                log.warning("compile cache: no lock, so that several processes may compile the same: %s", error)
                return None
            left = deadline - time.monotonic()
            if lock is not None or left <= 0 or os.path.lexists(path):
                return lock
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _take_place(self, staging: Path, path: Path) -> Entry | None:
        """Rename a settled staging directory to its place; return the sound entry that is there already, if one is."""
        # Made with the first entry, so that removing needs no new folder when the disk is full.
        self._folder.aside.mkdir(parents=True, exist_ok=True)
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

    def _keep_quota(self, but: Path) -> None:
        """Keep the quota; the entry that was just made stays, for its maker is about to use it."""
        try:
            if tree_size(self.path) <= self.quota:
                return
            from npu_persist.cache.pruning import Limits, remove_asides, remove_entries

            for removed in (*remove_asides(self._folder), *remove_entries(self._folder, Limits(self.quota), but)):
                log.info("compile cache: removed %s to keep the quota (%s)", removed.path, removed.reason)
        except (OSError, StoreError) as error:  # what was compiled can be used all the same
            log.warning("compile cache: %s cannot be kept below %d bytes: %s", self.path, self.quota, error)

    def __repr__(self) -> str:
        return f"CompileCache({str(self.home)!r})"


def _default_quota() -> int:
    text = os.environ.get(QUOTA_VARIABLE)
    if not text:
        return DEFAULT_QUOTA
    from npu_persist.cache.amounts import parse_size

    return parse_size(text, QUOTA_VARIABLE)


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
