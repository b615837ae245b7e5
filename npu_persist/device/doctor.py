"""Finds what this machine lacks for each kind of device, and how to fix it.

Looking for parts loads and runs nothing, so it takes milliseconds and cannot crash; what cannot be read counts as
missing. A load that succeeds does not import this module.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.device.core import import_openvino
from npu_persist.device.devices import (
    KINDS,
    Device,
    get_kind,
    is_available,
    is_virtual,
    list_candidates,
    list_devices,
    named_devices,
)
from npu_persist.errors import CompilationError, DeviceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import openvino as ov

Parts = dict[str, str | None]
"""Parts that a kind of device needs, each after those that it depends on → where the part is, or None."""

_NO_COMPILER = "compiler loading failed"
"""What OpenVINO's NPU plugin says if it finds no compiler."""

_DISPLAY = "{4d36e968-e325-11ce-bfc1-08002be10318}"
_COMPUTE_ACCELERATOR = "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}"
"""Windows' setup classes of devices (Microsoft: System-Defined Device Setup Classes Available to Vendors)."""

_LIBRARY_FOLDERS = ("lib", "lib64", "usr/lib", "usr/lib64", "usr/local/lib", "run/opengl-driver/lib")
_INTEL = "0x8086"
"""Intel's vendor number on the PCI bus."""

_REINSTALL = "Install OpenVINO again: python -m pip install --force-reinstall openvino"

_LINUX_NPU = {
    "device": (
        "the NPU's device node (/dev/accel/accel0)",
        (
            "An NPU is part of Intel's Core Ultra processors. If this is one: switch the NPU on in the BIOS, use "
            "Linux 6.6 or newer with its module intel_vpu (sudo modprobe intel_vpu), and install the firmware "
            "(package intel-fw-npu). In a container: start it with --device /dev/accel."
        ),
    ),
    "access": (
        "the permission to use the NPU's device node",
        (
            "Join the group that owns it, then log in again: sudo usermod -a -G render $USER. If root owns it: "
            "sudo chown root:render /dev/accel/accel0 && sudo chmod g+rw /dev/accel/accel0. In a container: "
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
            "openvino for Linux does not contain it. Blobs compiled elsewhere for this NPU run without it."
        ),
    ),
}

