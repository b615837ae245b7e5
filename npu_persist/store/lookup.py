"""Bundles in a store: found by reference, and listed.

Finding parses no manifest, so that a damaged version can be found and removed; listing shows it with its problem.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime  # noqa: TC003 (a field of a record)
from typing import TYPE_CHECKING

import msgspec

from npu_persist.bundle.bundle import Bundle, read_manifest
from npu_persist.bundle.origin import read_origin
from npu_persist.bundle.reference import StoreReference, validate_name
from npu_persist.errors import (
    AmbiguousReferenceError,
    BundleNotFoundError,
    FileIntegrityError,
    IntegrityError,
    NpuPersistError,
    StoreError,
)
from npu_persist.files.digest import ALGORITHM, digest_bytes
from npu_persist.files.filesystem import to_datetime
from npu_persist.store.folder import NameFolder, list_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_SHOWN = 10
_SHOWN_DIGITS = 12


class StoredBundle(msgspec.Struct, frozen=True, kw_only=True):
    """One version in the store, as `list` returns it.

    Attributes:
        reference: `unet:3`.
        name: The bundle's name.
        version: The version number.
        digest: The bundle's digest; empty if the manifest cannot be read.
        aliases: The aliases that point to it.
        size: Bytes of the manifest and the files that it names; 0 if the manifest is not valid. Files shared by
            versions count in each.
        created: When it was persisted, in UTC.
        path: Its directory.
        problem: Why the bundle cannot be opened, or its aliases cannot be read; None otherwise. Its files are not
            read.
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


def find_name(bundles: Path, name: str) -> NameFolder:
    """Return the folder of a name that has a version."""
    folder = NameFolder(bundles / validate_name(name))
    if not folder.has_versions():
        names = tuple(found for found in list_names(bundles) if NameFolder(bundles / found).has_versions())
        raise BundleNotFoundError(f"no bundle {name!r} in the store {bundles.parent}{_instead(name, names)}")
    return folder


def find_version(bundles: Path, reference: StoreReference) -> tuple[NameFolder, int]:
    """Return the folder of a name, and the number of the version that a reference means."""
    folder = find_name(bundles, reference.name)
    if reference.digest is not None:
        return folder, _by_digest(folder, reference.digest)
    if reference.alias is not None:
        return folder, _by_alias(folder, reference.alias)
    versions = folder.versions()
    number = reference.version if reference.version is not None else max(versions, default=0)
    if number not in versions:
        raise missing_version(folder, number)
    return folder, number


def open_version(folder: NameFolder, number: int) -> Bundle:
    """Open the bundle of a version; one that was removed since it was found is a BundleNotFoundError."""
    path = folder.version_path(number)
    try:
        bundle = Bundle(path, *read_manifest(path), number)
    except (FileIntegrityError, StoreError) as error:
        if folder.has_version(number):
            raise
        raise missing_version(folder, number) from error
    if bundle.manifest.name != folder.name and not _was_pulled_as(path, folder.name):
        raise FileIntegrityError(
            f"{path} holds the bundle {bundle.manifest.name!r}: it was moved here. Move it back, or persist the model "
            f"again as {folder.name!r}",
            path=str(path),
            expected=folder.name,
            got=bundle.manifest.name,
        )
    return bundle


def _was_pulled_as(path: Path, name: str) -> bool:
    origin = read_origin(path)
    return origin is not None and origin.name == name


def list_versions(folder: NameFolder) -> Iterator[StoredBundle]:
    """List the versions of a name, lowest first."""
    aliases, damage = _read_aliases(folder)
    for number in folder.versions():
        with suppress(FileNotFoundError):  # removed since it was listed
            own = tuple(alias for alias, version in aliases.items() if version == number)
            found = _read_version(folder.version_path(number), folder.name, number, own)
            yield found if damage is None else msgspec.structs.replace(found, problem=found.problem or damage)


