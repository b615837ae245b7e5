"""The compile cache: compiled artifacts of this machine by key. It may be deleted at any time.

An entry appears and disappears by one rename, when its bytes are on the disk, and finding it reads one small file.
Damaged entries are quarantined. Neither numpy nor openvino is imported.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_FILE, USED_FILE, check_layout
from npu_persist.cache.entry import CacheEntry, read_entry, read_stamp, tree_size
from npu_persist.cache.folder import Folder, Limits, is_key
from npu_persist.errors import ArtifactError, NotFoundError, NpuPersistError, StoreError, UsageError
from npu_persist.files.filesystem import (
    fsync_directory,
    fsync_file,
    is_directory,
    make_folder,
    make_read_only,
    refuse_links,
    rename_new,
    store_errors,
    write_file,
)
from npu_persist.files.locks import LOCK_SUFFIX, try_lock, try_share
from npu_persist.files.owners import find_distrust
from npu_persist.files.staging import staged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.cache.folder import Removed
    from npu_persist.files.locks import Lock

QUOTA_VARIABLE = "NPU_PERSIST_CACHE_QUOTA"
"""Environment variable for the cache's quota: `20GB`; `0` keeps only what is in use."""

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1
_DEFAULT_QUOTA = 20 * 1000**3
_MIN_PREFIX_LENGTH = 4
_ATTEMPTS = 10
"""How often another entry may be in the place of one to publish before giving up."""


