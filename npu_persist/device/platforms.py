"""The generations of Intel's NPU.

Their numbers are the values of NPU_PLATFORM that OpenVINO's NPU compiler takes. Names and tiles are from public
sources: OpenVINO's NPU plugin (Meteor Lake and Arrow Lake 3720, Lunar Lake 4000, Panther Lake 5010: openvino pull
request 33595) and the compiler's table of DPU groups (openvinotoolkit/npu_compiler). 5020 compiles, but no source names
a processor that has it.
"""

from __future__ import annotations

from typing import NamedTuple


class Platform(NamedTuple):
    """One generation of Intel's NPU."""

    number: str
    """OpenVINO's NPU_PLATFORM, and the device's DEVICE_ARCHITECTURE."""
    names: tuple[str, ...]
    """Processors that have it, as they are written in targets."""
    tiles: int
    """Most tiles that a blob for it can use."""


PLATFORMS = {
    "3720": Platform("3720", ("meteor-lake", "arrow-lake"), 2),
    "4000": Platform("4000", ("lunar-lake",), 6),
    "5010": Platform("5010", ("panther-lake",), 3),
    "5020": Platform("5020", (), 1),
}
"""The NPU's platforms by number."""
