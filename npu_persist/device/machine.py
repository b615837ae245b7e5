"""The properties of a machine, this one or another, that decide whether a compiled artifact runs on it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from npu_persist.device.core import get_version
from npu_persist.device.devices import (
    format_compiler_version,
    get_kind,
    identify,
    is_virtual,
    list_candidates,
    read_property,
)
from npu_persist.device.platforms import PLATFORMS
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import openvino as ov

_PLATFORM = re.compile(r"[0-9]{4}")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")


class Machine(msgspec.Struct, frozen=True):
    """A machine's device, as far as it is known; None means unknown.

    Attributes:
        device: OpenVINO's device string: "NPU".
        openvino: Installed version of OpenVINO: "2026.4.1".
        platform: The NPU's platform: "4000".
        tiles: Number of tiles of the NPU.
        driver: Version of the device's driver.
        compiler: Installed version of the NPU's compiler: "8.4".
        elf: Newest version of the ELF format that the NPU's driver takes: "1.2". OpenVINO does not report it.
        mi: Newest version of the mapped inference that it takes: "11.4". OpenVINO does not report it.
        is_here: Whether OpenVINO finds the device; None for another machine.
        identity: The device's identifying properties by name; None for another machine.
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
    """Describe one of this machine's devices, as far as OpenVINO reports its properties."""
    identity = identify(core, device)
    kind = get_kind(device)
    # Unlike the core's list of devices, this property loads only one plugin.
    found = list_candidates(core, device) if is_virtual(device) else read_property(core, device, "AVAILABLE_DEVICES")
    tiles = identity.get("NPU_MAX_TILES", "")
    compiler = read_property(core, device, "NPU_COMPILER_VERSION") if kind == "NPU" else None
    return Machine(
        device=device,
        openvino=get_version(),
        platform=parse_platform(identity) if kind == "NPU" else None,
        tiles=int(tiles) if tiles.isascii() and tiles.isdigit() else None,
        driver=identity.get(f"{kind}_DRIVER_VERSION"),
        compiler=format_compiler_version(compiler),
        is_here=bool(found),
        identity=identity,
    )


def describe_other(
    device: str, platform: str | None, *, elf: str | None = None, mi: str | None = None, openvino: str | None = None
) -> Machine:
    """Describe another machine by its NPU's platform, and the versions that are known; UsageError if one is malformed.

    >>> describe_other("NPU", "4000", elf="1.2").tiles
    6
    """
    for name, version in (("elf", elf), ("mi", mi), ("openvino", openvino)):
        if version is not None and not _VERSION.fullmatch(version.partition("-")[0]):
            raise UsageError(f"{name}: expected a version, for instance 1.2; got {version!r}")
    tiles = PLATFORMS[platform].tiles if platform else None
    return Machine(device, openvino, platform, tiles, elf=elf, mi=mi)


def check_with_openvino(core: ov.Core, device: str, requirements: str) -> bool | None:
    """Ask OpenVINO whether a blob with these requirements runs on a device here; None if it cannot tell.

    OpenVINO 2026.4 does not: its Python bindings lack the type of COMPATIBILITY_CHECK.
    """
    try:
        answer = core.get_property(device, "COMPATIBILITY_CHECK", {"RUNTIME_REQUIREMENTS": requirements})
    except (RuntimeError, TypeError):  # also if there is no such device or property
        return None
    if isinstance(answer, bool):
        return answer
    return {"SUPPORTED": True, "UNSUPPORTED": False}.get(str(answer).upper().rpartition(".")[2])


def parse_platform(identity: Mapping[str, str]) -> str | None:
    """Return the NPU platform in an identity's architecture: "4000", with or without letters before it."""
    found = _PLATFORM.search(identity.get("DEVICE_ARCHITECTURE", ""))
    return found[0] if found else None
