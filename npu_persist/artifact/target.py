"""What a compiled artifact is for: `NPU:4000`, `CPU`, `GPU`. A device string says where to run; a target, on what kind.

The promise: a text that is read is a target that compilers know, and every way to write one gives the same target.

The NPU's platforms are those that OpenVINO's NPU compiler takes as NPU_PLATFORM. Names and tiles are from public
sources: OpenVINO's NPU plugin (Meteor Lake and Arrow Lake 3720, Lunar Lake 4000, Panther Lake 5010: openvino pull
request 33595) and the compiler's own table of DPU groups (openvinotoolkit/npu_compiler). 5020 compiles, but no source
names the processor that has it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from npu_persist.device.platforms import PLATFORMS
from npu_persist.errors import TargetError

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from npu_persist.files.frozen import dataclass


_BY_NAME = {name: number for number, platform in PLATFORMS.items() for name in platform.names}
_DEVICE = re.compile(r"(CPU|GPU)(\.[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Target:
    """What an artifact is for.

    Attributes:
        kind: "NPU", "CPU" or "GPU".
        device: OpenVINO's device string on a machine that has it: `NPU`, `GPU.1`.
        platform: Number of the NPU's platform; None for other devices, and for the NPU of this machine.
    """

    kind: str
    device: str
    platform: str | None = None

    @property
    def folder(self) -> str:
        """What a folder of artifacts for it is called: `npu-4000`."""
        return str(self).lower().replace(":", "-").replace(".", "-")

    def __str__(self) -> str:
        return self.device if self.platform is None else f"{self.device}:{self.platform}"


def parse_target(text: str) -> Target:
    """Read a target: a platform's number or name, or a device of this machine.

    Args:
        text: `NPU:4000`, `4000`, `lunar-lake`, `NPU` (that of this machine), `CPU`, `GPU` or `GPU.1`; case does not
        matter.

    Raises:
        TargetError: It is none of these.

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