_LINUX_GPU = {
    "device": (
        "the device node of an Intel GPU (/dev/dri/renderD128)",
        (
            "OpenVINO uses Intel's GPUs only. If this machine has one: use a kernel that supports it (i915 or xe). In "
            "a container: start it with --device /dev/dri."
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
    "driver": (
        "an Intel graphics driver",
        (
            "OpenVINO uses Intel's GPUs only. If this machine has one: install Intel's graphics driver, through "
            "Windows Update or from Intel."
        ),
    ),
    "loader": ("the OpenCL loader (OpenCL.dll)", "Install Intel's graphics driver again; it brings the loader."),
}

_TEXTS = {
    ("linux", "NPU"): _LINUX_NPU,
    ("linux", "GPU"): _LINUX_GPU,
    ("win32", "NPU"): _WINDOWS_NPU,
    ("win32", "GPU"): _WINDOWS_GPU,
}


class MissingPart(msgspec.Struct, frozen=True):
    """A part that a device needs and that was not found.

    Attributes:
        part: Its key: `plugin`, `device`, `access`, `loader`, `driver`, `compiler`.
        what: Its description.
        advice: What to do.
    """

    part: str
    what: str
    advice: str


class Diagnosis(msgspec.Struct, frozen=True):
    """One kind of device on this machine.

    Attributes:
        kind: `CPU`, `GPU` or `NPU`.
        devices: The devices that OpenVINO can use.
        parts: The parts that such a device needs → where each was found, or None.
        missing: What to fix: the missing parts if no device works; if one does, only a missing compiler.
    """

    kind: str
    devices: tuple[Device, ...]
    parts: Parts
    missing: tuple[MissingPart, ...]


def diagnose() -> tuple[Diagnosis, ...]:
    """Examine Intel's kinds of devices, and those of other plugins that OpenVINO lists."""
    found, libraries = list_devices(), find_libraries()
    kinds = dict.fromkeys([*KINDS, *(device.kind for device in found)])
    return tuple(_diagnose(kind, tuple(each for each in found if each.kind == kind), libraries) for kind in kinds)


def _diagnose(kind: str, devices: tuple[Device, ...], libraries: Path) -> Diagnosis:
    parts = find_parts(kind, libraries) if kind in KINDS else {}
    missing = list_missing(sys.platform, kind, parts)
    if devices:
        # A compiler that was not found where it usually is still reports its version.
        has_compiler = any(device.compiler for device in devices)
        missing = tuple(each for each in missing if each.part == "compiler" and not has_compiler)
    return Diagnosis(kind, devices, parts, missing)


def explain_missing_device(
    core: ov.Core, device: str, error: Exception
) -> DeviceNotFoundError | CompilationError | None:
    """Return the error to raise if a compilation failed with `error` because a device or its compiler is missing."""
    found, named = core.available_devices, named_devices(device)
    missing = [name for name in named if not is_available(name, found)]
    if missing:
        kind = get_kind(missing[0])
        text = f"device {device!r}: OpenVINO has no {missing[0]} on this machine, only {', '.join(found)}."
        if kind in KINDS and not any(get_kind(name) == kind for name in found):
            text += " " + describe_missing(sys.platform, kind, find_parts(kind, find_libraries()))
        text += _suggest_device(device, missing, found)
    elif is_virtual(device) and not list_candidates(core, device):
        text = f"device {device!r} names no device of this machine; it has {', '.join(found)}."
        text += f" Write for instance device={get_kind(device) + ':' + found[0]!r}."
    elif _NO_COMPILER in str(error):
        advice = "".join(f" {each.advice}" for each in list_missing(sys.platform, "NPU", {"compiler": None}))
        text = f"device {device!r}: the NPU was found, but no compiler for it.{advice}"
        return CompilationError(f"{text} OpenVINO said: {error}")
    else:
        return None
    return DeviceNotFoundError(f"{text} OpenVINO said: {error}")


def _suggest_device(device: str, missing: list[str], found: list[str]) -> str:
    if is_virtual(device):
        there = [name for name in named_devices(device) if name not in missing] or found[:1]
        return f" Or write device={get_kind(device) + ':' + ','.join(there)!r}."
    text = f" Or write device={found[0]!r}."
    if device in KINDS:
        text = f"{text[:-1]}, or device='AUTO:{device},{found[0]}', which uses the {found[0]} if there is no {device}."
    return text


def describe_missing(system: str, kind: str, parts: Parts) -> str:
    """Return the sentences of an error about a missing device: what it lacks, and what to do first."""
    missing = list_missing(system, kind, parts)
    if not missing:
        return (
            f"Everything that OpenVINO needs for the {kind} was found, but not the {kind} itself: restart the "
            "machine if a driver was "
            "just installed, and update driver and firmware."
        )
    return f"Missing for it: {', '.join(each.what for each in missing)}. {missing[0].advice}"


def list_missing(system: str, kind: str, parts: Parts) -> tuple[MissingPart, ...]:
    """Return the missing ones of a device's parts, in the order in which to fix them; `system` is as `sys.platform`."""
    texts = {"plugin": (f"OpenVINO's {kind} plugin", _REINSTALL), **_TEXTS.get((system, kind), {})}
    return tuple(MissingPart(part, *text) for part, text in texts.items() if part in parts and parts[part] is None)


def find_libraries() -> Path:
    """Return the folder in which pip's OpenVINO has its libraries; other builds of OpenVINO lack it."""
    return Path(import_openvino().__file__).parent / "libs"


def find_parts(
    kind: str,
    libraries: Path,
    *,
    system: str = sys.platform,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> Parts:
    """Look for the parts of a kind of device: in OpenVINO's folder of libraries, and below the file system's root."""
    find = {"linux": _find_on_linux, "win32": _find_on_windows}.get(system)
    found: Parts = {"plugin": _plugin(kind, libraries, system)}
    if find is not None and kind != "CPU":
        found |= find(kind, libraries, root, environ)
    return found


def _plugin(kind: str, libraries: Path, system: str) -> str | None:
    if not libraries.is_dir():
        return "OpenVINO's own place"  # not pip's package: a distribution may put plugins anywhere
    makers = ("intel", "arm", "riscv") if kind == "CPU" else ("intel",)
    names = (f"openvino_{maker}_{kind.lower()}_plugin" for maker in makers)
    files = (_existing(libraries / (f"{name}.dll" if system == "win32" else f"lib{name}.so")) for name in names)
    return next(filter(None, files), None)


def _find_on_linux(kind: str, libraries: Path, root: Path, environ: Mapping[str, str]) -> Parts:
    nodes = list(_device_nodes(kind, root))
    usable = [node for node in nodes if os.access(node, os.R_OK | os.W_OK)]
    found: Parts = {"device": str(nodes[0]) if nodes else None}
    if nodes:
        found["access"] = str(usable[0]) if usable else None

    def find(*names: str) -> str | None:
        return next(filter(None, (_find_library(name, root, environ) for name in names)), None)

    if kind == "GPU":
        vendors = sorted((root / "etc/OpenCL/vendors").glob("*intel*.icd"))
        return {**found, "loader": find("libOpenCL.so.1"), "driver": str(vendors[0]) if vendors else None}
    return {
        **found,
        "loader": find("libze_loader.so.1"),
        "driver": find("libze_intel_npu.so.1", "libze_intel_vpu.so.1"),
        # pip's package for Linux lacks it (openvino issue #36374); the driver's package has it under either name.
        "compiler": _existing(libraries / "libopenvino_intel_npu_compiler.so")
        or find("libopenvino_intel_npu_compiler.so", "libnpu_driver_compiler.so"),
    }


def _device_nodes(kind: str, root: Path) -> Iterator[Path]:
    if kind == "NPU":
        yield from sorted(root.glob("dev/accel/accel*"))
        return
    for node in sorted(root.glob("dev/dri/renderD*")):
        vendor = _read(root / "sys/class/drm" / node.name / "device/vendor").decode("ascii", "replace").strip()
        if vendor in {_INTEL, ""}:
            yield node
    if (root / "dev/dxg").exists():  # the GPU in Windows' Subsystem for Linux
        yield root / "dev/dxg"


def _find_library(name: str, root: Path, environ: Mapping[str, str]) -> str | None:
    """Return where the dynamic loader would find a shared library, without loading it."""
    folders = [folder for folder in environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    listed = re.search(rb"/[^\0]*/" + re.escape(name.encode()) + rb"(?=\0)", _read(root / "etc/ld.so.cache"))
    if listed is not None:
        folders.append(str(Path(os.fsdecode(listed[0])).parent))
    candidates = [Path(folder) for folder in folders]
    candidates += [Path(sys.prefix) / "lib", *(root / folder for folder in _LIBRARY_FOLDERS)]
    candidates += root.glob("usr/lib/*-linux-gnu")
    return next(filter(None, (_existing(folder / name) for folder in candidates)), None)


def _find_on_windows(kind: str, libraries: Path, root: Path, environ: Mapping[str, str]) -> Parts:
    system = Path(environ.get("SystemRoot", str(root / "Windows"))) / "System32"
    driver = _find_in_registry(_DISPLAY if kind == "GPU" else _COMPUTE_ACCELERATOR)
    if kind == "GPU":
        return {"driver": driver, "loader": _existing(system / "OpenCL.dll")}
    return {
        "driver": driver,
        "loader": _existing(system / "ze_loader.dll"),
        "compiler": _existing(libraries / "openvino_intel_npu_compiler.dll"),
    }


def _find_in_registry(setup_class: str) -> str | None:
    """Return name and driver version of the first Intel device of a setup class."""
    import winreg  # type: ignore[import-not-found, unused-ignore]

    registry: Any = winreg
    try:
        with registry.OpenKey(
            registry.HKEY_LOCAL_MACHINE, rf"SYSTEM\CurrentControlSet\Control\Class\{setup_class}"
        ) as key:
            for index in range(registry.QueryInfoKey(key)[0]):
                name = registry.EnumKey(key, index)
                if not name.isdigit():  # `Properties`, which only the system may read
                    continue
                with registry.OpenKey(key, name) as device:
                    values = {
                        registry.EnumValue(device, at)[0]: registry.EnumValue(device, at)[1]
                        for at in range(registry.QueryInfoKey(device)[1])
                    }
                if "intel" in str(values.get("ProviderName", "")).lower():
                    return f"{values.get('DriverDesc', name)} {values.get('DriverVersion', '')}".strip()
    except OSError:
        return None
    return None


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
