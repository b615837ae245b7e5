"""Whether a compiled artifact runs on a machine, and why.

Only `artifact.json` and the ends of the blob are read, and the two have to agree. "unsupported" means that it cannot
work, "supported" that all requirements are known and met. Each reason is a sentence with the values of both sides.

For the NPU, the platform has to be the same and the blob's tiles at most the machine's. Of the ELF format and of the
mapped inference, the major version has to be the driver's and the minor one at most the driver's (otherwise loading
fails as in intel/linux-npu-driver issue 28). Across versions of OpenVINO, Intel guarantees nothing ("Blob compatibility
across different OpenVINO / NPU Driver versions is not guaranteed", OpenVINO's documentation of the NPU): such a blob is
"unknown", and its import tells; only a model that generates, which NPUW packs, is "unsupported" then, since OpenVINO
compares its version. The CPU's blobs need the same OpenVINO and instruction sets, all others the same device
and driver too.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE, Artifact
from npu_persist.artifact.attached import list_attached
from npu_persist.artifact.blob import METADATA_MAJOR, METADATA_MINOR, parse_requirements, read_blob
from npu_persist.bundle.graph_records import axis_bounds
from npu_persist.bundle.manifest import ORIGIN_FILE
from npu_persist.bundle.signature import describe_port
from npu_persist.device.core import get_core
from npu_persist.device.devices import get_kind
from npu_persist.device.machine import check_with_openvino, parse_platform
from npu_persist.errors import ArtifactError, BlobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from npu_persist.artifact.blob import Blob, Requirements
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Port
    from npu_persist.device.machine import Machine

Status = Literal["supported", "unsupported", "unknown"]

Finding = tuple[Status, str]
"""The result of one comparison, and its reason."""

_WORST_FIRST: tuple[Status, ...] = ("unsupported", "unknown", "supported")

_READS_METADATA = (2026, 4)
"""The newest OpenVINO that reads no newer metadata of NPU blobs than METADATA_MAJOR.METADATA_MINOR."""

_UNNUMBERED = (-1,)
"""Stands for the numbers of a version that has none."""

_INSTRUCTIONS = ("INSTRUCTION_SETS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Properties in a CPU's identity that decide which instructions are compiled."""

_COMPARED = ("meta", "openvino", "compiler", "platform", "tiles", "elf", "mi", "isa")
"""Requirements in which `artifact.json` and the blob have to agree."""


class Verdict(msgspec.Struct, frozen=True):
    """Whether an artifact runs on a machine.

    Attributes:
        status: "supported"; "unsupported"; or "unknown": no known incompatibility; some requirements are unknown.
        reasons: The comparisons that gave this status, as sentences.
    """

    status: Status
    reasons: tuple[str, ...]


class Compatibility(msgspec.Struct, frozen=True):
    """One attached artifact, and whether it runs on a machine.

    Attributes:
        folder: Where it is.
        artifact: The content of its `artifact.json`; None if that cannot be read.
        verdict: Whether it runs there, and why.
    """

    folder: Path
    artifact: Artifact | None
    verdict: Verdict

    @property
    def target(self) -> str | None:
        """The target it was compiled for: "NPU:4000"; None if `artifact.json` cannot be read."""
        return None if self.artifact is None else self.artifact.target


def check_all_attached(bundle: Bundle, machine: Machine) -> tuple[Compatibility, ...]:
    """Return each artifact that is attached to a bundle, with the verdict for a machine."""
    return tuple(
        Compatibility(folder, None, Verdict("unsupported", (str(artifact),)))
        if isinstance(artifact, ArtifactError)
        else Compatibility(folder, artifact, check_attached(bundle, folder, artifact, machine))
        for folder, artifact in list_attached(bundle)
    )


