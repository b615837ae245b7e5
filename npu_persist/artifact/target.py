"""Targets: the kind of device that an artifact is compiled for, `NPU:4000`, `CPU` or `GPU`, wherever that device is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from npu_persist.device.platforms import PLATFORMS
from npu_persist.errors import TargetError

if TYPE_CHECKING:
    from npu_persist.device.machine import Machine

_BY_NAME = {name: number for number, platform in PLATFORMS.items() for name in platform.names}
_DEVICE = re.compile(r"(CPU|GPU)(\.[0-9]{1,3})?")


class Target(msgspec.Struct, frozen=True):
    """The kind of device that an artifact is compiled for.

    Attributes:
        kind: "NPU", "CPU" or "GPU".
        device: OpenVINO's device string on a machine that has it: `NPU`, `GPU.1`.
        platform: Number of the NPU's platform; None for other devices, and for the NPU of this machine.
    """

    kind: str
    device: str
    platform: str | None = None

    def __str__(self) -> str:
        return self.device if self.platform is None else f"{self.device}:{self.platform}"


def parse_target(text: str) -> Target:
    """Parse a target, in upper or lower case: `NPU:4000`, `4000`, `lunar-lake`, `NPU` (this machine's), `CPU`, `GPU.1`.

    >>> str(parse_target("lunar-lake")), str(parse_target("npu:3720")), str(parse_target("cpu"))
    ('NPU:4000', 'NPU:3720', 'CPU')
    """
    if isinstance(text, str):
        written = text.strip()
        if _DEVICE.fullmatch(written.upper()):
            return Target(written.upper().partition(".")[0], written.upper())
        if written.upper() == "NPU":
            return Target("NPU", "NPU")
        name = re.sub(r"^npu:", "", written.lower()).replace("_", "-").replace(" ", "-")
        number = _BY_NAME.get(name, name)
        if number in PLATFORMS:
            return Target("NPU", "NPU", number)
    known = ", ".join(f"NPU:{number}" for number in PLATFORMS)
    raise TargetError(
        f"target: expected one of {known}, a processor's name ({', '.join(_BY_NAME)}), NPU, CPU or GPU; got {text!r}. "
        "`npu-persist targets` lists them"
    )


def find_machine(device: str | Machine) -> Machine:
    """Return the machine that a device of this one, a target or a description means; else raise a TargetError."""
    from npu_persist.device.core import get_core
    from npu_persist.device.devices import VIRTUAL, check_device, get_kind
    from npu_persist.device.machine import Machine, describe_machine, describe_other

    if isinstance(device, Machine):
        return device
    if get_kind(str(device)) in VIRTUAL:
        check_device(get_core(), device)
        return describe_machine(get_core(), device)
    target = parse_target(device)
    if target.platform is None:
        return describe_machine(get_core(), target.device)
    return describe_other(target.device, target.platform)
