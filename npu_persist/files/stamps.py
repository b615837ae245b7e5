"""Stamps: small files that remember which files were compared with their digests, and what they were then.

    $NPU_PERSIST_HOME/stamps/<32 hex digits of the path's digest>     JSON: path, digest, device, inode, size, times

A stamp holds as long as nothing of that changed. Losing one costs reading the file again.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import list_directory, remove_unused, replace_file
from npu_persist.files.owners import find_distrust, is_own
from npu_persist.files.staging import staged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

STAMP_FOLDER = "stamps"
"""Folder of the store's home."""

_NAME = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Stamps:
    """The stamps of a store's home; neither need exist."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.path = home / STAMP_FOLDER
        self._staging = home / "staging"

    def has(self, path: Path, digest: str, found: os.stat_result) -> bool:
        """Tell whether a file had this digest when it was what it is now; no stamp that others may have made counts."""
        try:
            if self.find_distrust() is not None:
                return False
            return bool(_read(self._stamp_path(path)) == _stamp(path, digest, found))
        except (OSError, ValueError):  # no stamp that can be trusted: the file is read
            return False

    def find_distrust(self) -> str | None:
        """Return why the stamps may be what other users wrote, and what to do; None if they are not."""
        return find_distrust(self.path)

    def write(self, checked: Iterable[tuple[Path, str, os.stat_result]]) -> None:
        """Remember files with their digests, and what they were before they were read."""
        with staged(self._staging, below=self._home) as staging:
            for path, digest, found in checked:
                stamp = self._stamp_path(path)
                data = json.dumps(_stamp(path, digest, found)).encode()
                replace_file(stamp, data, temporary=staging / stamp.name, below=self._home)

    def prune(self) -> Iterator[Path]:
        """Remove the stamps of files that are gone or changed, and broken ones; yield them."""
        for stamp in (self.path / name for name in list_directory(self.path) if _NAME.fullmatch(name)):
            with suppress(OSError, ValueError, TypeError, IndexError):
                path, digest = _read(stamp)[:2]
                if self.has(path, digest, find_status(path)):
                    continue
            if remove_unused(stamp, below=self._home):
                yield stamp

    def _stamp_path(self, path: Path) -> Path:
        return self.path / digest_bytes(os.fsencode(path)).partition(":")[2][:32]


def find_status(path: str | os.PathLike[str]) -> os.stat_result:
    """Return what `os.lstat` does, with the times that `os.fstat` gives for the file once it is open.

    On Windows, from Python 3.12 on, `st_ctime` is the time of the last change for an open file only, and else that of
    the file's creation.
    """
    if os.name != "nt":
        return os.lstat(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _read(stamp: Path) -> Any:
    with stamp.open("rb") as file:
        if not is_own(os.fstat(file.fileno())):
            raise ValueError("others may have written it")
        return json.loads(file.read())


def _stamp(path: Path, digest: str, found: os.stat_result) -> list[Any]:
    # The time of the last change of the inode, which no program can set, beside that of the content, which any can.
    times = found.st_mtime_ns, found.st_ctime_ns
    return [os.fspath(path), digest, found.st_dev, found.st_ino, found.st_size, *times]
