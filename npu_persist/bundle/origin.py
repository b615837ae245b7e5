"""Where a pulled bundle or artifact came from: `origin.json`, written by `pull` beside what it pulled.

    {
      "format_version": "1.0",
      "repo": "org/unet",
      "commit": "5f0c2ab19d31e07c5f0c2ab19d31e07c5f0c2ab1",
      "revision": "v3",                             what was asked for; null: the default branch
      "endpoint": "https://huggingface.co",
      "pulled_at": "2026-11-21T07:40:04Z"
    }

The promise: what has the file was pulled, whatever else is in its folder; a file of that name that came from elsewhere
is never taken over (`pull` leaves it out). One that cannot be read is an error, never a folder without an origin.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import asdict
from typing import TYPE_CHECKING

from npu_persist.bundle.manifest import ORIGIN_FILE, strict_json
from npu_persist.bundle.manifest.values import ValueReader
from npu_persist.errors import FileIntegrityError, ManifestError
from npu_persist.files.filesystem import store_errors, write_file

if TYPE_CHECKING:
    from dataclasses import dataclass
    from datetime import datetime
    from pathlib import Path
else:
    from npu_persist.files.frozen import dataclass

FORMAT_VERSION = "1.0"
"""The format of `origin.json`."""

MAX_ORIGIN_SIZE = 64 * 1024
"""Largest `origin.json`, in bytes."""

_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something was pulled from.

    Attributes:
        repo: The repository: `org/unet`.
        commit: The commit, 40 hex digits.
        revision: The branch, tag or commit that was asked for; None for the default branch.
        endpoint: The hub's address.
        pulled_at: When, in UTC.
    """

    repo: str
    commit: str
    revision: str | None
    endpoint: str
    pulled_at: datetime


def write_origin(folder: Path, origin: Origin) -> None:
    """Write a folder's `origin.json`, and wait until it is on the disk.

    Raises:
        FileExistsError: There is one already.
        OSError: The file system refuses.
    """
    from datetime import timezone

    when = origin.pulled_at.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="seconds")
    document = {**asdict(origin), "format_version": FORMAT_VERSION, "pulled_at": f"{when}Z"}
    write_file(folder / ORIGIN_FILE, strict_json.dump(document))


def read_origin(folder: Path) -> Origin | None:
    """Read a folder's `origin.json`; None if there is none, not even a broken link of that name.

    Raises:
        FileIntegrityError: It is damaged, too large or no regular file.
        StoreError: It cannot be read.
    """
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
        return _parse(data, os.fspath(path))
    except ManifestError as error:
        problems = "; ".join(map(str, error.problems))
        raise _damaged(path, "what `pull` writes", f"{len(data)} bytes that are not that ({problems})") from error


def _parse(data: bytes, source: str) -> Origin:
    problems = strict_json.Problems(source)
    reader = ValueReader(problems)
    names = ("format_version", "repo", "commit", "revision", "endpoint", "pulled_at")
    got = reader.members(strict_json.load(data, problems), "", *names)
    reader.choice(got["format_version"], "format_version", (FORMAT_VERSION,))
    commit = reader.text(got["commit"], "commit")
    if not _COMMIT.fullmatch(commit):
        reader.expected("40 hex digits", got["commit"], "commit")
    origin = Origin(
        repo=reader.text(got["repo"], "repo"),
        commit=commit,
        revision=reader.optional(got["revision"], "revision", reader.text),
        endpoint=reader.text(got["endpoint"], "endpoint"),
        pulled_at=_time(reader, got["pulled_at"]),
    )
    problems.raise_if_any()
    return origin


def _time(reader: ValueReader, value: object) -> datetime:
    from datetime import datetime, timezone

    text = reader.text(value, "pulled_at")
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text[:-1]).replace(tzinfo=timezone.utc)
    except ValueError:  # the thirteenth month
        pass
    reader.expected("a time such as 2026-11-21T07:40:04Z", value, "pulled_at")
    return datetime.fromtimestamp(0, timezone.utc)


def _damaged(path: Path, expected: str, got: str) -> FileIntegrityError:
    return FileIntegrityError(
        f"{path}: expected {expected}; got {got}. Pull the bundle again",
        path=str(path),
        expected=expected,
        got=got,
    )
