"""What this machine has and lacks for each kind of device.

The promise: it looks at everything, and a device that works is not talked down for a part that it does without.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from npu_persist.device.advice import Missing, find_missing
from npu_persist.device.host import look_for
from npu_persist.device.listing import Device, list_devices
from npu_persist.device.missing import KINDS, find_libraries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Diagnosis:
    """One kind of device on this machine.

    Attributes:
        kind: `CPU`, `GPU` or `NPU`.
        devices: Those that OpenVINO can use.
        parts: What such a device needs → where it was found, or None.
        missing: What to see to: what is missing, if no device works; else only a compiler, for it is needed later.
    """

    kind: str
    devices: tuple[Device, ...]
    parts: Mapping[str, str | None]
    missing: tuple[Missing, ...]


def diagnose() -> tuple[Diagnosis, ...]:
    """Look at each kind of device, and at those of other plugins that OpenVINO lists."""
    found, libraries = list_devices(), find_libraries()
    kinds = dict.fromkeys([*KINDS, *(device.kind for device in found)])
    return tuple(_diagnose(kind, tuple(each for each in found if each.kind == kind), libraries) for kind in kinds)


def _diagnose(kind: str, devices: tuple[Device, ...], libraries: Path) -> Diagnosis:
    parts = look_for(kind, libraries) if kind in KINDS else {}
    missing = find_missing(sys.platform, kind, parts)
    if devices:
        # A compiler in a place that is not known here has a version all the same.
        has_compiler = any(device.compiler for device in devices)
        missing = tuple(each for each in missing if each.part == "compiler" and not has_compiler)
    return Diagnosis(kind, devices, parts, missing)
