"""Plan a pull: find a commit's bundle, and decide which of its files and compiled artifacts to download."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.artifact.artifact import (
    ARTIFACT_FILE,
    ARTIFACT_SIGNATURE_FILE,
    MAX_ARTIFACT_SIZE,
    Artifact,
    check_layout,
)
from npu_persist.artifact.attached import MAX_ATTACHED, MAX_DESCRIPTIONS, list_attached
from npu_persist.artifact.compatibility import check_attached
from npu_persist.bundle.manifest import (
    COMPILED_DIRECTORY,
    MANIFEST_FILE,
    MANIFEST_SIGNATURE_FILE,
    MAX_MANIFEST_SIZE,
    ORIGIN_FILE,
    Manifest,
)
from npu_persist.bundle.origin import read_origin
from npu_persist.errors import (
    ArtifactError,
    FileIntegrityError,
    HubNotFoundError,
    IntegrityError,
    ManifestError,
    StoreError,
)
from npu_persist.files.digest import digest_bytes
from npu_persist.files.filesystem import path_problem
from npu_persist.hub.pulled import CommitSummary
from npu_persist.trust.signing import MAX_SIGNATURES_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.device.machine import Machine
    from npu_persist.hub.client import RemoteCommit

log = logging.getLogger(__name__)


class PlannedFile(msgspec.Struct, frozen=True):
    """A file that a pull needs.

    Attributes:
        path: Its path in the repository.
        size: Its size in bytes.
        is_here: Whether the store has it already, so that it is not downloaded.
    """

    path: str
    size: int
    is_here: bool


class SkippedArtifact(msgspec.Struct, frozen=True):
    """An artifact that a pull does not download.

    Attributes:
        folder: Its folder in `compiled/`.
        reason: Why.
    """

    folder: str
    reason: str


class PlannedArtifact(msgspec.Struct, frozen=True):
    """An artifact that a pull downloads.

    Attributes:
        folder: Its folder in the repository: `compiled/npu-4000`.
        artifact: Its `artifact.json`.
        is_signed: Whether the repository has signatures for it.
    """

    folder: str
    artifact: Artifact
    is_signed: bool


class PullPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull would do.

    Attributes:
        repo_id: `org/unet`.
        commit: The commit, 40 hex digits.
        name: The bundle's name in the store.
        digest: The bundle's digest.
        reference: The version in the store with this content: `unet:3`; None if there is none.
        files: The files it needs.
        artifacts: The artifacts it downloads.
        skipped: The artifacts it does not download.
        signatures: The signatures it renews in the store: their paths in the repository, and the files.
    """

    repo_id: str
    commit: str
    name: str
    digest: str
    reference: str | None
    files: tuple[PlannedFile, ...]
    artifacts: tuple[PlannedArtifact, ...]
    skipped: tuple[SkippedArtifact, ...]
    signatures: tuple[tuple[str, Path], ...]

    @property
    def download_size(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.files if not file.is_here)


def read_summary(remote: RemoteCommit, *, compiled: bool) -> tuple[CommitSummary, bytes]:
    """Read the summary of a commit's bundle, and its manifest's bytes; with `compiled` its `artifact.json` files too.

    The manifest is valid, each of its files has the size that it gives, and each name in `compiled/` is valid on every
    platform. Raises `HubNotFoundError` without a manifest, `IntegrityError` if something is damaged or hostile.
    """
    sizes = {path: file.size for path, file in remote.files.items()}
    repo_id, commit = remote.repository.repo_id, remote.commit
    where = f"{repo_id} at {commit}"
    if MANIFEST_FILE not in sizes:
        raise HubNotFoundError(
            f"{where} has no bundle: expected {MANIFEST_FILE} at its root, got {len(sizes)} other files. "
            "`npu-persist push` uploads one",
            repo_id=repo_id,
            revision=commit,
        )
    if sizes[MANIFEST_FILE] > MAX_MANIFEST_SIZE:
        raise ManifestError(
            f"{where}: expected a {MANIFEST_FILE} of at most {MAX_MANIFEST_SIZE} bytes, got {sizes[MANIFEST_FILE]}"
        )
    data = remote.read(MANIFEST_FILE)
    manifest = Manifest.from_json(data, source=f"{MANIFEST_FILE} of {where}")
    for path, entry in manifest.files.items():
        _check_size(where, path, entry.size, sizes.get(path))
    # A file directly in compiled/, such as the lock of an uploaded folder, belongs to no artifact.
    inside = [path for path in sizes if compiled and re.match(f"{COMPILED_DIRECTORY}/[^/]+/", path)]
    _check_names(where, inside)
    for path in (MANIFEST_SIGNATURE_FILE, *inside):
        is_signatures = path.endswith((MANIFEST_SIGNATURE_FILE, f"/{ARTIFACT_SIGNATURE_FILE}"))
        if is_signatures and sizes.get(path, 0) > MAX_SIGNATURES_SIZE:
            log.warning("%s of %s is ignored: its %d bytes are not signatures", path, where, sizes.pop(path))
    needed = {MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, *manifest.files, *inside}
    summary = CommitSummary(
        repo_id=repo_id,
        commit=commit,
        name=manifest.name,
        digest=digest_bytes(data),
        sizes={path: sizes[path] for path in sorted(needed & sizes.keys())},
        descriptions=_read_descriptions(remote, inside) if compiled else None,
    )
    return summary, data


