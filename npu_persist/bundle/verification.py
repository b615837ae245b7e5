"""Verification of the files that OpenVINO reads, in parallel with the load where that is safe.

Each file is opened once. What is verified is that open file, and OpenVINO reads the same one, by the path that `locate`
gives: on Linux `/proc/self/fd/N`, which leads to the open file whatever happens to its name; a graph is a sealed copy
in memory. Elsewhere OpenVINO opens the file by its name, and `finish` raises unless the name leads to the verified
file, untouched since before it was verified. A library that needs file names gets links in a folder of this
process, `at`: the targets of these links are verified and read, whatever happens to the file's own name.

Only weights are verified during the load: their size and header are checked first, so they can do no harm before. With
"stamp" a file counts as checked when size, times and inode are those of an earlier check; with "none" nothing is read.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from npu_persist.bundle.manifest import RESTORE
from npu_persist.errors import FileIntegrityError
from npu_persist.files.digest import BUFFER_SIZE, Hasher, digest_mapped, digest_stream
from npu_persist.files.filesystem import store_errors
from npu_persist.files.stamps import Stamps, find_status

if TYPE_CHECKING:
    from io import FileIO
    from types import TracebackType

    from npu_persist.bundle.manifest import FileEntry

Verify = Literal["full", "stamp", "none"]
VERIFY: tuple[Verify, ...] = ("full", "stamp", "none")
"""How `load` verifies; the first is the default."""

TICK = 0.02
"""Resolution of a file's times in seconds: a file changed more recently could change again unnoticed."""


_MAX_COPY = 1 << 28
"""Bytes of a graph that is copied into memory; a larger one is refused by the graph's own check."""

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe in the place of a file does not hold the load
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOINHERIT", 0)
)


class _CanceledError(Exception):
    """The load ended before the check."""


class _Opened(msgspec.Struct, eq=False):
    """A file that was opened to be verified, and what is known of it."""

    path: Path
    entry: FileEntry
    file: FileIO
    found: os.stat_result
    """What it was before it was read."""
    source: Path
    """Where OpenVINO reads it."""
    is_link: bool
    """Whether that is a link that this process made, which no other process renames."""
    is_read: bool = False
    is_copy: bool = False


