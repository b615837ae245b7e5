"""From a reference to a version's folder, and from there to its bundle.

The promise: what is not there is a `BundleNotFoundError` that says what is there instead. Finding parses no manifest,
so that a damaged version can be found too, and removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.bundle import Bundle, read_manifest
from npu_persist.bundle.reference import StoreReference, validate_name
from npu_persist.errors import AmbiguousReferenceError, BundleNotFoundError, FileIntegrityError, NpuPersistError
from npu_persist.files.digest import ALGORITHM, digest_bytes
from npu_persist.files.filesystem import is_directory
from npu_persist.store.layout import NameFolder, list_names

if TYPE_CHECKING:
    from pathlib import Path

_SHOWN = 10
_SHOWN_DIGITS = 12


def find_name(bundles: Path, name: str) -> NameFolder:
    """Return the folder of a name that has a version.

    Raises:
        BundleNotFoundError: There is none.
    """
    folder = NameFolder(bundles / validate_name(name))
    # By the listing: where upper and lower case are one, a folder of another spelling would open.
    names = tuple(found for found in list_names(bundles) if NameFolder(bundles / found).versions())
    if name not in names:
        raise BundleNotFoundError(f"no bundle {name!r} in the store {bundles.parent}{_instead(name, names)}")
    return folder


def find_version(bundles: Path, reference: StoreReference) -> tuple[NameFolder, int]:
    """Return the folder of a name, and the number of the version that a reference means.

    Raises:
        BundleNotFoundError: There is no such name, version, alias or digest.
        AmbiguousReferenceError: Several bundles' digests start so.
    """
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
    """Open the bundle of a version.

    Raises:
        BundleNotFoundError: It was removed since it was looked up.
        IntegrityError: Its manifest is damaged, or of another name.
    """
    path = folder.version_path(number)
    try:
        bundle = Bundle(path, *read_manifest(path), number)
    except FileIntegrityError as error:
        if is_directory(path):
            raise
        raise missing_version(folder, number) from error
    if bundle.name != folder.name:
        raise FileIntegrityError(
            f"{path}: expected the bundle {folder.name!r}, got {bundle.name!r}: the folder was moved here. Move it "
            "back, or persist the model again under this name",
            path=str(path),
            expected=folder.name,
            got=bundle.name,
        )
    return bundle


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
        f"`npu-persist tag {folder.name}:<version> {alias}` makes it"
    )


def _by_alias(folder: NameFolder, alias: str) -> int:
    # In this order: the version that an alias points to was there before the alias.
    number = folder.aliases().get(alias)
    versions = folder.versions()
    if number is None:
        raise missing_alias(folder, alias)
    if number not in versions:
        raise BundleNotFoundError(
            f"the alias {folder.name}:{alias} points to version {number}, which is not in the store; it has the "
            f"versions {_join(versions)}. `npu-persist tag {folder.name}:<version> {alias}` sets the alias again"
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


def _join(things: object) -> str:
    texts = [str(thing) for thing in things]  # type: ignore[attr-defined]
    if not texts:
        return "none"
    return ", ".join(texts) if len(texts) <= _SHOWN else f"{', '.join(texts[-_SHOWN:])} and {len(texts) - _SHOWN} more"