def make_plan(  # noqa: PLR0913, PLR0917 (what the commit has, what the store has, what is wanted)
    bundle: Bundle,
    existing: Bundle | None,
    held: Iterable[str],
    summary: CommitSummary,
    machines: Sequence[Machine] | None,
    find_reason_to_keep: Callable[[Path, Artifact, PlannedArtifact], str | None],
    is_renewed: Callable[[str, Path], bool],
) -> PullPlan:
    """Decide what to download.

    `find_reason_to_keep` says of an attached artifact that was pulled why another one for the same does not replace it;
    `is_renewed` whether a signature file is read from the hub, by its path there and here.
    """
    sizes, there = summary.sizes, frozenset(held)
    files = [PlannedFile(MANIFEST_FILE, sizes[MANIFEST_FILE], existing is not None)]
    files += (
        PlannedFile(path, entry.size, existing is not None or entry.digest in there)
        for path, entry in bundle.manifest.files.items()
    )
    chosen: list[PlannedArtifact] = []
    skipped: list[SkippedArtifact] = []
    signatures: list[tuple[str, Path]] = []

    def add_signature(path: str, target: Path | None) -> None:
        is_here = target is not None and not is_renewed(path, target)
        files.append(PlannedFile(path, sizes[path], is_here))
        if target is not None and not is_here:
            signatures.append((path, target))

    if MANIFEST_SIGNATURE_FILE in sizes:
        add_signature(MANIFEST_SIGNATURE_FILE, None if existing is None else existing.path / MANIFEST_SIGNATURE_FILE)
    attached = [
        (folder, artifact)
        for folder, artifact in ([] if existing is None else list_attached(existing))
        if isinstance(artifact, Artifact)
    ]
    for folder, text in sorted((summary.descriptions or {}).items()):
        found = _select(bundle, folder, text, summary, machines)
        if isinstance(found, SkippedArtifact):
            skipped.append(found)
            continue
        artifact, purpose = found.artifact, _get_purpose(found.artifact)
        here = next((path for path, other in attached if other == artifact and _is_intact(path, artifact)), None)
        if here is None:
            rivals = [(path, other) for path, other in attached if _get_purpose(other) == purpose]
            if reason := _find_reason_to_skip(found, chosen, rivals, find_reason_to_keep):
                skipped.append(SkippedArtifact(folder, reason))
                continue
            chosen.append(found)
        paths = [f"{found.folder}/{name}" for name in (ARTIFACT_FILE, *artifact.files)]
        files += (PlannedFile(path, sizes[path], here is not None) for path in paths)
        if found.is_signed:
            target = None if here is None else here / ARTIFACT_SIGNATURE_FILE
            add_signature(f"{found.folder}/{ARTIFACT_SIGNATURE_FILE}", target)
    return PullPlan(
        repo_id=summary.repo_id,
        commit=summary.commit,
        name=summary.name,
        digest=bundle.digest,
        reference=None if existing is None else existing.reference,
        files=tuple(files),
        artifacts=tuple(chosen),
        skipped=tuple(skipped),
        signatures=tuple(signatures),
    )


def _find_reason_to_skip(
    found: PlannedArtifact,
    chosen: Sequence[PlannedArtifact],
    rivals: Sequence[tuple[Path, Artifact]],
    find_reason_to_keep: Callable[[Path, Artifact, PlannedArtifact], str | None],
) -> str | None:
    """Return why an artifact is not pulled although it could be used; `rivals` are attached for the same purpose."""
    if any(not os.path.lexists(folder / ORIGIN_FILE) for folder, _ in rivals):
        return "An artifact for the same purpose was compiled here, and is kept."
    purpose = _get_purpose(found.artifact)
    if twin := [other.folder for other in chosen if _get_purpose(other.artifact) == purpose]:
        return f"It has the same purpose as {twin[0]}."
    reasons = (find_reason_to_keep(*rival, found) for rival in rivals if _is_intact(*rival))
    return next(filter(None, reasons), None)