def check_attached(bundle: Bundle, folder: Path, artifact: Artifact, machine: Machine) -> Verdict:
    """Return the verdict on an attached artifact for a machine; OpenVINO is only asked about this machine's own."""
    if difference := _differs_from(bundle, artifact):
        return Verdict("unsupported", (difference,))
    try:
        blob = _read_ends(folder, artifact)
        if blob is not None:
            artifact = _combine(artifact, blob)
    except BlobError as error:
        return Verdict("unsupported", (f"{error.path}: expected {error.expected}; got {error.got}.",))
    except OSError as error:
        return Verdict("unsupported", (f"{folder / BLOB_FILE} cannot be read: {error.strerror}.",))
    found = check_compatibility(artifact, machine)
    if found.status == "unknown" and machine.is_here and artifact.requirements and _is_own(folder):
        says = check_with_openvino(get_core(), machine.device, artifact.requirements)
        found = check_compatibility(artifact, machine, openvino_says=says)
    if blob is not None and blob.unknown and found.status != "unsupported":
        more = found.reasons if found.status == "unknown" else ()
        return Verdict("unknown", (*(f"Its blob: {text}." for text in blob.unknown), *more))
    return found


def check_compatibility(artifact: Artifact, machine: Machine, *, openvino_says: bool | None = None) -> Verdict:
    """Compare an artifact's requirements with a machine."""
    findings = list(_compare(artifact, machine))
    status = next(status for status in _WORST_FIRST if any(status == found for found, _ in findings))
    if status == "unknown" and openvino_says is not None:
        how = "accepts" if openvino_says else "rejects"
        reason = f"OpenVINO's own check {how} its requirements: {artifact.requirements}."
        return Verdict("supported" if openvino_says else "unsupported", (reason,))
    return Verdict(status, tuple(reason for found, reason in findings if found == status))


def _compare(artifact: Artifact, machine: Machine) -> Iterator[Finding]:
    kind = get_kind(artifact.device)
    if artifact.kind != "blob":
        yield "unsupported", "It is a folder of OpenVINO's cache, not a blob."
    elif kind != get_kind(machine.device):
        yield "unsupported", f"It is for the {artifact.device}; the machine's device is {machine.device}."
    elif (machine.identity, machine.openvino) == (artifact.identity, artifact.openvino):
        # Also decides for what NPUW compiles for the CPU, whose blobs have no requirements.
        yield "supported", f"OpenVINO {machine.openvino} compiled it on the same device, {_name(artifact.identity)}."
    elif machine.is_here is False:
        yield "unsupported", f"It is for {artifact.target}; OpenVINO finds no {machine.device} on this machine."
    elif kind == "NPU":
        yield from _compare_npu(artifact, machine)
    else:
        yield from _compare_identity(artifact, machine, kind)


def _compare_npu(artifact: Artifact, machine: Machine) -> Iterator[Finding]:
    try:
        needs = parse_requirements(artifact.requirements or "")
    except BlobError as error:
        yield "unsupported", f"Its requirements cannot be read: expected {error.expected}; got {error.got}."
        return
    yield from _compare_platform(artifact, needs, machine)
    yield _compare_tiles(needs.tiles, machine.tiles)
    yield _compare_newest("ELF format", needs.elf, machine.elf)
    yield _compare_newest("mapped inference", needs.mi, machine.mi)
    yield from _compare_openvino(artifact, needs, machine)
    for port in artifact.inputs if artifact.lengths is None else ():
        for axis, size in enumerate(port.shape):
            if not isinstance(size, int):
                most = "any number" if size.max is None else str(size.max)
                status: Status = "unsupported" if size.max is None else "unknown"
                text = f"Its input {port.name} has {size.min} to {most} along axis {axis}"
                yield status, f"{text}; the NPU takes one size, or a largest one if its compiler supports that."


