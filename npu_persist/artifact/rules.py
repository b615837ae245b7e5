"""Whether a compiled artifact runs on a machine: the pure verdict, from what both say of themselves.

The promise: no file, no device and no OpenVINO is touched. "unsupported" is said only of what cannot work, "supported"
only where everything that decides is known; each reason is a sentence with both sides' values.

For the NPU: the platform has to be the same, and the blob's tiles at most the machine's; of the ELF format and of the
mapped inference the major version has to be the driver's and the minor one at most (intel/linux-npu-driver issue 28 is
the error that comes otherwise). Intel does not vouch for blobs across versions of OpenVINO ("Blob compatibility across
different OpenVINO / NPU Driver versions is not guaranteed", in OpenVINO's documentation of the NPU): such a one is
"unknown", and its import tells. The CPU's blobs want the same OpenVINO and instructions, and all others the same device
and driver too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from npu_persist.artifact.blob import METADATA_MAJOR, METADATA_MINOR, parse_requirements
from npu_persist.device.devices import get_kind
from npu_persist.device.machine import parse_platform
from npu_persist.errors import BlobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from dataclasses import dataclass

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.artifact.blob import Requirements
    from npu_persist.device.machine import Machine
else:
    from npu_persist.files.frozen import dataclass

Status = Literal["supported", "unsupported", "unknown"]

Finding = tuple[Status, str]
"""What one comparison says, and why."""

_WORST: tuple[Status, ...] = ("unsupported", "unknown", "supported")

_READS_METADATA = (2026, 4)
"""The release of OpenVINO that reads an NPU blob's metadata up to the newest version known here, and none newer."""

_UNNUMBERED = (-1,)
"""What a version without numbers has in their place."""

