"""What a pull takes from a commit: the bundle's files, the artifacts that fit, their signatures, and nothing else.

The promise: this decides from what was read already (the manifest, the hub's list of files, each `artifact.json`), and
touches no network. What is not taken has a reason.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Literal

from npu_persist.artifact.artifact import ARTIFACT_FILE, ARTIFACT_SIGNATURE_FILE, Artifact, check_layout
from npu_persist.artifact.attached import list_attached
from npu_persist.artifact.compatibility import check_attached
from npu_persist.bundle.manifest import COMPILED_DIRECTORY, MANIFEST_FILE, MANIFEST_SIGNATURE_FILE, ORIGIN_FILE
from npu_persist.bundle.origin import read_origin
from npu_persist.errors import ArtifactError, IntegrityError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from dataclasses import dataclass
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.device.machine import Machine
    from npu_persist.hub.pulled import Seen
else:
    from npu_persist.files.frozen import dataclass

log = logging.getLogger(__name__)

Choice = Literal["fitting", "none", "all"]
"""Which artifacts a pull takes."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that a pull takes.

    Attributes:
        path: Where it is in the repository.
        size: Its bytes.
        is_here: Whether the store has it already, so that nothing is downloaded.
    """

    path: str
    size: int
    is_here: bool


@dataclass(frozen=True, slots=True)
class PassedOver:
    """An artifact that a pull does not take.

    Attributes:
        folder: Its folder below `compiled/`.
        reason: Why.
    """

    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChosenArtifact:
    """An artifact that a pull takes.

    Attributes:
        folder: Its folder in the repository, `compiled/npu-4000`.
        artifact: What its `artifact.json` says.
        is_signed: Whether signatures stand beside that.
    """

    folder: str
    artifact: Artifact
    is_signed: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull does, or did.

    Attributes:
        repo: `org/unet`.
        commit: The commit, 40 hex digits.
        name: The bundle's name.
        digest: The bundle's digest.
        reference: The version that the store has of it: `unet:3`; None if it has none.
        files: What it takes.
        artifacts: The artifacts among that.
        passed_over: The artifacts that it does not take.
        signatures: What it renews of what the store has: signatures by their path in the repository, and where they go.
    """

    repo: str
    commit: str
    name: str
    digest: str
    reference: str | None
    files: tuple[PlannedFile, ...]
    artifacts: tuple[ChosenArtifact, ...]
    passed_over: tuple[PassedOver, ...]
    signatures: tuple[tuple[str, Path], ...]

    @property
    def download_size(self) -> int:
        """Bytes that come over the network."""
        return sum(file.size for file in self.files if not file.is_here)