class Verification:
    """The checks of one load.

    Attributes:
        mode: "full", "stamp" or "none".
        seconds: How long the caller waited for checks, here and in `finish`.
    """

    def __init__(self, mode: Verify, home: Path | None = None, *, by_name: bool = False) -> None:
        """Begin; `home` has the stamps, and with `by_name` other processes read the files, by their own names."""
        self.mode = mode
        self.seconds = 0.0
        self._began = time.time()
        self._elsewhere = 0
        self._stamps = None if home is None else Stamps(home)
        self._by_name = by_name
        self._opened: dict[Path, _Opened] = {}
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._is_canceled = False
        self._exit = ExitStack()

    @property
    def bytes(self) -> int:
        """How many bytes were read and matched."""
        return self._elsewhere + sum(one.entry.size for one in self._opened.values() if one.is_read)

    def count(self, size: int) -> None:
        """Add bytes that were checked elsewhere."""
        self._elsewhere += size

    def find_distrust(self) -> str | None:
        """Return why the stamps are not used; None if they are."""
        return None if self._stamps is None else self._stamps.find_distrust()

    def locate(self, path: Path) -> Path:
        """Return where to read a file that was named to `check` or `start`, until the end of the block."""
        opened = self._opened.get(path)
        return path if opened is None else opened.source

    def link(self, path: Path, name: str) -> Path:
        """Return what `locate` does, by a path with another name, for plugins that go by a name's end."""
        import tempfile

        folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="npu_persist.")))
        (folder / name).symlink_to(self.locate(path))
        return folder / name

    def restore_names(self, text: str) -> str:
        """Return a message with the files' own names in place of those that `locate` gave."""
        for path, opened in self._opened.items():
            text = text.replace(str(opened.source), str(path)) if opened.source != path else text
        return text

    def check(self, path: Path, entry: FileEntry, *, at: Path | None = None) -> None:
        """Check a graph now, before anything reads it, by its own name or a link to it.

        FileIntegrityError if it is not what it should be.
        """
        began = time.perf_counter()
        try:
            if (opened := self._open(path, entry, at)) is not None and not opened.is_read:
                self._read_copy(opened)
        finally:
            self.seconds += time.perf_counter() - began

    def start(self, path: Path, entry: FileEntry, *, at: Path | None = None) -> None:
        """Begin to check weights in a thread of its own; `finish` raises what it found."""
        if (opened := self._open(path, entry, at)) is None:
            return
        thread = threading.Thread(target=self._run, args=(opened,), name=f"verify {path.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def finish(self) -> None:
        """Wait for all checks; FileIntegrityError if a file is wrong, or was changed while it was loaded."""
        began = time.perf_counter()
        try:
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            if self._errors:
                raise self._errors[0]
            for opened in self._opened.values():
                self._check_unchanged(opened)
        finally:
            self.seconds += time.perf_counter() - began

    def write_stamps(self) -> None:
        """Remember what was checked, for "stamp", except files that had just been changed."""
        if self.mode != "stamp" or self._stamps is None:
            return
        checked = [
            (opened.path, opened.entry.digest, opened.found)
            for opened in self._opened.values()
            if opened.is_read and self._began - opened.found.st_ctime >= TICK
        ]
        if checked:
            with store_errors(f"write stamps into {self._stamps.path}"):
                self._stamps.write(checked)

    def __enter__(self) -> Verification:  # noqa: PYI034 (Self is new in Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_canceled = True
        for thread in self._threads:
            thread.join()
        self._exit.close()
        for opened in self._opened.values():
            opened.file.close()

    def _open(self, path: Path, entry: FileEntry, at: Path | None) -> _Opened | None:
        """Open a file; None if there is nothing more to check."""
        if self.mode == "none":
            return None
        name = path if at is None else at
        if name in self._opened:
            return self._opened[name]
        with store_errors(f"read {path}"):
            file = open(name, "rb", buffering=0, opener=lambda name, _: os.open(name, _FLAGS))  # noqa: SIM115
        found = os.fstat(file.fileno())
        source = name if self._by_name or at is not None else _find(file, path)
        opened = self._opened[name] = _Opened(path, entry, file, found, source, is_link=at is not None)
        if not stat.S_ISREG(found.st_mode):
            raise _damaged(path, "a regular file", "something else")
        if self.mode == "stamp" and self._stamps is not None and self._stamps.has(path, entry.digest, found):
            return None
        if found.st_size != entry.size:
            raise _damaged(path, f"{entry.size} bytes", f"{found.st_size} bytes")
        return opened

    def _run(self, opened: _Opened) -> None:
        try:
            with store_errors(f"read {opened.path}"):
                digest = digest_mapped(opened.file, progress=self._stop_if_canceled)
            self._require(opened, digest)
        except _CanceledError:
            pass
        except BaseException as error:  # noqa: BLE001 (raised again by `finish`, in the thread that called `load`)
            self._errors.append(error)

    def _read_copy(self, opened: _Opened) -> None:
        """Read a graph and verify it; where there is `memfd_create`, what OpenVINO reads is a copy of just that."""
        copy = None
        if opened.source not in self._opened and opened.entry.size <= _MAX_COPY and hasattr(os, "memfd_create"):
            with suppress(OSError):
                copy = open(os.memfd_create(opened.path.name, os.MFD_ALLOW_SEALING), "w+b", buffering=0)  # noqa: PTH123, SIM115
        if copy is None:
            with store_errors(f"read {opened.path}"):
                digest = digest_stream(opened.file)
        else:
            original, opened.file, opened.is_copy = opened.file, copy, True
            opened.source = _find(copy, opened.path)
            with original, store_errors(f"read {opened.path}"):
                digest = _copy(original, copy)
        self._require(opened, digest)

    def _require(self, opened: _Opened, digest: str) -> None:
        if digest != opened.entry.digest:
            raise _damaged(opened.path, opened.entry.digest, digest)
        opened.is_read = True

    def _check_unchanged(self, opened: _Opened) -> None:
        if opened.is_copy:
            return
        path, digest = opened.path, opened.entry.digest
        if opened.source in self._opened:
            with store_errors(f"look at {path}"):
                now = find_status(opened.source)
            is_same = _identity(now) == _identity(opened.found)
            may_get_names = opened.is_link or os.name == "nt"  # where nobody renames or removes a file that is open
            if not is_same and not (may_get_names and os.path.samestat(now, opened.found)):
                raise _damaged(path, f"{digest}, untouched while it was loaded", "a file that was replaced or changed")
            if is_same:
                return
        now = os.fstat(opened.file.fileno())
        if _content(now) != _content(opened.found):
            raise _damaged(path, f"{digest}, unchanged while it was loaded", "a file that was written to")
        if now.st_ctime_ns != opened.found.st_ctime_ns and opened.is_read:
            # It got another name or mode, as any file of a store may; or was written to, and its time set back.
            opened.file.seek(0)
            with store_errors(f"read {path}"):
                self._require(opened, digest_stream(opened.file))

    def _stop_if_canceled(self, _: int) -> None:
        if self._is_canceled:
            raise _CanceledError


def _find(file: FileIO, path: Path) -> Path:
    """Return a path that leads to an open file whatever happens to its name; the name itself where there is none."""
    if sys.platform != "linux":  # on Windows it would be a folder that anybody may make on this drive
        return path
    descriptor = Path(f"/proc/self/fd/{file.fileno()}")
    with suppress(OSError):
        if os.path.samestat(descriptor.stat(), os.fstat(file.fileno())):
            return descriptor
    return path


def _copy(file: FileIO, copy: FileIO) -> str:
    """Copy a file into sealed memory, and return the digest of the copy."""
    import fcntl

    hasher = Hasher()
    while data := file.read(BUFFER_SIZE):
        hasher.update(data)
        view = memoryview(data)
        while view:
            view = view[copy.write(view) :]
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return hasher.digest()


def _identity(found: os.stat_result) -> tuple[int, ...]:
    # The time of the last change of the inode, which no program can set, beside that of the content, which any can.
    return found.st_dev, found.st_ino, *_content(found), found.st_ctime_ns


def _content(found: os.stat_result) -> tuple[int, ...]:
    return found.st_size, found.st_mtime_ns


def _damaged(path: Path, expected: str, got: str) -> FileIntegrityError:
    return FileIntegrityError.mismatch(path, expected, got, RESTORE)
