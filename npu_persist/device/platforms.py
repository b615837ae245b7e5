"""The generations of Intel's NPU.

The numbers are those that OpenVINO's NPU compiler takes as NPU_PLATFORM. Names and tiles are from public sources:
OpenVINO's NPU plugin (Meteor Lake and Arrow Lake 3720, Lunar Lake 4000, Panther Lake 5010: openvino pull request 33595)
and the compiler's own table of DPU groups (openvinotoolkit/npu_compiler). 5020 compiles, but no source names the
processor that has it.
"""

from __future__ import annotations

from typing import NamedTuple


class Platform(NamedTuple):
    """One generation of Intel's NPU."""

    number: str
    """OpenVINO's NPU_PLATFORM, and the device's DEVICE_ARCHITECTURE."""
    names: tuple[str, ...]
    """Processors that have it, as targets are written."""
    tiles: int
    """Most tiles that a blob for it can use."""


PLATFORMS = {
    platform.number: platform
    for platform in (
        Platform("3720", ("meteor-lake", "arrow-lake"), 2),
        Platform("4000", ("lunar-lake",), 6),
        Platform("5010", ("panther-lake",), 3),
        Platform("5020", (), 1),
    )
}
"""The NPU's platforms by number."""