def _check_size(where: str, path: str, expected: int, got: int | None) -> None:
    if got != expected:
        found = "nothing" if got is None else f"{got} bytes"
        raise FileIntegrityError(
            f"{path} of {where}: the manifest says {expected} bytes, got {found}. Push the bundle again",
            path=path,
            expected=f"{expected} bytes",
            got=found,
        )


def _check_names(where: str, paths: Iterable[str]) -> None:
    spellings: dict[str, str] = {}
    for path in paths:
        problem = path_problem(path)
        twin = spellings.setdefault(path.lower(), path)
        if problem is None and twin != path:
            problem = f"differs from {twin!r} only in case"
        if problem is not None:
            expected = "a name that is valid on every platform"
            raise ArtifactError(
                f"{path!r} of {where} {problem}: expected {expected}. Nothing was pulled; `--no-compiled` leaves out "
                "all compiled artifacts",
                path=path,
                expected=expected,
                got=problem,
            )


def _read_descriptions(remote: RemoteCommit, inside: Iterable[str]) -> dict[str, str]:
    parts = {path: path.split("/") for path in inside}
    paths = {folder: path for path, (_, folder, *rest) in parts.items() if rest == [ARTIFACT_FILE]}
    sizes = [remote.files[path].size for path in paths.values()]
    if len(sizes) > MAX_ATTACHED or sum(sizes) > MAX_DESCRIPTIONS or max(sizes, default=0) > MAX_ARTIFACT_SIZE:
        expected = f"at most {MAX_ATTACHED} artifacts, and at most {MAX_DESCRIPTIONS} bytes of {ARTIFACT_FILE}"
        got = f"{len(sizes)} with {sum(sizes)} bytes"
        raise ArtifactError(
            f"{remote.repository.repo_id} at {remote.commit}: expected {expected} ({MAX_ARTIFACT_SIZE} each); got "
            f"{got}. `--no-compiled` leaves out all compiled artifacts",
            path=COMPILED_DIRECTORY,
            expected=expected,
            got=got,
        )
    # Text that decoding changes is no valid description.
    return {folder: remote.read(path).decode("utf-8", "replace") for folder, path in paths.items()}


def _select(
    bundle: Bundle, folder: str, text: str, summary: CommitSummary, machines: Sequence[Machine] | None
) -> PlannedArtifact | SkippedArtifact:
    place = f"{COMPILED_DIRECTORY}/{folder}"
    try:
        artifact = Artifact.from_json(text.encode(), source=f"{summary.repo_id}/{place}/{ARTIFACT_FILE}")
    except ArtifactError as error:
        return SkippedArtifact(folder, str(error))
    if artifact.to_json() != text.encode():
        return SkippedArtifact(folder, f"Its {ARTIFACT_FILE} is not written as this version of npu_persist writes it.")
    if artifact.subject != bundle.digest:
        return SkippedArtifact(
            folder, f"It was compiled from the bundle {artifact.subject}; this one is {bundle.digest}."
        )
    for path, entry in artifact.files.items():
        size = summary.sizes.get(f"{place}/{path}")
        if size != entry.size:
            got = "nothing" if size is None else f"{size} bytes"
            return SkippedArtifact(folder, f"Its {path} should have {entry.size} bytes; the hub has {got}.")
    if machines is not None:
        # Nothing is at this path, so that only the description is judged.
        verdicts = [check_attached(bundle, bundle.path / place, artifact, machine) for machine in machines]
        if all(verdict.status == "unsupported" for verdict in verdicts):
            reasons = dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons)
            return SkippedArtifact(folder, " ".join(reasons) or "This machine has no device for it.")
    return PlannedArtifact(place, artifact, f"{place}/{ARTIFACT_SIGNATURE_FILE}" in summary.sizes)


def _is_intact(folder: Path, artifact: Artifact) -> bool:
    """Return whether an attached artifact's origin is valid and its files have the right sizes."""
    try:
        read_origin(folder)
        check_layout(folder, artifact)
    except (IntegrityError, StoreError, OSError) as error:
        log.warning("%s is damaged and will be pulled again: %s", folder, error)
        return False
    return True


def _get_purpose(artifact: Artifact) -> Any:
    """Return what only one attached artifact of a bundle can be for."""
    shapes = tuple(sorted((artifact.shapes or {}).items()))
    return artifact.target, artifact.graph, shapes, tuple(sorted(artifact.properties.items()))
