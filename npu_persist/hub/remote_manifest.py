"""What a commit holds of a bundle: its manifest, and the descriptions of what was compiled for it.

The promise: what is read is small and bounded, and right in itself when it is returned: a manifest that can be read,
each of its files listed by the hub with the size that it gives, and names below `compiled/` that every platform has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, MAX_ARTIFACT_SIZE
from npu_persist.artifact.attached import MAX_ATTACHED, MAX_DESCRIPTIONS
from npu_persist.bundle.manifest import (
    COMPILED_DIRECTORY,
    MANIFEST_FILE,
    MANIFEST_SIGNATURE_FILE,
    MAX_MANIFEST_SIZE,
    Manifest,
)
from npu_persist.errors import ArtifactError, FileIntegrityError, HubNotFoundError, IntegrityError, ManifestError
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import path_problem
from npu_persist.hub.pulled import Seen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npu_persist.hub.transfer import Download

MAX_SIGNATURES_SIZE = 1024 * 1024
"""Largest file of signatures, in bytes."""


def look(download: Download, *, compiled: bool) -> tuple[Seen, bytes]:
    """Read what a commit holds of a bundle, and return it with the bytes of the manifest.

    Args:
        download: The commit.
        compiled: Whether to read what was compiled too.

    Raises:
        HubNotFoundError: There is no manifest in it, or no such commit.
        ManifestError: The manifest is damaged or hostile.
        FileIntegrityError: A file of the bundle is missing, or of another size.
        ArtifactError: What is compiled is too much, or has names that not every platform has.
        HubError: The hub refuses, or cannot be reached.
    """
    remote, commit = download.remote, download.commit
    sizes = remote.list_files(commit)
    where = f"{remote.repo} at {commit}"
    if MANIFEST_FILE not in sizes:
        raise HubNotFoundError(
            f"{where} holds no bundle: expected a {MANIFEST_FILE} at its root, got {len(sizes)} other files. "
            "`npu-persist push` writes one",
            repo=remote.repo,
            revision=commit,
        )
    if sizes[MANIFEST_FILE] > MAX_MANIFEST_SIZE:
        raise ManifestError(
            f"{where}: expected a {MANIFEST_FILE} of at most {MAX_MANIFEST_SIZE} bytes, got {sizes[MANIFEST_FILE]}"
        )
    data = download.read(MANIFEST_FILE, sizes[MANIFEST_FILE])
    manifest = Manifest.from_json(data, source=f"{MANIFEST_FILE} of {where}")
    for path, entry in manifest.files.items():
        _check_size(where, path, entry.size, sizes.get(path))
    inside = (
        {path: size for path, size in sizes.items() if path.startswith(f"{COMPILED_DIRECTORY}/")} if compiled else {}
    )
    _check_names(where, inside)
    _check_signatures(where, sizes, inside)
    needed = {MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, *manifest.files, *inside}
    seen = Seen(
        repo=remote.repo,
        commit=commit,
        name=manifest.name,
        digest=digest_bytes(data),
        sizes={path: sizes[path] for path in sorted(needed & sizes.keys())},
        descriptions=_read_descriptions(download, where, inside) if compiled else None,
    )
    return seen, data


def _check_size(where: str, path: str, expected: int, got: int | None) -> None:
    if got != expected:
        found = "nothing" if got is None else f"{got} bytes"
        raise FileIntegrityError(
            f"{path} of {where}: expected {expected} bytes, as the manifest says, got {found}. Push the bundle again",
            path=path,
            expected=f"{expected} bytes",
            got=found,
        )


def _check_names(where: str, inside: Mapping[str, int]) -> None:
    spellings: dict[str, str] = {}
    for path in inside:
        problem = path_problem(path)
        twin = spellings.setdefault(path.lower(), path)
        if problem is None and twin != path:
            problem = f"differs from {twin!r} in upper and lower case only"
        if problem is not None:
            raise ArtifactError(
                f"{path!r} of {where} {problem}: expected names that every platform has. Nothing was taken from it; "
                "`--no-compiled` leaves out all that is compiled",
                path=path,
                expected="names that every platform has",
                got=problem,
            )


def _check_signatures(where: str, sizes: Mapping[str, int], inside: Mapping[str, int]) -> None:
    beside = [path for path in inside if path.endswith(f"/{ARTIFACT_SIGNATURE_FILE}")]
    for path in (MANIFEST_SIGNATURE_FILE, *beside):
        if (size := sizes.get(path, 0)) > MAX_SIGNATURES_SIZE:
            raise IntegrityError(f"{path} of {where}: expected at most {MAX_SIGNATURES_SIZE} bytes, got {size}")


def _read_descriptions(download: Download, where: str, inside: Mapping[str, int]) -> dict[str, str]:
    found = {}
    for path, size in inside.items():
        _, folder, *rest = path.split("/")
        if rest == [ARTIFACT_FILE]:
            found[folder] = size
    total = sum(found.values())
    if len(found) > MAX_ATTACHED or total > MAX_DESCRIPTIONS or max(found.values(), default=0) > MAX_ARTIFACT_SIZE:
        expected = f"at most {MAX_ATTACHED} artifacts, and at most {MAX_DESCRIPTIONS} bytes of {ARTIFACT_FILE}"
        raise ArtifactError(
            f"{where}: expected {expected} ({MAX_ARTIFACT_SIZE} each); got {len(found)} with {total} bytes. "
            "`--no-compiled` leaves out all that is compiled",
            path=COMPILED_DIRECTORY,
            expected=expected,
            got=f"{len(found)} with {total} bytes",
        )
    texts = {}
    for folder, size in found.items():
        data = download.read(f"{COMPILED_DIRECTORY}/{folder}/{ARTIFACT_FILE}", size)
        texts[folder] = data.decode("utf-8", "replace")  # what this changes is no description then
    return texts
