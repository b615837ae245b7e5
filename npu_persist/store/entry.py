"""What the store lists: one entry a version, also for versions whose bundle cannot be opened.

The promise: listing reads manifests and nothing else, and a damaged version is listed with its problem instead of
hiding the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from npu_persist.bundle import Bundle, read_manifest
from npu_persist.digest import digest_bytes
from npu_persist.errors import NpuPersistError
from npu_persist.reference import StoreReference

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """One version in the store.

    Attributes:
        reference: What to call it: `unet:3`.
        name: The bundle's name.
        version: The version number.
        digest: The bundle's digest; empty if the manifest cannot be read.
        aliases: The aliases that point to it.
        size: Bytes of the manifest and the files that it names; 0 if the manifest is not valid. Files that several
            versions share count in each.
        created: When it was persisted, in UTC.
        path: Its directory.
        problem: Why the bundle cannot be opened; None if it can. Its files are not looked at.
    """

    reference: str
    name: str
    version: int
    digest: str
    aliases: tuple[str, ...]
    size: int
    created: datetime
    path: Path
    problem: str | None = None


def read_entry(path: Path, name: str, version: int, aliases: tuple[str, ...]) -> Entry:
    """Return the entry of the version in a directory."""
    digest, size, modified, problem = "", 0, path.lstat().st_mtime, None
    try:
        data, modified = read_manifest(path)
        digest = digest_bytes(data)
        size = Bundle(path, data, modified, version).size
    except NpuPersistError as error:
        problem = str(error)
    return Entry(
        reference=str(StoreReference(name, version=version)),
        name=name,
        version=version,
        digest=digest,
        aliases=aliases,
        size=size,
        created=datetime.fromtimestamp(modified, timezone.utc),
        path=path,
        problem=problem,
    )