def _read_aliases(folder: NameFolder) -> tuple[dict[str, int], str | None]:
    try:
        return folder.aliases(), None
    except IntegrityError as error:
        return {}, str(error)


def _read_version(path: Path, name: str, version: int, aliases: tuple[str, ...]) -> StoredBundle:
    digest, size, problem, modified = "", 0, None, path.lstat().st_mtime
    try:
        data, modified = read_manifest(path)
        digest = digest_bytes(data)
        size = Bundle(path, data, modified, version).size
    except NpuPersistError as error:
        path.lstat()  # is it damaged, or gone?
        problem = str(error)
    return StoredBundle(
        reference=str(StoreReference(name, version=version)),
        name=name,
        version=version,
        digest=digest,
        aliases=aliases,
        size=size,
        created=to_datetime(modified),
        path=path,
        problem=problem,
    )


def missing_version(folder: NameFolder, number: int) -> BundleNotFoundError:
    """Return the error for a version that is not there."""
    return BundleNotFoundError(
        f"no version {number} of {folder.name!r} in the store {folder.path.parent.parent}; it has the versions "
        f"{_join(folder.versions())}. `npu-persist list {folder.name}` shows them"
    )


def missing_alias(folder: NameFolder, alias: str) -> BundleNotFoundError:
    """Return the error for an alias that is not there."""
    aliases = [f"{known} (version {number})" for known, number in folder.aliases().items()]
    return BundleNotFoundError(
        f"no alias {alias!r} of {folder.name!r} in the store {folder.path.parent.parent}; it has {_join(aliases)}. "
        f"`npu-persist alias {folder.name}:<version> {alias}` makes it"
    )


def _by_alias(folder: NameFolder, alias: str) -> int:
    # In this order: the version that an alias points to was there before the alias.
    number = folder.aliases().get(alias)
    versions = folder.versions()
    if number is None:
        raise missing_alias(folder, alias)
    if number not in versions:
        raise BundleNotFoundError(
            f"the alias {folder.name}:{alias} points to version {number}, which is not in the store; the store has the "
            f"versions {_join(versions)}. `npu-persist alias {folder.name}:<version> {alias}` sets the alias again"
        )
    return number


def _by_digest(folder: NameFolder, prefix: str) -> int:
    found: dict[str, int] = {}
    for number in folder.versions():
        try:
            data, _ = read_manifest(folder.version_path(number))
        except NpuPersistError:  # no manifest, no digest
            continue
        digest = digest_bytes(data)
        if digest.removeprefix(f"{ALGORITHM}:").startswith(prefix):
            found[digest] = number  # of versions with the same content, the newest
    if not found:
        raise BundleNotFoundError(
            f"no version of {folder.name!r} has a digest that starts with {prefix!r} in the store "
            f"{folder.path.parent.parent}. `npu-persist list {folder.name}` shows digests"
        )
    if len(found) > 1:
        matches = tuple(str(StoreReference(folder.name, version=number)) for number in found.values())
        shown = [
            f"{match} ({digest[: len(ALGORITHM) + 1 + max(_SHOWN_DIGITS, len(prefix) + 4)]})"
            for match, digest in zip(matches, found, strict=True)
        ]
        raise AmbiguousReferenceError(
            f"{folder.name}@{prefix} is the start of {len(found)} digests: {_join(shown)}. Give more digits or a "
            "version",
            matches=matches,
        )
    return next(iter(found.values()))


def _instead(name: str, names: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    lowered = {known.lower(): known for known in names}
    nearest = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[nearest[0]]!r}?" if nearest else f"; it has {_join(names)}."
    return f"{hint} `npu-persist list` shows what is there, persist(model, {name!r}) adds it"


def _join(things: Iterable[object]) -> str:
    texts = [str(thing) for thing in things]
    if not texts:
        return "none"
    return ", ".join(texts) if len(texts) <= _SHOWN else f"{', '.join(texts[-_SHOWN:])} and {len(texts) - _SHOWN} more"
