"""What to do about the parts of a device that are missing.

The promise: pure. From what `device.host` saw on whatever machine to what it means, and what to install there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npu_persist.device.host import Parts


@dataclass(frozen=True)
class Missing:
    """A part that a device needs and that was not found.

    Attributes:
        part: Its key: `plugin`, `device`, `access`, `loader`, `driver`, `compiler`.
        what: What it is, in words.
        advice: What to do.
    """

    part: str
    what: str
    advice: str


_REINSTALL = "Install OpenVINO again: python -m pip install --force-reinstall openvino"

_LINUX_NPU = {
    "plugin": ("OpenVINO's NPU plugin", _REINSTALL),
    "device": (
        "the NPU's device node (/dev/accel/accel0)",
        (
            "An NPU is part of Intel's Core Ultra processors. If this is one: switch the NPU on in the BIOS, use "
            "Linux 6.6 or newer with its module intel_vpu (sudo modprobe intel_vpu), and install the firmware, "
            "package intel-fw-npu. In a container: start it with --device /dev/accel."
        ),
    ),
    "access": (
        "the permission to use the NPU's device node",
        (
            "Join the group that owns it, then log in again: sudo usermod -a -G render $USER. If it belongs to root "
            "alone: sudo chown root:render /dev/accel/accel0 && sudo chmod g+rw /dev/accel/accel0. In a container: "
            "--group-add with that group's number."
        ),
    ),
    "loader": (
        "the Level Zero loader (libze_loader.so.1)",
        "Install the package level-zero, 1.17.17 or newer; Debian and Ubuntu call it libze1.",
    ),
    "driver": (
        "the NPU's driver (libze_intel_npu.so.1)",
        "Install the package intel-level-zero-npu from the releases of Intel's linux-npu-driver.",
    ),
    "compiler": (
        "the NPU's compiler (libopenvino_intel_npu_compiler.so)",
        (
            "Install the package intel-driver-compiler-npu from the releases of Intel's linux-npu-driver; pip's "
            "openvino for Linux does not have it. What was compiled elsewhere for this NPU runs without."
        ),
    ),
}

_LINUX_GPU = {
    "plugin": ("OpenVINO's GPU plugin", _REINSTALL),
    "device": (
        "the device node of an Intel GPU (/dev/dri/renderD128)",
        (
            "OpenVINO uses Intel's GPUs only. If this machine has one: use a kernel that knows it (i915 or xe). In a "
            "container: start it with --device /dev/dri."
        ),
    ),
    "access": (
        "the permission to use the GPU's device node",
        (
            "Join the group that owns it, then log in again: sudo usermod -a -G render $USER. In a container: "
            "--group-add with that group's number."
        ),
    ),
    "loader": (
        "the OpenCL loader (libOpenCL.so.1)",
        "Install it: sudo apt install ocl-icd-libopencl1",
    ),
    "driver": (
        "Intel's OpenCL driver",
        "Install it: sudo apt install intel-opencl-icd; for a new GPU from the releases of Intel's compute-runtime.",
    ),
}

_WINDOWS_NPU = {
    "plugin": ("OpenVINO's NPU plugin", _REINSTALL),
    "driver": (
        "the NPU's driver (Intel AI Boost in the Device Manager)",
        (
            "An NPU is part of Intel's Core Ultra processors. If this is one: switch the NPU on in the BIOS, and "
            "install Intel's NPU driver, through Windows Update or from Intel."
        ),
    ),
    "loader": (
        "the Level Zero loader (ze_loader.dll)",
        "Install Intel's NPU driver again; it brings the loader.",
    ),
    "compiler": ("the NPU's compiler (openvino_intel_npu_compiler.dll)", _REINSTALL),
}

_WINDOWS_GPU = {
    "plugin": ("OpenVINO's GPU plugin", _REINSTALL),
    "driver": (
        "an Intel graphics driver",
        (
            "OpenVINO uses Intel's GPUs only. If this machine has one: install Intel's graphics driver, through "
            "Windows Update or from Intel."
        ),
    ),
    "loader": ("the OpenCL loader (OpenCL.dll)", "Install Intel's graphics driver again; it brings the loader."),
}

_PARTS = {
    ("linux", "NPU"): _LINUX_NPU,
    ("linux", "GPU"): _LINUX_GPU,
    ("win32", "NPU"): _WINDOWS_NPU,
    ("win32", "GPU"): _WINDOWS_GPU,
}


def find_missing(system: str, kind: str, parts: Parts) -> tuple[Missing, ...]:
    """Return what is missing, in the order in which it should be seen to.

    Args:
        system: As `sys.platform`.
        kind: `CPU`, `GPU` or `NPU`.
        parts: What `device.host.look_for` found.
    """
    texts = _PARTS.get((system, kind), {"plugin": (f"OpenVINO's {kind} plugin", _REINSTALL)})
    return tuple(Missing(part, *text) for part, text in texts.items() if part in parts and parts[part] is None)


def advise(system: str, kind: str, part: str) -> str:
    """Return what to do about one missing part."""
    return " ".join(missing.advice for missing in find_missing(system, kind, {part: None}))


def say_missing(system: str, kind: str, parts: Parts) -> str:
    """Return the sentences of an error about a device that is not there: what it lacks, and what to do first."""
    missing = find_missing(system, kind, parts)
    if not missing:
        return (
            f"All that OpenVINO needs for it was found, but not the {kind} itself: start the machine again after "
            "installing a driver, and bring driver and firmware up to date."
        )
    return f"Missing for it: {', '.join(each.what for each in missing)}. {missing[0].advice}"
