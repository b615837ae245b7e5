"""One entry of the compile cache: a folder named by its key, as it was when it was read."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import msgspec

from npu_persist.artifact.artifact import ARTIFACT_FILE, USED_FILE, check_files, read_artifact
from npu_persist.bundle.reference import StoreReference
from npu_persist.errors import ArtifactError
from npu_persist.files.digest import ALGORITHM
from npu_persist.files.filesystem import MAX_AHEAD, is_directory, to_datetime
from npu_persist.files.locks import try_share, unshared
from npu_persist.files.owners import is_own

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.files.locks import Lock

_SHOWN_DIGITS = 12


class CacheEntry(msgspec.Struct, frozen=True):
    """One entry of the compile cache: a compiled artifact, or the reason why it cannot be used.

    Attributes:
        key: The artifact's key, which is the folder's name.
        path: The folder.
        artifact: Its description, which was checked; the files were not read. None if it cannot be used.
        problem: Why it cannot be used; None if it can.
        stamp: Tells this folder from another one that takes its place.
    """

    key: str
    path: Path
    artifact: Artifact | None
    problem: str | None
    stamp: tuple[int, int]

    @property
    def reference(self) -> str | None:
        """The bundle that it was compiled from, by digest: `unet@1f0a9c3b5d7e`; None if that is not known."""
        if self.artifact is None:
            return None
        digits = self.artifact.subject.removeprefix(f"{ALGORITHM}:")[:_SHOWN_DIGITS]
        return str(StoreReference(self.artifact.name, digest=digits))

    @property
    def size(self) -> int:
        """Bytes of all files in the folder."""
        return tree_size(self.path)

    @property
    def last_used(self) -> datetime:
        """When it was last used, in UTC; 1970 if that is further ahead than clocks are apart, so that it goes first."""
        for path in (self.path / USED_FILE, self.path):
            try:
                seconds = path.lstat().st_mtime
            except OSError:
                continue
            return to_datetime(0 if seconds > time.time() + MAX_AHEAD else seconds)
        return to_datetime(0)

    @property
    def in_use(self) -> bool:
        """Whether a process, this one included, uses it now."""
        with unshared(self.path / USED_FILE) as free:
            return not free

    def mark_in_use(self) -> Lock | None:
        """Mark it as used now, and as in use until the lock is released or the process ends.

        None if it cannot be marked or is gone, which reading its files shows.
        """
        return try_share(self.path / USED_FILE)

    def verify(self) -> None:
        """Compare every byte of its files with its description."""
        if self.artifact is None:
            raise ArtifactError(
                f"{self.path}: {self.problem}", path=str(self.path), expected="a compiled artifact", got=self.problem
            )
        try:
            check_files(self.path, self.artifact)
        except ArtifactError:
            read_stamp(self.path)  # is it damaged, or gone?
            raise


def read_entry(path: Path) -> CacheEntry:
    """Read one entry; a damaged one has a problem, a missing one is a FileNotFoundError."""
    stamp = read_stamp(path)  # first: one that takes its place meanwhile is another entry
    artifact: Artifact | None = None
    problem = None
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        problem = "expected a folder, got something else"
    elif not is_own(status):
        of = f"user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}"
        problem = f"expected a folder that only this user can write to; its owner is {of}"
    else:
        try:
            found = read_artifact(path)
            if found.key == path.name:
                artifact = found
            else:
                problem = f"expected the key {path.name}, got {found.key}: the folder was renamed"
        except FileNotFoundError:
            if read_stamp(path) != stamp:  # another one took its place
                return read_entry(path)
            problem = f"expected {ARTIFACT_FILE}, got nothing"
        except ArtifactError as error:
            problem = str(error)
    return CacheEntry(path.name, path, artifact, problem, stamp)


def read_stamp(path: Path) -> tuple[int, int]:
    """Return what tells an entry from another one at the same place, and stays when it is renamed."""
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        try:
            # Not the folder's own: its time changes when `used` is made.
            status = (path / ARTIFACT_FILE).lstat()
        except FileNotFoundError:
            status = path.lstat()
    return status.st_ino, status.st_mtime_ns


def tree_size(path: Path) -> int:
    """Return the bytes of the files below a folder, or of a file; 0 for what is gone or cannot be read."""
    try:
        if not is_directory(path):
            return path.lstat().st_size
        with os.scandir(path) as entries:
            return sum(
                tree_size(path / entry.name)
                if entry.is_dir(follow_symlinks=False)
                else entry.stat(follow_symlinks=False).st_size
                for entry in entries
            )
    except OSError:
        return 0