_INSTRUCTIONS = ("INSTRUCTION_SETS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""What of a CPU's identity decides for which instructions is compiled."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an artifact runs on a machine.

    Attributes:
        status: "supported"; "unsupported"; or "unknown": nothing speaks against it, but not all that decides is known.
        reasons: Why: what speaks against it, what is not known, or what agrees.
    """

    status: Status
    reasons: tuple[str, ...]


def judge(artifact: Artifact, machine: Machine, *, openvino_says: bool | None = None) -> Verdict:
    """Tell whether an artifact runs on a machine.

    Args:
        artifact: What it says of itself.
        machine: The machine.
        openvino_says: What `check_with_openvino` answered; it counts where this cannot tell.
    """
    found = _conclude(list(_find(artifact, machine)))
    if found.status != "unknown" or openvino_says is None:
        return found
    how = "takes" if openvino_says else "refuses"
    return Verdict(
        "supported" if openvino_says else "unsupported",
        (f"OpenVINO's own check {how} what it requires: {artifact.requirements}.",),
    )


def _conclude(findings: list[Finding]) -> Verdict:
    status = next(status for status in _WORST if any(status == found for found, _ in findings))
    return Verdict(status, tuple(reason for found, reason in findings if found == status))


def _find(artifact: Artifact, machine: Machine) -> Iterator[Finding]:
    kind = get_kind(artifact.device)
    if artifact.kind != "blob":
        yield "unsupported", "It is a folder of OpenVINO's cache; a blob is expected."
    elif kind != get_kind(machine.device):
        yield "unsupported", f"It is for the {artifact.device}; the machine's device is {machine.device}."
    elif (machine.identity, machine.openvino) == (artifact.identity, artifact.openvino):
        # Whatever else is known of it: what NPUW compiles for the CPU says nothing.
        yield "supported", f"OpenVINO {machine.openvino} made it on a device like this {_name(artifact.identity)}."
    elif machine.is_here is False:
        yield "unsupported", f"It is for {artifact.target}; OpenVINO finds no {machine.device} on this machine."
    elif kind == "NPU":
        yield from _find_npu(artifact, machine)
    else:
        yield from _find_other(artifact, machine, kind)


def _find_npu(artifact: Artifact, machine: Machine) -> Iterator[Finding]:
    try:
        needs = parse_requirements(artifact.requirements or "")
    except BlobError as error:
        yield "unsupported", f"What it requires cannot be read: expected {error.expected}; got {error.got}."
        return
    yield from _find_platform(artifact, needs, machine)
    yield _compare_tiles(needs.tiles, machine.tiles)
    yield _compare_newest("ELF format", needs.elf, machine.elf)
    yield _compare_newest("mapped inference", needs.mi, machine.mi)
    yield from _find_openvino(artifact, needs, machine)
    for port in artifact.inputs:
        for axis, size in enumerate(port.shape):
            if not isinstance(size, int):
                most = "any number" if size.max is None else str(size.max)
                status: Status = "unsupported" if size.max is None else "unknown"
                yield (
                    status,
                    (
                        f"Its input {port.name} has {size.min} to {most} along axis {axis}; the NPU takes one size, or "
                        "a largest one where its compiler can."
                    ),
                )


def _find_platform(artifact: Artifact, needs: Requirements, machine: Machine) -> Iterator[Finding]:
    said = {
        "what it requires": needs.platform,
        "its target": artifact.target.partition(":")[2] or None,
        "its identity": parse_platform(artifact.identity),
    }
    platforms = sorted({platform for platform in said.values() if platform})
    if len(platforms) > 1:
        yield "unsupported", f"It names several platforms: {', '.join(f'{k} {v}' for k, v in said.items() if v)}."
    elif not platforms:
        yield "unknown", f"It does not say for which platform it is; the machine's is {machine.platform or 'unknown'}."
    elif machine.platform is None:
        yield "unknown", f"It is for the NPU's platform {platforms[0]}; the machine's is unknown."
    elif platforms[0] != machine.platform:
        yield "unsupported", f"It is for the NPU's platform {platforms[0]}; the machine's is {machine.platform}."
    else:
        yield "supported", f"It is for the NPU's platform {platforms[0]}, which is the machine's."


def _compare_tiles(needed: int | None, there: int | None) -> Finding:
    if needed is None or there is None:
        return "unknown", f"It needs {_or_unknown(needed)} tiles of the NPU; the machine has {_or_unknown(there)}."
    status: Status = "supported" if needed <= there else "unsupported"
    return status, f"It needs {needed} tiles of the NPU; the machine has {there}."


def _compare_newest(what: str, needed: str | None, newest: str | None) -> Finding:
    text = f"It has version {_or_unknown(needed)} of the {what}; the newest that the machine's driver takes is "
    if needed is None or newest is None:
        return "unknown", f"{text}{_or_unknown(newest)}."
    (major, minor), (driver_major, driver_minor) = version_numbers(needed, 2), version_numbers(newest, 2)
    status: Status = "supported" if major == driver_major and minor <= driver_minor else "unsupported"
    return status, f"{text}{newest}."


def _find_openvino(artifact: Artifact, needs: Requirements, machine: Machine) -> Iterator[Finding]:
    if needs.meta is not None and machine.openvino is not None:
        known = (METADATA_MAJOR, METADATA_MINOR)
        if (
            version_numbers(needs.meta, 2) > known
            and _UNNUMBERED < version_numbers(machine.openvino, 2) <= _READS_METADATA
        ):
            yield (
                "unsupported",
                (
                    f"Its metadata is of version {needs.meta}; OpenVINO {machine.openvino} reads it up to "
                    f"{METADATA_MAJOR}.{METADATA_MINOR}."
                ),
            )
    written_by = needs.openvino or artifact.openvino
    if machine.openvino is None:
        yield "unknown", f"OpenVINO {written_by} made it; the machine's OpenVINO is unknown."
    elif _UNNUMBERED < version_numbers(written_by, 3) == version_numbers(machine.openvino, 3):
        yield "supported", f"OpenVINO {written_by} made it, and {machine.openvino} is installed."
    else:
        made = f"OpenVINO {written_by} made it, and {machine.openvino} is installed"
        yield "unknown", f"{made}: Intel does not guarantee that a blob runs across versions."


def _find_other(artifact: Artifact, machine: Machine, kind: str) -> Iterator[Finding]:
    yield _compare("OpenVINO", artifact.openvino, machine.openvino)
    theirs, here = artifact.identity, machine.identity
    if here is None:
        yield "unknown", f"It is for {_name(theirs)}; of the machine's {machine.device} nothing is known."
        return
    names = sorted({*theirs, *here})
    for name in names:
        if kind != "CPU" or name in _INSTRUCTIONS:
            yield _compare(name, theirs.get(name), here.get(name))
    if kind == "CPU" and _name(theirs) != _name(here):
        # The instruction sets are not known in full everywhere; OpenVINO's import compares them itself.
        yield "unknown", f"It was compiled on {_name(theirs)}; this is {_name(here)}."


def _compare(what: str, theirs: str | None, here: str | None) -> Finding:
    if theirs == here:
        return "supported", f"{what} is {here} for both."
    return "unsupported", f"{what} is {_or_unknown(theirs)} for it, and {_or_unknown(here)} on the machine."


def version_numbers(version: str, count: int) -> tuple[int, ...]:
    """Return the first numbers of a version; `(-1,)` where it has none (`custom-master`), which is less than any.

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
