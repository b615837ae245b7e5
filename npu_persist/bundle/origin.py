"""Where a pulled bundle or artifact came from: `origin.json`, written by `pull` beside what it pulled.

    {
      "format_version": "1.0",
      "repo": "org/unet",
      "commit": "5f0c2ab19d31e07c5f0c2ab19d31e07c5f0c2ab1",
      "revision": "v3",                             what was asked for; null: the default branch
      "endpoint": "https://huggingface.co",
      "pulled_at": "2026-11-21T07:40:04Z"
    }

A folder that has the file was pulled. `pull` never takes the file from a repository, and one that is damaged is an
error: trust depends on it.
"""

from __future__ import annotations

import re
import stat
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import msgspec

from npu_persist.bundle.document import Document, DocumentError, Text, decode, encode
from npu_persist.bundle.manifest import ORIGIN_FILE
from npu_persist.errors import FileIntegrityError
from npu_persist.files.filesystem import store_errors, write_file

if TYPE_CHECKING:
    from pathlib import Path

MAX_ORIGIN_SIZE = 64 * 1024
"""Largest `origin.json`, in bytes."""

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


class Origin(Document, frozen=True):
    """Where something was pulled from.

    Attributes:
        repo: The repository: `org/unet`.
        commit: The commit, 40 hex digits.
        revision: The branch, tag or commit that was asked for; None for the default branch.
        endpoint: The hub's address.
        pulled_at: When, in UTC.
    """

    repo: Text
    commit: Text
    revision: Text | None
    endpoint: Text
    pulled_at: Annotated[datetime, msgspec.Meta(tz=True)]


def write_origin(folder: Path, origin: Origin) -> None:
    """Write a folder's `origin.json`, and wait until it is on the disk."""
    when = origin.pulled_at.astimezone(timezone.utc).replace(microsecond=0)
    write_file(folder / ORIGIN_FILE, encode(msgspec.structs.replace(origin, pulled_at=when)))


def read_origin(folder: Path) -> Origin | None:
    """Read a folder's `origin.json`; None if there is none, not even a broken link of that name."""
    path = folder / ORIGIN_FILE
    with store_errors(f"read {path}"):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            raise _damaged(path, "a regular file", "something else")
        with path.open("rb") as file:
            data = file.read(MAX_ORIGIN_SIZE + 1)
    if len(data) > MAX_ORIGIN_SIZE:
        raise _damaged(path, f"at most {MAX_ORIGIN_SIZE} bytes", "more")
    try:
        origin = decode(data, Origin)
    except DocumentError as error:
        raise _damaged(path, "what `pull` writes", f"{len(data)} bytes that are not that ({error})") from error
    if not _COMMIT.fullmatch(origin.commit):
        raise _damaged(path, "commit: 40 hex digits", origin.commit)
    return origin


def _damaged(path: Path, expected: str, got: str) -> FileIntegrityError:
    return FileIntegrityError(
        f"{path}: expected {expected}; got {got}. Pull the bundle again",
        path=str(path),
        expected=expected,
        got=got,
    )
