"""A machine, as far as it decides whether a compiled artifact runs there: this one, or one that somebody describes.

The promise: describing never fails and never guesses: what a device does not say is None. OpenVINO's own check is asked
where it answers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from npu_persist.device.core import get_version
from npu_persist.device.identity import identify
from npu_persist.device.names import ask, candidates, head, is_virtual
from npu_persist.device.platforms import PLATFORMS
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import dataclass

    import openvino as ov

else:
    from npu_persist.files.frozen import dataclass

_PLATFORM = re.compile(r"[0-9]{4}")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine's device; None: that is not known.

    Attributes:
        device: OpenVINO's device string: "NPU".
        openvino: Version of OpenVINO that is installed: "2026.4.1".
        platform: The NPU's platform: "4000".
        tiles: Tiles that the NPU has.
        driver: Version of the device's driver.
        compiler: Version of the NPU's compiler that is installed: "8.4".
        elf: Newest version of the ELF format that the NPU's driver takes: "1.2". OpenVINO does not tell.
        mi: Newest version of the mapped inference that it takes: "11.4". OpenVINO does not tell.
        is_here: Whether OpenVINO finds the device; None for another machine.
        identity: What tells the device from others, as `identify` gives it; None for another machine.
    """

    device: str
    openvino: str | None = None
    platform: str | None = None
    tiles: int | None = None
    driver: str | None = None
    compiler: str | None = None
    elf: str | None = None
    mi: str | None = None
    is_here: bool | None = None
    identity: Mapping[str, str] | None = None


def describe_machine(core: ov.Core, device: str) -> Machine:
    """Describe this machine, as far as one of its devices tells."""
    identity = identify(core, device)
    kind = head(device)
    # Unlike the core's list of devices, the property loads one plugin and not all.
    found = candidates(core, device) if is_virtual(device) else ask(core, device, "AVAILABLE_DEVICES")
    tiles = identity.get("NPU_MAX_TILES", "")
    return Machine(
        device=device,
        openvino=get_version(),
        platform=read_platform(identity) if kind == "NPU" else None,
        tiles=int(tiles) if tiles.isascii() and tiles.isdigit() else None,
        driver=identity.get(f"{kind}_DRIVER_VERSION"),
        compiler=read_compiler_version(ask(core, device, "NPU_COMPILER_VERSION")) if kind == "NPU" else None,
        is_here=bool(found),
        identity=identity,
    )


def describe_other(
    device: str, platform: str | None, *, elf: str | None = None, mi: str | None = None, openvino: str | None = None
) -> Machine:
    """Describe another machine by its NPU's platform and what else is known of it.

    Args:
        device: OpenVINO's string for its device: "NPU".
        platform: Number of its NPU's platform: "4000"; None where that is not known.
        elf: Newest version of the ELF format that its driver takes: "1.2".
        mi: Newest version of the mapped inference that its driver takes: "11.4".
        openvino: Version of its OpenVINO: "2026.4.1".

    Raises:
        UsageError: One of them is no version.

    >>> describe_other("NPU", "4000", elf="1.2").tiles
    6
    """
    for name, version in (("elf", elf), ("mi", mi), ("openvino", openvino)):
        if version is not None and not _VERSION.fullmatch(version.partition("-")[0]):
            raise UsageError(f"{name}: expected a version, for instance 1.2; got {version!r}")
    tiles = PLATFORMS[platform].tiles if platform else None
    return Machine(device, openvino, platform, tiles, elf=elf, mi=mi)


def check_with_openvino(core: ov.Core, device: str, requirements: str) -> bool | None:
    """Ask OpenVINO whether a blob with these requirements runs on a device here; None: it does not answer.

    OpenVINO 2026.4 does not, in Python: COMPATIBILITY_CHECK has a type that its bindings lack.
    """
    try:
        answer = core.get_property(device, "COMPATIBILITY_CHECK", {"RUNTIME_REQUIREMENTS": requirements})
    except (RuntimeError, TypeError):  # also where there is no such device, or the property is none of its
        return None
    if isinstance(answer, bool):
        return answer
    return {"SUPPORTED": True, "UNSUPPORTED": False}.get(str(answer).upper().rpartition(".")[2])


def read_platform(identity: Mapping[str, str]) -> str | None:
    """Return the NPU's platform that an identity names: "4000", with or without letters before it."""
    found = _PLATFORM.search(identity.get("DEVICE_ARCHITECTURE", ""))
    return found[0] if found else None


def read_compiler_version(value: Any) -> str | None:
    """Return a compiler's version for people: OpenVINO has the NPU's as one number, the major one in the upper half.

    >>> read_compiler_version(8 << 16 | 4)
    '8.4'
    """
    return f"{value >> 16}.{value & 0xFFFF}" if isinstance(value, int) else None if value is None else str(value)
