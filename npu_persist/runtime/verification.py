"""Verification of the files that OpenVINO reads, beside the load where that is safe.

When `finish` returns, every file that was named holds, byte for byte, what its description says, and is the file that
was at its path since before OpenVINO opened it. Only weights are read beside the load: their size and header are
checked first, so they can do no harm before. With "stamp" a file counts as checked when size, times and inode are those
of an earlier check; with "none" nothing is read.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from npu_persist.errors import FileIntegrityError
from npu_persist.files.digest import digest_bytes, digest_mapped, digest_stream
from npu_persist.files.filesystem import replace_file, store_errors

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from npu_persist.bundle.manifest import FileEntry

Verify = Literal["full", "stamp", "none"]
VERIFY: tuple[Verify, ...] = ("full", "stamp", "none")
"""How `load` verifies; the first is the default."""

STAMP_FOLDER = "stamps"
"""Folder of the store's home with a small file for each file that was checked."""

TICK = 0.02
"""Resolution of a file's times in seconds: a file changed more recently could change again unnoticed."""


class _CanceledError(Exception):
    """The load ended before the check."""


class Verification:
    """The checks of one load.

    Attributes:
        mode: "full", "stamp" or "none".
        seconds: How long the caller waited for checks, here and in `finish`.
    """

    def __init__(self, mode: Verify, home: Path) -> None:
        self.mode = mode
        self.seconds = 0.0
        self._began = time.time()
        self._elsewhere = 0
        self._stamps = home / STAMP_FOLDER
        self._checked: list[tuple[Path, FileEntry, os.stat_result]] = []
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._is_canceled = False

    @property
    def bytes(self) -> int:
        """How many bytes were read and matched."""
        return self._elsewhere + sum(entry.size for _, entry, _ in self._checked)

    def count(self, size: int) -> None:
        """Add bytes that were checked elsewhere."""
        self._elsewhere += size

    def check(self, path: Path, entry: FileEntry) -> None:
        """Check a file now, before anything reads it; FileIntegrityError if it is not what it should be."""
        began = time.perf_counter()
        try:
            self._check(path, entry, is_beside=False)
        finally:
            self.seconds += time.perf_counter() - began

    def start(self, path: Path, entry: FileEntry) -> None:
        """Begin to check a file in a thread of its own; `finish` raises what it found."""
        if self.mode == "none" or (self.mode == "stamp" and self._is_stamped(path, entry)):
            return
        thread = threading.Thread(target=self._run, args=(path, entry), name=f"verify {path.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def finish(self) -> None:
        """Wait for all checks; FileIntegrityError if a file is wrong, or was replaced while it was checked."""
        began = time.perf_counter()
        try:
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            if self._errors:
                raise self._errors[0]
            for path, entry, found in self._checked:
                with store_errors(f"look at {path}"):
                    now = path.lstat()
                if _identity(now) != _identity(found):
                    raise _damaged(path, f"{entry.digest}, unchanged while it was loaded", "a file that was replaced")
        finally:
            self.seconds += time.perf_counter() - began

    def write_stamps(self) -> None:
        """Remember what was checked, for "stamp", except files that had just been changed."""
        for path, entry, found in self._checked if self.mode == "stamp" else ():
            if self._began - found.st_ctime < TICK:
                continue
            stamp = self._stamp_path(path)
            with store_errors(f"write {stamp}"):
                stamp.parent.parent.mkdir(parents=True, exist_ok=True)
                stamp.parent.mkdir(exist_ok=True)
                temporary = stamp.with_name(f"{stamp.name}.{os.urandom(4).hex()}")
                replace_file(stamp, json.dumps(_stamp(entry, found)).encode(), temporary=temporary)

    def __enter__(self) -> Verification:  # noqa: PYI034 (Self is new in Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_canceled = True

    def _run(self, path: Path, entry: FileEntry) -> None:
        try:
            self._check(path, entry, is_beside=True)
        except _CanceledError:
            pass
        except BaseException as error:  # noqa: BLE001 (raised again by `finish`, in the thread that called `load`)
            self._errors.append(error)

    def _check(self, path: Path, entry: FileEntry, *, is_beside: bool) -> None:
        if self.mode == "none" or (self.mode == "stamp" and self._is_stamped(path, entry)):
            return
        with store_errors(f"read {path}"), path.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            make = digest_mapped if is_beside else digest_stream
            digest = make(file, progress=self._stop_if_canceled)
        if found.st_size != entry.size or digest != entry.digest:
            raise _damaged(path, entry.digest, digest)
        self._checked.append((path, entry, found))

    def _stop_if_canceled(self, _: int) -> None:
        if self._is_canceled:
            raise _CanceledError

    def _is_stamped(self, path: Path, entry: FileEntry) -> bool:
        try:
            stamped: Any = json.loads(self._stamp_path(path).read_bytes())
            return bool(stamped == _stamp(entry, path.lstat()))
        except (OSError, ValueError):  # no stamp that can be trusted: the file is read
            return False

    def _stamp_path(self, path: Path) -> Path:
        return self._stamps / digest_bytes(os.fsencode(path)).partition(":")[2][:32]


def _stamp(entry: FileEntry, found: os.stat_result) -> list[Any]:
    # The time of the last change of the inode, which no program can set, beside that of the content, which any can.
    return [entry.digest, *_identity(found), found.st_ctime_ns]


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _damaged(path: Path, expected: str, got: str) -> FileIntegrityError:
    return FileIntegrityError(
        f"{path}: expected {expected}; got {got}. Persist the model again, or get another copy of the bundle",
        path=str(path),
        expected=expected,
        got=got,
    )
