"""One file from the hub to the disk: hashed as it comes, limited to its size, taken up again where it broke off.

The promise: what is returned from is a whole file of the right size and digest, read into memory no more than a few
pieces at a time. A file that breaks off for good leaves its beginning for the next pull; that is hashed again before
it is gone on with, and `prune` removes it.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from npu_persist.errors import FileIntegrityError, HubError
from npu_persist.files.digest import BUFFER_SIZE, Hasher
from npu_persist.hub.remote import try_again

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from npu_persist.bundle.manifest import FileEntry
    from npu_persist.hub.remote import Remote

log = logging.getLogger(__name__)

WORTH_KEEPING = 1024 * 1024
"""Bytes that a request has to bring for its failure to be the first one again, and a file for its beginning to stay."""


class Download:
    """Files of one commit on their way here.

    Attributes:
        remote: The repository.
        commit: The commit.
    """

    def __init__(self, remote: Remote, commit: str, keep: Path, progress: Callable[[str, int], object]) -> None:
        """Prepare; nothing is asked for yet.

        Args:
            remote: The repository.
            commit: The commit.
            keep: The folder for the beginnings of files, on the file system of where they go.
            progress: Called with a path and the number of its bytes that came; a negative one where they are read anew.
        """
        self.remote = remote
        self.commit = commit
        self._keep = keep
        self._progress = progress

    def read(self, path: str, size: int) -> bytes:
        """Return a small file that has to have so many bytes.

        Raises:
            FileIntegrityError: It is longer.
            HubError: It is shorter; the hub refuses, or cannot be reached.
        """
        sink = BytesIO()
        _Transfer(self, path, sink, size, None, self._progress).run()
        return sink.getvalue()

    def save(self, path: str, target: Path, entry: FileEntry) -> None:
        """Download a file.

        Args:
            path: Where it is in the repository.
            target: A path in a staging directory, where nothing is yet.
            entry: The size and digest that it has to have.

        Raises:
            FileIntegrityError: It is longer, or has another digest, twice.
            HubError: It is shorter; the hub refuses, or cannot be reached.
            OSError: The disk refuses.
        """
        kept = self._keep / f"part-{entry.digest.partition(':')[2]}"
        with suppress(FileNotFoundError):  # by a rename, so that of two processes one gets it
            os.rename(kept, target)  # noqa: PTH104
        try:
            with target.open("a+b") as file:
                _Transfer(self, path, file, entry.size, entry.digest, self._progress).run()
        except (HubError, KeyboardInterrupt):
            if target.stat().st_size >= WORTH_KEEPING:
                with suppress(OSError):
                    os.replace(target, kept)  # noqa: PTH105
            raise


class _Transfer:
    """A file on its way into `sink`, which may hold its beginning."""

    def __init__(  # noqa: PLR0913, PLR0917 (a file of the hub, where it goes, what it has to be)
        self,
        download: Download,
        path: str,
        sink: BinaryIO,
        size: int,
        digest: str | None,
        progress: Callable[[str, int], object],
    ) -> None:
        self._remote, self._path, self._commit = download.remote, path, download.commit
        self._sink, self._size, self._digest = sink, size, digest
        self._progress = progress
        self._hasher = Hasher()
        self._done = 0
        self._began = 0

    def run(self) -> None:
        self._take_up()
        self._complete()
        if self._digest is None or self._hasher.digest() == self._digest:
            return
        log.warning("%s: expected %s, got %s; reading it anew", self._path, self._digest, self._hasher.digest())
        self._restart()
        self._complete()
        if (got := self._hasher.digest()) != self._digest:
            raise self._damaged(self._digest, f"{got}, twice")

    def _take_up(self) -> None:
        """Hash what is in the sink already."""
        buffer = memoryview(bytearray(BUFFER_SIZE)) if self._sink.seek(0, os.SEEK_END) else memoryview(b"")
        self._sink.seek(0)
        while buffer and (count := self._sink.readinto(buffer)):  # type: ignore[attr-defined]
            self._hasher.update(buffer[:count])
            self._count(count)
        if self._done > self._size:
            self._restart()

    def _complete(self) -> None:
        if self._done < self._size:
            try_again(self._receive, lambda: self._done - self._began >= WORTH_KEEPING)

    def _receive(self) -> None:
        self._began = self._done
        doing = f"download {self._path} of {self._remote.repo}"
        url = self._remote.address(self._path, self._commit)
        with self._remote.open(url, self._commit, doing, self._done) as answer:
            if answer.start != self._done:  # a hub, or what is between, that does not know ranges
                self._restart()
            if answer.start != self._done:
                raise self._short(doing)
            for piece in answer.pieces():
                if self._done + len(piece) > self._size:
                    self._restart()
                    raise self._damaged(f"{self._size} bytes", "more")
                self._sink.write(piece)
                self._hasher.update(piece)
                self._count(len(piece))
        if self._done < self._size:
            raise self._short(doing)

    def _restart(self) -> None:
        self._sink.seek(0)
        self._sink.truncate()
        self._hasher = Hasher()
        self._count(-self._done)
        self._began = 0

    def _count(self, number: int) -> None:
        self._done += number
        self._progress(self._path, number)

    def _short(self, doing: str) -> HubError:
        return HubError(
            f"could not {doing}: expected {self._size} bytes, got {self._done}. Try again later",
            repo=self._remote.repo,
            revision=self._commit,
        )

    def _damaged(self, expected: str, got: str) -> FileIntegrityError:
        where = f"{self._path} of {self._remote.repo} at {self._commit}"
        return FileIntegrityError(
            f"{where}: expected {expected}, got {got}. The repository is damaged, or something on the way changes what "
            "is sent; nothing was taken from it",
            path=where,
            expected=expected,
            got=got,
        )
