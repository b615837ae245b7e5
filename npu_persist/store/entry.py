"""What the store lists: one entry a version, also for versions whose bundle cannot be opened.

The promise: listing reads manifests and nothing else, and a damaged version is listed with its problem instead of
hiding the others.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from npu_persist.bundle.bundle import Bundle, read_manifest
from npu_persist.bundle.reference import StoreReference
from npu_persist.errors import IntegrityError, NpuPersistError
from npu_persist.files.digest import digest_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from dataclasses import dataclass
    from pathlib import Path

    from npu_persist.store.layout import NameFolder
else:
    from npu_persist.files.frozen import dataclass


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
        problem: Why the bundle cannot be opened, or its name's aliases cannot be read; None if both can. Its files are
            not looked at.
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


def read_entries(folder: NameFolder) -> Iterator[Entry]:
    """Read the entry of each version of a name, lowest first."""
    aliases, damage = _read_aliases(folder)
    for number in folder.versions():
        with suppress(FileNotFoundError):  # removed since it was listed
            own = tuple(alias for alias, version in aliases.items() if version == number)
            entry = _read_entry(folder.version_path(number), folder.name, number, own)
            yield entry if damage is None else replace(entry, problem=entry.problem or damage)


def _read_aliases(folder: NameFolder) -> tuple[dict[str, int], str | None]:
    try:
        return folder.aliases(), None
    except IntegrityError as error:
        return {}, str(error)


def _read_entry(path: Path, name: str, version: int, aliases: tuple[str, ...]) -> Entry:
    digest, size, problem, modified = "", 0, None, path.lstat().st_mtime
    try:
        data, modified = read_manifest(path)
        digest = digest_bytes(data)
        size = Bundle(path, data, modified, version).size
    except NpuPersistError as error:
        path.lstat()  # is it damaged, or gone?
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
