"""Plan a pull: which files and compiled artifacts of a commit to download."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, Artifact, check_layout
from npu_persist.artifact.attached import list_attached
from npu_persist.artifact.compatibility import check_attached
from npu_persist.artifact.target import find_machine
from npu_persist.bundle.bundle import Bundle
from npu_persist.bundle.manifest import COMPILED_DIRECTORY, MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, ORIGIN_FILE
from npu_persist.bundle.origin import read_origin
from npu_persist.errors import ArtifactError, IntegrityError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from npu_persist.device.machine import Machine
    from npu_persist.hub.pulled import CommitSummary
    from npu_persist.hub.signatures import HubSignatures
    from npu_persist.hub.snapshot import Snapshot

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


def make_plan(
    home: Path,
    snapshot: Snapshot,
    signatures: HubSignatures,
    devices: Sequence[str | Machine] | None,
    *,
    asks_again: bool,
) -> PullPlan:
    """Decide what to download, and which artifacts these devices can use; None: all of them.

    With `asks_again` signatures that are not here are asked for, also if they were of no use before.
    """
    summary, existing = snapshot.summary, snapshot.existing
    machines = None
    if devices is not None:  # without artifacts OpenVINO is not imported
        machines = _find_machines(devices) if summary.descriptions else []
    # Nothing is at this path: only what the manifest says is used.
    bundle = Bundle(home / "hub" / "nowhere", snapshot.manifest, 0.0)
    sizes = summary.sizes
    files = [PlannedFile(MANIFEST_FILE, sizes[MANIFEST_FILE], existing is not None)]
    files += (
        PlannedFile(path, entry.size, existing is not None or entry.digest in snapshot.held)
        for path, entry in bundle.manifest.files.items()
    )
    chosen: list[PlannedArtifact] = []
    skipped: list[SkippedArtifact] = []
    renewed: list[tuple[str, Path]] = []

    def add_signature(path: str, target: Path | None) -> None:
        is_read = snapshot.is_new or path in signatures.read_files
        is_here = target is not None and not is_read and (target.exists() or not asks_again)
        files.append(PlannedFile(path, sizes[path], is_here))
        if target is not None and not is_here:
            renewed.append((path, target))

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
            if reason := _find_reason_to_skip(found, chosen, rivals, signatures):
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
        signatures=tuple(renewed),
    )


def _find_reason_to_skip(
    found: PlannedArtifact,
    chosen: Sequence[PlannedArtifact],
    rivals: Sequence[tuple[Path, Artifact]],
    signatures: HubSignatures,
) -> str | None:
    """Return why an artifact is not pulled although it could be used; `rivals` are attached for the same purpose."""
    if any(not os.path.lexists(folder / ORIGIN_FILE) for folder, _ in rivals):
        return "An artifact for the same purpose was compiled here, and is kept."
    purpose = _get_purpose(found.artifact)
    if twin := [other.folder for other in chosen if _get_purpose(other.artifact) == purpose]:
        return f"It has the same purpose as {twin[0]}."
    reasons = (
        signatures.find_reason_to_keep(*rival, found.folder, found.artifact) for rival in rivals if _is_intact(*rival)
    )
    return next(filter(None, reasons), None)


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


def _find_machines(devices: Sequence[str | Machine]) -> list[Machine]:
    from npu_persist.device.core import get_core
    from npu_persist.device.devices import is_virtual, list_candidates

    found: list[Machine] = []
    for device in devices:
        if isinstance(device, str) and is_virtual(device):  # artifacts are for the devices that it chooses from
            found += map(find_machine, list_candidates(get_core(), device))
        else:
            found.append(find_machine(device))
    return found
