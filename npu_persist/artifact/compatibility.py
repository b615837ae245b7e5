"""The artifacts that are attached to a bundle, each judged for a machine: what `compatibility` shows and `load` uses.

The promise: of each artifact no more is read than `artifact.json` and the ends of its blob, and the two have to agree;
what is damaged, of another bundle or of another graph is an entry with that reason, never an error. OpenVINO sees
nothing of what comes from elsewhere.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE
from npu_persist.artifact.attached import list_attached
from npu_persist.artifact.blob import parse_requirements, read_blob
from npu_persist.artifact.rules import Verdict, judge
from npu_persist.bundle.manifest import ORIGIN_FILE
from npu_persist.bundle.signature import describe_port
from npu_persist.device.core import get_core
from npu_persist.device.devices import get_kind
from npu_persist.device.machine import check_with_openvino
from npu_persist.errors import ArtifactError, BlobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from dataclasses import dataclass, replace
    from pathlib import Path

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.artifact.blob import Blob, BlobKind
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.manifest import Dimension, Port
    from npu_persist.device.machine import Machine
else:
    from dataclasses import replace

    from npu_persist.files.frozen import dataclass

_WITH_ENDS: dict[str, BlobKind] = {"NPU": "NPU", "CPU": "CPU"}
"""Devices whose blobs describe themselves."""

_COMPARED = ("meta", "openvino", "compiler", "platform", "tiles", "elf", "mi", "isa")
"""Fields of what a blob requires that `artifact.json` has to have right."""


@dataclass(frozen=True, slots=True)
class Compatibility:
    """One attached artifact, and whether it runs on a machine.

    Attributes:
        folder: Where it is.
        artifact: What `artifact.json` says; None where that cannot be read.
        verdict: Whether it runs there, and why.
    """

    folder: Path
    artifact: Artifact | None
    verdict: Verdict

    @property
    def target(self) -> str | None:
        """What it is for: "NPU:4000"; None where that cannot be read."""
        return None if self.artifact is None else self.artifact.target


def judge_attached(bundle: Bundle, machine: Machine) -> Iterator[Compatibility]:
    """Yield each artifact that is attached to a bundle, with the verdict for a machine."""
    for folder, artifact in list_attached(bundle):
        if isinstance(artifact, ArtifactError):
            yield Compatibility(folder, None, Verdict("unsupported", (str(artifact),)))
        else:
            yield Compatibility(folder, artifact, judge_one(bundle, folder, artifact, machine))


def judge_one(bundle: Bundle, folder: Path, artifact: Artifact, machine: Machine) -> Verdict:
    """Return the verdict on an attached artifact for a machine."""
    if misfit := _differs_from(bundle, artifact):
        return Verdict("unsupported", (misfit,))
    try:
        blob = _read_ends(folder, artifact)
        if blob is not None:
            artifact = _agree(artifact, blob)
    except BlobError as error:
        return Verdict("unsupported", (f"{error.path}: expected {error.expected}; got {error.got}.",))
    except OSError as error:
        return Verdict("unsupported", (f"{folder / BLOB_FILE} cannot be read: {error.strerror}.",))
    found = judge(artifact, machine)
    if found.status == "unknown" and machine.is_here and artifact.requirements and _is_own(folder):
        found = judge(
            artifact, machine, openvino_says=check_with_openvino(get_core(), machine.device, artifact.requirements)
        )
    if blob is not None and blob.unknown and found.status != "unsupported":
        more = found.reasons if found.status == "unknown" else ()
        return Verdict("unknown", (*(f"Of its blob, {text}." for text in blob.unknown), *more))
    return found


def _is_own(folder: Path) -> bool:
    """Tell whether an artifact is this machine's own: neither pulled nor still on the hub."""
    return os.path.lexists(folder / ARTIFACT_FILE) and not os.path.lexists(folder / ORIGIN_FILE)


def _differs_from(bundle: Bundle, artifact: Artifact) -> str | None:
    """Return in what an artifact is none of this bundle's, as a sentence."""
    if artifact.subject != bundle.digest:
        return f"It was compiled from the bundle {artifact.subject}; this one is {bundle.digest}."
    graph = {graph.name: graph for graph in bundle.manifest.graphs}.get(artifact.graph)
    if graph is None:
        names = ", ".join(graph.name for graph in bundle.manifest.graphs)
        return f"It was compiled from a graph {artifact.graph!r}; the bundle has {names}."
    if len(graph.inputs) != len(artifact.inputs):
        return f"It has {len(artifact.inputs)} inputs; the graph {graph.name} has {len(graph.inputs)}."
    for promised, found in zip(graph.inputs, artifact.inputs, strict=True):
        if not _fits(promised, found):
            ours = f"the graph's {promised.name} is {describe_port(promised)}"
            return f"Its input {found.name} is {describe_port(found)}; {ours}."
    return None


def _fits(promised: Port, found: Port) -> bool:
    if (promised.name, promised.dtype, len(promised.shape)) != (found.name, found.dtype, len(found.shape)):
        return False
    for here, there in zip(map(_bounds, promised.shape), map(_bounds, found.shape), strict=True):
        if there[0] < here[0] or here[1] < there[1]:
            return False
    return True


def _bounds(axis: int | Dimension) -> tuple[int, float]:
    if isinstance(axis, int):
        return axis, axis
    return axis.min, float("inf") if axis.max is None else axis.max


def _read_ends(folder: Path, artifact: Artifact) -> Blob | None:
    """Return what the blob says of itself; None if it is not there, or of a device whose blobs say nothing.

    Raises:
        BlobError: It is not the file that `artifact.json` describes, or damaged.
        OSError: It cannot be read.
    """
    path, entry = folder / BLOB_FILE, artifact.files.get(BLOB_FILE)
    kind = _WITH_ENDS.get(get_kind(artifact.device))
    if kind is None or artifact.kind != "blob":
        return None
    try:
        status = path.lstat()
    except FileNotFoundError:  # not downloaded, for instance: its description is enough for a verdict
        return None
    expected = f"a regular file of {entry.size} bytes" if entry else "no such file"
    got = f"{status.st_size} bytes" if stat.S_ISREG(status.st_mode) else "something else"
    if entry is None or not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        raise BlobError(f"{path}: expected {expected}; got {got}", path=str(path), expected=expected, got=got)
    # What NPUW compiles for the CPU has no trailer; and no requirements, as the compiler's own always have.
    return read_blob(path, kind if kind == "CPU" or artifact.requirements else None)


def _agree(artifact: Artifact, blob: Blob) -> Artifact:
    """Return the artifact, with what its blob requires if it says nothing itself.

    Raises:
        BlobError: The blob says something else than `artifact.json`.
    """
    if blob.encrypted:
        raise _contradiction("a payload that is not encrypted", "one that is")
    if blob.weightless not in {None, artifact.weightless}:
        raise _contradiction(f"weightless {artifact.weightless}, as artifact.json says", f"{blob.weightless}")
    if blob.requirements is None:
        return artifact
    if artifact.requirements is None:
        return replace(artifact, requirements=blob.requirements.text)
    said = parse_requirements(artifact.requirements, "artifact.json")
    for name in _COMPARED:
        ours, theirs = getattr(said, name), getattr(blob.requirements, name)
        if ours is not None and ours != theirs:
            raise _contradiction(f"{name} {ours}, as artifact.json says", f"{theirs}")
    return artifact


def _contradiction(expected: str, got: str) -> BlobError:
    return BlobError(f"expected {expected}; got {got}", path=BLOB_FILE, expected=expected, got=got)