def make_plan(  # noqa: PLR0913 (what is wanted, what is there and what is here)
    bundle: Bundle,
    existing: Bundle | None,
    held: Iterable[str],
    seen: Seen,
    machines: Sequence[Machine] | None,
    *,
    is_new: bool,
) -> Plan:
    """Decide what to take.

    Args:
        bundle: The bundle as its manifest describes it; its files need not be there.
        existing: The version that the store has of it, if it has one.
        held: Digests of files that the store has.
        seen: What the commit holds.
        machines: The machines, one of which an artifact has to run on; None takes all artifacts.
        is_new: Whether the store had not seen the commit: somebody may have signed since what it has.
    """
    there = frozenset(held)
    files = [PlannedFile(MANIFEST_FILE, seen.sizes[MANIFEST_FILE], existing is not None)]
    files += (
        PlannedFile(path, entry.size, existing is not None or entry.digest in there)
        for path, entry in bundle.manifest.files.items()
    )
    signatures: list[tuple[str, Path]] = []
    if MANIFEST_SIGNATURE_FILE in seen.sizes:
        signature = None if existing is None else existing.path / MANIFEST_SIGNATURE_FILE
        is_here = signature is not None and not is_new and signature.exists()
        files.append(PlannedFile(MANIFEST_SIGNATURE_FILE, seen.sizes[MANIFEST_SIGNATURE_FILE], is_here))
        if signature is not None and not is_here:
            signatures.append((MANIFEST_SIGNATURE_FILE, signature))
    chosen: list[ChosenArtifact] = []
    passed_over: list[PassedOver] = []
    own = {_purpose(artifact): artifact for artifact in _own_artifacts(existing)}
    attached = [] if existing is None else list(list_attached(existing))
    for folder, text in sorted((seen.descriptions or {}).items()):
        found = _choose(bundle, folder, text, seen, machines)
        if isinstance(found, PassedOver):
            passed_over.append(found)
            continue
        artifact = found.artifact
        here = next((path for path, other in attached if other == artifact and _is_sound(path, artifact)), None)
        if here is None:
            if _purpose(artifact) in own:
                passed_over.append(PassedOver(folder, "One for the same was compiled here, and stays."))
                continue
            if twin := [other.folder for other in chosen if _purpose(other.artifact) == _purpose(artifact)]:
                passed_over.append(PassedOver(folder, f"It is for the same as {twin[0]}."))
                continue
            chosen.append(found)
        files += (
            PlannedFile(path, seen.sizes[path], here is not None)
            for path in (f"{found.folder}/{name}" for name in (ARTIFACT_FILE, *artifact.files))
        )
        if found.is_signed:
            path = f"{found.folder}/{ARTIFACT_SIGNATURE_FILE}"
            is_here = here is not None and not is_new and (here / ARTIFACT_SIGNATURE_FILE).exists()
            files.append(PlannedFile(path, seen.sizes[path], is_here))
            if here is not None and not is_here:
                signatures.append((path, here / ARTIFACT_SIGNATURE_FILE))
    return Plan(
        repo=seen.repo,
        commit=seen.commit,
        name=bundle.name,
        digest=bundle.digest,
        reference=None if existing is None else existing.reference,
        files=tuple(files),
        artifacts=tuple(chosen),
        passed_over=tuple(passed_over),
        signatures=tuple(signatures),
    )


def _choose(
    bundle: Bundle, folder: str, text: str, seen: Seen, machines: Sequence[Machine] | None
) -> ChosenArtifact | PassedOver:
    place = f"{COMPILED_DIRECTORY}/{folder}"
    try:
        artifact = Artifact.from_json(text.encode(), source=f"{seen.repo}/{place}/{ARTIFACT_FILE}")
    except ArtifactError as error:
        return PassedOver(folder, str(error))
    if artifact.to_json() != text.encode():
        return PassedOver(folder, f"Its {ARTIFACT_FILE} is not as this version of npu_persist writes it.")
    if artifact.subject != bundle.digest:
        return PassedOver(folder, f"It was compiled from the bundle {artifact.subject}; this one is {bundle.digest}.")
    for path, entry in artifact.files.items():
        size = seen.sizes.get(f"{place}/{path}")
        if size != entry.size:
            got = "nothing" if size is None else f"{size} bytes"
            return PassedOver(folder, f"Its {path} has {entry.size} bytes; the hub has {got}.")
    if machines is not None:
        # Nothing is at this path, so that the description alone is judged.
        verdicts = [check_attached(bundle, bundle.path / place, artifact, machine) for machine in machines]
        if all(verdict.status == "unsupported" for verdict in verdicts):
            reasons = dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons)
            return PassedOver(folder, " ".join(reasons) or "There is no device to judge it for.")
    return ChosenArtifact(place, artifact, f"{place}/{ARTIFACT_SIGNATURE_FILE}" in seen.sizes)


def _own_artifacts(existing: Bundle | None) -> Iterator[Artifact]:
    if existing is not None:
        for folder, artifact in list_attached(existing):
            if isinstance(artifact, Artifact) and not os.path.lexists(folder / ORIGIN_FILE):
                yield artifact


def _is_sound(folder: Path, artifact: Artifact) -> bool:
    """Tell whether what is attached is there with its origin, as far as sizes tell; if not, it is pulled anew."""
    try:
        read_origin(folder)
        check_layout(folder, artifact)
    except (IntegrityError, StoreError, OSError) as error:
        log.warning("%s is damaged: %s", folder, error)
        return False
    return True


def _purpose(artifact: Artifact) -> Any:
    """Return what only one attached artifact can be for."""
    shapes = tuple(sorted((artifact.shapes or {}).items()))
    return artifact.target, artifact.graph, shapes, tuple(sorted(artifact.properties.items()))
