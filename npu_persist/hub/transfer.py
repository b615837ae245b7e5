"""Download one large file: hashed as it arrives, bounded in size, resumed where it stopped."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from npu_persist.errors import HubError
from npu_persist.files.digest import BUFFER_SIZE, Hasher
from npu_persist.files.filesystem import remove, rename, replace
from npu_persist.hub.client import retry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.hub.client import RemoteCommit

    ByteCallback = Callable[[str, int], object]
    """Called with a path and the number of bytes that arrived; negative when they are downloaded again."""

log = logging.getLogger(__name__)

WORTH_KEEPING = 1024 * 1024
"""Bytes after which a request counts as progress, and a partial file is kept for the next pull."""


class Download:
    """Downloads files of one commit.

    Attributes:
        remote: The commit.
        on_bytes: Called with what arrives.
    """

    def __init__(self, remote: RemoteCommit, home: Path, on_bytes: ByteCallback) -> None:
        """Prepare; nothing is requested yet."""
        self.remote = remote
        self._home = home
        self.on_bytes = on_bytes

    def save(self, path: str, target: Path, entry: FileEntry) -> None:
        """Download a file to a new path, and check its size and digest; a second mismatch is an error."""
        partial = self._home / "staging" / f"part-{entry.digest.partition(':')[2]}"
        with suppress(FileNotFoundError):  # renamed, so that only one of two processes gets it
            rename(partial, target, below=self._home)
            found = target.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # a link: what it leads to is not ours to change
                remove(target, below=self._home)
        try:
            with target.open("a+b") as file:
                _Transfer(self.remote, path, file, entry, self.on_bytes).run()
        except (HubError, KeyboardInterrupt):
            if target.stat().st_size >= WORTH_KEEPING:
                with suppress(OSError):
                    replace(target, partial, below=self._home)
            raise


class _Transfer:
    """A file on its way into `sink`, which may hold its beginning."""

    def __init__(
        self, remote: RemoteCommit, path: str, sink: BinaryIO, entry: FileEntry, on_bytes: ByteCallback
    ) -> None:
        self._remote, self._path = remote, path
        self._sink, self._entry, self.on_bytes = sink, entry, on_bytes
        self._hasher = Hasher()
        self._done = 0
        self._began = 0

    def run(self) -> None:
        self._hash_beginning()
        self._complete()
        if self._hasher.digest() == self._entry.digest:
            return
        log.warning(
            "%s: expected %s, got %s; downloading it again", self._path, self._entry.digest, self._hasher.digest()
        )
        self._restart()
        self._complete()
        if (got := self._hasher.digest()) != self._entry.digest:
            raise self._remote.damaged(self._path, self._entry.digest, f"{got}, twice")

    def _hash_beginning(self) -> None:
        buffer = memoryview(bytearray(BUFFER_SIZE)) if self._sink.seek(0, os.SEEK_END) else memoryview(b"")
        self._sink.seek(0)
        while buffer and (count := self._sink.readinto(buffer)):  # type: ignore[attr-defined]
            self._hasher.update(buffer[:count])
            self._count(count)
        if self._done > self._entry.size:
            self._restart()

    def _complete(self) -> None:
        if self._done < self._entry.size:
            retry(self._receive, lambda: self._done - self._began >= WORTH_KEEPING)

    def _receive(self) -> None:
        self._began = self._done
        size = self._entry.size
        with self._remote.open(self._path, self._done) as stream:
            if stream.start != self._done:  # the hub or a proxy does not support ranges
                self._restart()
            if stream.start != self._done:
                raise self._remote.incomplete(self._path, size, 0)
            for piece in stream.pieces():
                if self._done + len(piece) > size:
                    self._restart()
                    raise self._remote.damaged(self._path, f"{size} bytes", "more")
                self._sink.write(piece)
                self._hasher.update(piece)
                self._count(len(piece))
        if self._done < size:
            raise self._remote.incomplete(self._path, size, self._done)

    def _restart(self) -> None:
        self._sink.seek(0)
        self._sink.truncate()
        self._hasher = Hasher()
        self._count(-self._done)
        self._began = 0

    def _count(self, number: int) -> None:
        self._done += number
        self.on_bytes(self._path, number)
