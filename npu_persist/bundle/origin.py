"""Where a pulled bundle or artifact came from: `origin.json`, written by `pull` beside what it pulled.

    {
      "format_version": "1.0",
      "repo": "org/unet",
      "commit": "5f0c2ab19d31e07c5f0c2ab19d31e07c5f0c2ab1",
      "revision": "v3",                             what was asked for; null: the default branch
      "endpoint": "https://huggingface.co",
      "pulled_at": "2026-11-21T07:40:04Z",
      "name": null                                  its name in the store, where that is not the manifest's
    }

A folder that has the file was pulled. `pull` never takes the file from a repository, and one that is damaged is an
error: trust depends on it.
"""

from __future__ import annotations

import re
import stat
from datetime import datetime, timezone
from fnmatch import fnmatchcase
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

HUGGING_FACE = "https://huggingface.co"
"""The address of Hugging Face's own hub."""

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


class Origin(Document, frozen=True):
    """Where something was pulled from.

    Attributes:
        repo: The repository: `org/unet`.
        commit: The commit, 40 hex digits.
        revision: The branch, tag or commit that was asked for; None for the default branch.
        endpoint: The hub's address.
        pulled_at: When, in UTC.
        name: The bundle's name in the store; None for the one in its manifest.
    """

    repo: Text
    commit: Text
    revision: Text | None
    endpoint: Text
    pulled_at: Annotated[datetime, msgspec.Meta(tz=True)]
    name: Text | None

    @property
    def source(self) -> str:
        """The repository, with the hub's address unless that is Hugging Face's: `https://hub.example.com/org/unet`."""
        return self.repo if self.endpoint == HUGGING_FACE else f"{self.endpoint}/{self.repo}"

    def matches(self, pattern: str) -> bool:
        """Tell whether it is from one of the repositories that a pattern such as `org/*` means; see `split_pattern`."""
        endpoint, repo = split_pattern(pattern)
        return self.endpoint == endpoint and fnmatchcase(self.repo, repo)


def split_pattern(pattern: str) -> tuple[str, str]:
    """Split a pattern of repositories into the hub's address and `org/unet` or `org/*`.

    `https://hub.example.com/org/*` names its hub, which has to be that to the letter; `org/*` means Hugging Face's own.
    ValueError if it is something else: without an owner it would match nothing, or everything.
    """
    scheme, separator, rest = pattern.rpartition("://")
    parts = rest.split("/")
    repo = "/".join(parts[-2:])
    host = "/".join(parts[:-2])
    is_named = bool(separator)
    if not all(parts) or len(parts) < 2 or is_named != bool(host):  # noqa: PLR2004
        raise ValueError(pattern)
    if is_named and (scheme not in {"http", "https"} or set(host) & set("*?[]")):
        raise ValueError(pattern)
    return (f"{scheme}://{host}" if is_named else HUGGING_FACE), repo


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
    return FileIntegrityError.mismatch(path, expected, got, "Pull the bundle again")