def _compare_platform(artifact: Artifact, needs: Requirements, machine: Machine) -> Iterator[Finding]:
    said = {
        "its requirements": needs.platform,
        "its target": artifact.target.partition(":")[2] or None,
        "its identity": parse_platform(artifact.identity),
    }
    platforms = sorted({platform for platform in said.values() if platform})
    if len(platforms) > 1:
        yield "unsupported", f"It names several platforms: {', '.join(f'{k} {v}' for k, v in said.items() if v)}."
    elif not platforms:
        yield "unknown", f"It does not name its platform; the machine's is {machine.platform or 'unknown'}."
    elif machine.platform is None:
        yield "unknown", f"It is for the NPU's platform {platforms[0]}; the machine's is unknown."
    elif platforms[0] != machine.platform:
        yield "unsupported", f"It is for the NPU's platform {platforms[0]}; the machine's is {machine.platform}."
    else:
        yield "supported", f"It is for the NPU's platform {platforms[0]}, as is the machine's."


def _compare_tiles(needed: int | None, there: int | None) -> Finding:
    if needed is None or there is None:
        return "unknown", f"It needs {_or_unknown(needed)} tiles of the NPU; the machine has {_or_unknown(there)}."
    status: Status = "supported" if needed <= there else "unsupported"
    return status, f"It needs {needed} tiles of the NPU; the machine has {there}."


def _compare_newest(what: str, needed: str | None, newest: str | None) -> Finding:
    text = (
        f"It has version {_or_unknown(needed)} of the {what}; the newest version that the machine's driver accepts is "
    )
    if needed is None or newest is None:
        return "unknown", f"{text}{_or_unknown(newest)}."
    (major, minor), (driver_major, driver_minor) = version_numbers(needed, 2), version_numbers(newest, 2)
    status: Status = "supported" if major == driver_major and minor <= driver_minor else "unsupported"
    return status, f"{text}{newest}."


def _compare_openvino(artifact: Artifact, needs: Requirements, machine: Machine) -> Iterator[Finding]:
    if needs.meta is not None and machine.openvino is not None:
        is_newer = version_numbers(needs.meta, 2) > (METADATA_MAJOR, METADATA_MINOR)
        if is_newer and _UNNUMBERED < version_numbers(machine.openvino, 2) <= _READS_METADATA:
            known = f"OpenVINO {machine.openvino} reads it up to {METADATA_MAJOR}.{METADATA_MINOR}"
            yield "unsupported", f"Its metadata has version {needs.meta}; {known}."
    written_by = needs.openvino or artifact.openvino
    if machine.openvino is None:
        yield "unknown", f"OpenVINO {written_by} compiled it; the machine's OpenVINO version is unknown."
    elif _UNNUMBERED < version_numbers(written_by, 3) == version_numbers(machine.openvino, 3):
        yield "supported", f"OpenVINO {written_by} compiled it, but {machine.openvino} is installed."
    elif artifact.npuw is not None:
        made = f"OpenVINO {written_by} compiled it, but {machine.openvino} is installed"
        yield (
            "unsupported",
            f"{made}: a generative model runs only with the version that compiled it, including the patch release.",
        )
    else:
        made = f"OpenVINO {written_by} compiled it, but {machine.openvino} is installed"
        yield "unknown", f"{made}: Intel does not guarantee that a blob runs across versions."


def _compare_identity(artifact: Artifact, machine: Machine, kind: str) -> Iterator[Finding]:
    yield _compare_value("OpenVINO", artifact.openvino, machine.openvino)
    theirs, here = artifact.identity, machine.identity
    if here is None:
        yield "unknown", f"It is for {_name(theirs)}; nothing is known of the machine's {machine.device}."
        return
    names = sorted({*theirs, *here})
    for name in names:
        if kind != "CPU" or name in _INSTRUCTIONS:
            yield _compare_value(name, theirs.get(name), here.get(name))
    if kind == "CPU" and _name(theirs) != _name(here):
        # Some systems list only a part of the instruction sets; OpenVINO's import compares all of them.
        yield "unknown", f"It was compiled on {_name(theirs)}; this is {_name(here)}."