class CompileCache:
    """Compiled artifacts of this machine, by key. Locks only save work: without them it is done twice.

        cache = CompileCache(Store().home)
        entry = cache.find(key)
        if entry is None:
            with cache.claim(key, timeout=600), cache.stage() as staging:
                entry = cache.find(key)                 # another process may have been faster
                if entry is None:
                    ...                                 # compile, and write staging / "model.blob"
                    entry = cache.publish(artifact, staging)

    Example:
        >>> from npu_persist import CompileCache, Store
        >>> cache = CompileCache(Store().home, quota=5 * 1000**3)
        >>> [(entry.reference, entry.size) for entry in cache.entries()]
        []
        >>> cache.prune(older_than=30 * 24 * 3600)
        []

    Attributes:
        home: The store's directory.
        path: The cache's folder in it, made when something is published.
        quota: Bytes that it may have; kept after each publish.
    """

    def __init__(self, home: Path, *, quota: int | None = None) -> None:
        """Choose a cache; nothing is read or made yet."""
        self.home = home
        self.quota = _default_quota() if quota is None else quota
        self._folder = Folder(home)
        self.path = self._folder.path

    def find_distrust(self) -> str | None:
        """Return why other users may have written to the cache, and what to do; None if they cannot have.

        In that case `load` neither reads nor writes it.
        """
        return find_distrust(self.path)

    def find(self, key: str) -> CacheEntry | None:
        """Return the entry of a key. Its description is checked, its files are not read.

        A damaged entry, or one that another user made, is quarantined, and None returned.

        Raises:
            StoreError: The cache cannot be read, or others may write to it.
        """
        if not is_key(key):
            return None
        self._check_owners()
        with store_errors(f"read the compile cache {self.path}"):
            try:
                entry = read_entry(self.path / key)
            except FileNotFoundError:
                return None
        if entry.problem is not None:
            self.quarantine(entry, entry.problem)
            return None
        return entry

    def entries(self) -> tuple[CacheEntry, ...]:
        """Return the entries, by key; damaged ones with their problem.

        Raises:
            StoreError: The cache cannot be read.
        """
        return tuple(self._folder.entries())

    def unknown_files(self) -> tuple[Path, ...]:
        """Return files and folders with names that this cache does not use. They are never touched.

        Raises:
            StoreError: The cache cannot be read.
        """
        return tuple(self._folder.unknown_files())

    def lookup(self, digits: str) -> CacheEntry:
        """Return the entry whose key starts with these digits.

        Raises:
            NotFoundError: There is none, or more than one.
        """
        found = [
            entry for entry in self.entries() if len(digits) >= _MIN_PREFIX_LENGTH and entry.key.startswith(digits)
        ]
        if len(found) != 1:
            raise NotFoundError(
                f"{len(found) or 'no'} keys in {self.path} start with {digits!r}; expected one, and at least "
                f"{_MIN_PREFIX_LENGTH} hex digits. `npu-persist cache list` shows them"
            )
        return found[0]

    @contextmanager
    def claim(self, key: str, timeout: float) -> Iterator[bool]:
        """Wait until no other process compiles for this key, or its entry appears: call `find` again in the block.

        An entry that appeared is in use, so that it is not pruned, until the end of the block.

        Args:
            key: The key of the artifact to compile.
            timeout: Seconds to wait at most.

        Yields:
            Whether this process has the claim. If not, after the timeout or without locks, compile anyway.
        """
        lock_path, used_path = self.path / f"{key}{LOCK_SUFFIX}", self.path / key / USED_FILE
        has_claim, lock = self._wait(lock_path, used_path, time.monotonic() + timeout)
        try:
            yield has_claim
        finally:
            # The file stays: a process that waits has it open, and a later one would lock another file.
            if lock is not None:
                lock.release()

    def stage(self) -> AbstractContextManager[Path]:
        """Yield a new, empty directory to fill for `publish`; it is removed at the end of the block.

        Raises:
            StoreError: It cannot be made, or the disk is full inside the block.
        """
        return staged(self._folder.staging, below=self.path)

    def publish(self, artifact: Artifact, staging: Path, *, instead_of: CacheEntry | None = None) -> CacheEntry:
        """Make a filled staging directory the entry of its key, and keep the quota.

        If another process was faster, its entry stays, unless it is damaged.

        Args:
            artifact: The description; its digests are not checked.
            staging: What `stage` gave, with the files of `artifact`.
            instead_of: An entry of the same key to replace, if it is still there.

        Returns:
            The entry that is there now.

        Raises:
            ArtifactError: The directory does not match the description.
            StoreError: The file system reports an error. The cache is as it was.
        """
        if staging.parent != self._folder.staging or not is_directory(staging):
            raise UsageError(
                f"expected a directory that `stage` of this cache made, in {self._folder.staging}; got {staging}"
            )
        path = self.path / artifact.key
        with store_errors(f"add {artifact.name}, compiled for {artifact.device}, to {self.path}"):
            _prepare(artifact, staging)
            entry = CacheEntry(artifact.key, path, artifact, None, read_stamp(staging))
            if instead_of is not None:
                self._folder.quarantine(path, instead_of.stamp)
            other = self._rename_into_place(staging, path)
        if other is not None:
            return other
        self._keep_quota(new=path)
        return entry

    def quarantine(self, entry: CacheEntry | str, reason: str) -> None:
        """Move a damaged entry out of the way and log the reason. Never raises.

        Args:
            entry: The damaged entry; an entry that has replaced it stays. A key means the current entry.
            reason: What is wrong with it.
        """
        path = self.path / entry if isinstance(entry, str) else entry.path
        try:
            moved = self._folder.quarantine(path, read_stamp(path) if isinstance(entry, str) else entry.stamp)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("compile cache: %s is not used (%s), but cannot be quarantined: %s", path, reason, error)
            return
        if moved is not None:
            log.warning("compile cache: %s was quarantined: %s", path, reason)

    def prune(
        self, *, max_size: int | None = None, older_than: float | None = None, device: str | None = None
    ) -> list[Removed]:
        """Remove leftovers and quarantined entries, then damaged ones, then the least recently used.

        Entries in use stay. Without arguments, the quota is applied.

        Args:
            max_size: Largest remaining size in bytes; 0 removes everything that is not in use.
            older_than: Seconds without use after which an entry is removed.
            device: Only remove entries of this device, such as `NPU`; all of them, without the other two arguments.

        Returns:
            The removed entries.

        Raises:
            StoreError: The file system reports an error.
        """
        if max_size is None and older_than is None:
            max_size = self.quota if device is None else 0
        with store_errors(f"prune the compile cache {self.path}"):
            return [
                *self._folder.remove_leftovers(),
                *self._folder.remove_entries(Limits(max_size, older_than, device)),
            ]

    def sweep(self) -> list[Removed]:
        """Remove leftovers and quarantined entries; the others stay.

        Raises:
            StoreError: The file system reports an error.
        """
        with store_errors(f"prune the compile cache {self.path}"):
            return list(self._folder.remove_leftovers())

    def verify(self) -> Iterator[tuple[CacheEntry, NpuPersistError | None]]:
        """Read every byte of every entry; yield each with its problem, or None.

        Raises:
            StoreError: The cache cannot be read.
        """
        for entry in self.entries():
            try:
                with store_errors(f"read {entry.path}"):
                    entry.verify()
            except NpuPersistError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    continue  # removed meanwhile
                yield entry, error
            else:
                yield entry, None

    def export(self, entry: CacheEntry, directory: Path) -> None:
        """Copy an entry to a new folder, for `import_entry` on an identical machine.

        Raises:
            UsageError: `directory` exists.
            ArtifactError: The entry is damaged.
            StoreError: The file system reports an error, or others may write to the cache.
        """
        from npu_persist.cache.transfer import export_entry

        self._check_owners()
        export_entry(entry, directory)

    def import_entry(self, directory: Path) -> CacheEntry:
        """Verify and copy an entry that `export` wrote, under the key of its description.

        A blob is code that a device runs: import only what you trust.

        Returns:
            The entry; an intact one that is there already stays.

        Raises:
            NotFoundError: `directory` is no exported entry.
            ArtifactError: It is damaged.
            StoreError: The file system reports an error.
        """
        from npu_persist.cache.transfer import copy_exported

        with self.stage() as staging:
            artifact = copy_exported(directory, staging)
            there = self.find(artifact.key)
            if there is not None:
                try:
                    there.verify()
                except (ArtifactError, OSError) as error:
                    self.quarantine(there, str(error))
            return self.publish(artifact, staging)

    def _check_owners(self) -> None:
        if distrust := self.find_distrust():
            raise StoreError(f"the compile cache is not used: {distrust}")

    def _wait(self, lock_path: Path, used_path: Path, deadline: float) -> tuple[bool, Lock | None]:
        """Return whether this process has the claim, and the lock of the claim or of the entry that appeared."""
        pause = _FIRST_PAUSE
        while True:
            try:
                make_folder(self.path, parents=True)
                if (lock := try_lock(lock_path)) is not None:
                    return True, lock
                if is_directory(used_path.parent) and (lock := try_share(used_path)) is not None:
                    return False, lock
            except OSError as error:
                log.warning("compile cache: no lock, so several processes may compile the same model: %s", error)
                return False, None
            left = deadline - time.monotonic()
            if left <= 0:
                return False, None
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _rename_into_place(self, staging: Path, path: Path) -> CacheEntry | None:
        """Rename a prepared staging directory; if an intact entry is there already, return that."""
        # Made with the first entry, so that removing needs no new folder when the disk is full.
        refuse_links(self._folder.quarantine_path, below=self.path)
        make_folder(self._folder.quarantine_path, parents=True)
        for attempt in count(1):
            try:
                rename_new(staging, path, below=self.path)
            except FileExistsError:
                if attempt == _ATTEMPTS:
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
                self.quarantine(other, str(error))
            else:
                return other
        return None

    def _keep_quota(self, new: Path) -> None:
        """Keep the quota; the new entry stays, since its maker is about to use it."""
        try:
            if tree_size(self.path) <= self.quota:
                return
            limits = Limits(self.quota)
            for removed in (*self._folder.remove_quarantined(), *self._folder.remove_entries(limits, keep=new)):
                log.info("compile cache: removed %s to keep the quota (%s)", removed.path, removed.reason)
        except (OSError, StoreError) as error:  # the new entry can be used all the same
            log.warning("compile cache: %s cannot be kept below %d bytes: %s", self.path, self.quota, error)

    def __repr__(self) -> str:
        return f"CompileCache({str(self.home)!r})"


def _default_quota() -> int:
    text = os.environ.get(QUOTA_VARIABLE)
    if not text:
        return _DEFAULT_QUOTA
    from npu_persist.cache.amounts import parse_size

    return parse_size(text, QUOTA_VARIABLE)


def _prepare(artifact: Artifact, staging: Path) -> None:
    """Check that a staged entry is complete, add its description, flush it and make it read-only."""
    check_layout(staging, artifact)
    paths = [staging / relative for relative in artifact.files]
    for path in paths:
        fsync_file(path)
        make_read_only(path)
    write_file(staging / USED_FILE, b"")
    # The description last: after any crash a folder with a description has its files, too.
    write_file(staging / ARTIFACT_FILE, artifact.to_json())
    make_read_only(staging / ARTIFACT_FILE)
    folders = {staging, *(folder for path in paths for folder in path.parents if folder.is_relative_to(staging))}
    for folder in sorted(folders, reverse=True):  # what is inside a folder before the folder
        fsync_directory(folder)