def _compare_value(what: str, theirs: str | None, here: str | None) -> Finding:
    if theirs == here:
        return "supported", f"{what} is {here} for both."
    return "unsupported", f"{what} is {_or_unknown(theirs)} for it, and {_or_unknown(here)} on the machine."


def version_numbers(version: str, count: int) -> tuple[int, ...]:
    """Return the first numbers of a version; `(-1,)`, less than any other, if it has none (`custom-master`).

    >>> version_numbers("2026.4.1-22982-e213a147257", 3), version_numbers("1.2", 3)
    ((2026, 4, 1), (1, 2, 0))
    """
    parts = version.partition("-")[0].split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        return _UNNUMBERED
    return (*map(int, parts), 0, 0, 0)[:count]


def _name(identity: object) -> str:
    return str(identity.get("FULL_DEVICE_NAME", "an unnamed device")) if isinstance(identity, dict) else "a device"


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)


def _is_own(folder: Path) -> bool:
    """Tell whether an artifact was made here: neither pulled nor still on the hub."""
    return os.path.lexists(folder / ARTIFACT_FILE) and not os.path.lexists(folder / ORIGIN_FILE)


def _differs_from(bundle: Bundle, artifact: Artifact) -> str | None:
    """Return a sentence about how an artifact does not belong to a bundle; None if it does."""
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
    for here, there in zip(map(axis_bounds, promised.shape), map(axis_bounds, found.shape), strict=True):
        if there[0] < here[0] or here[1] < there[1]:
            return False
    return True


def _read_ends(folder: Path, artifact: Artifact) -> Blob | None:
    """Return the blob's description of itself; None if the blob is not there, or of a device whose blobs have none."""
    path, entry = folder / BLOB_FILE, artifact.files.get(BLOB_FILE)
    kind = get_kind(artifact.device)
    if kind not in {"CPU", "NPU"} or artifact.kind != "blob":
        return None
    try:
        status = path.lstat()
    except FileNotFoundError:  # for instance not downloaded yet: `artifact.json` alone gives a verdict
        return None
    expected = f"a regular file of {entry.size} bytes" if entry else "no such file"
    got = f"{status.st_size} bytes" if stat.S_ISREG(status.st_mode) else "something else"
    if entry is None or not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        raise BlobError(f"{path}: expected {expected}; got {got}", path=str(path), expected=expected, got=got)
    if kind == "CPU":
        return read_blob(path, "CPU")
    # What NPUW compiles for the CPU has neither a trailer nor requirements.
    return read_blob(path, "NPU" if artifact.requirements else None)


def _combine(artifact: Artifact, blob: Blob) -> Artifact:
    """Return the artifact, with its blob's requirements if it has none; BlobError if the two contradict each other."""
    if blob.encrypted:
        raise _contradiction("an unencrypted payload", "one that is")
    if blob.weightless not in {None, artifact.weightless}:
        raise _contradiction(f"weightless {artifact.weightless}, as artifact.json says", f"{blob.weightless}")
    if blob.npuw is not None or artifact.npuw is not None:
        artifact = _combine_npuw(artifact, blob)
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


def _combine_npuw(artifact: Artifact, blob: Blob) -> Artifact:
    if artifact.npuw not in {None, blob.npuw}:
        raise _contradiction(f"serialization {artifact.npuw}, as artifact.json says", f"{blob.npuw}")
    if ":" in artifact.target and not blob.parts and not blob.unknown:
        raise _contradiction(f"parts for {artifact.target}", "none for an NPU")
    if blob.openvino is not None and version_numbers(artifact.openvino, 3) != version_numbers(blob.openvino, 3):
        raise _contradiction(f"OpenVINO {artifact.openvino}, as artifact.json says", blob.openvino)
    return replace(artifact, npuw=blob.npuw)


def _contradiction(expected: str, got: str) -> BlobError:
    return BlobError(f"expected {expected}; got {got}", path=BLOB_FILE, expected=expected, got=got)
