"""What of a device's software and hardware this machine has, as its file system shows it.

The promise: nothing is loaded and nothing is run, so that it costs milliseconds and cannot crash; what cannot be seen
counts as missing, and is no error. What is made of it is `device.advice`'s business.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Parts = dict[str, "str | None"]
"""Part of what a kind of device needs, in the order in which one needs the other → where it is, or None."""

_DISPLAY = "{4d36e968-e325-11ce-bfc1-08002be10318}"
_COMPUTE_ACCELERATOR = "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}"
"""Windows' setup classes of devices (Microsoft: System-Defined Device Setup Classes Available to Vendors)."""

_LIBRARY_FOLDERS = ("lib", "lib64", "usr/lib", "usr/lib64", "usr/local/lib", "run/opengl-driver/lib")
_INTEL = "0x8086"
"""Vendor number on the PCI bus."""


def look_for(
    kind: str,
    libraries: Path,
    *,
    system: str = sys.platform,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> Parts:
    """Look for the parts of a kind of device.

    Args:
        kind: `CPU`, `GPU` or `NPU`.
        libraries: OpenVINO's folder of libraries.
        system: As `sys.platform`.
        root: Of the file system.
        environ: The environment.
    """
    look = {"linux": _look_on_linux, "win32": _look_on_windows}.get(system)
    found: Parts = {"plugin": _plugin(kind, libraries, system)}
    if look is not None and kind != "CPU":
        found |= look(kind, libraries, root, environ)
    return found


def _plugin(kind: str, libraries: Path, system: str) -> str | None:
    if not libraries.is_dir():
        return "OpenVINO's own place"  # not pip's package: a distribution puts plugins where it likes
    name = f"openvino_intel_{kind.lower()}_plugin"
    return _existing(libraries / (f"{name}.dll" if system == "win32" else f"lib{name}.so"))


def _look_on_linux(kind: str, libraries: Path, root: Path, environ: Mapping[str, str]) -> Parts:
    nodes = list(_device_nodes(kind, root))
    open_to_us = [node for node in nodes if os.access(node, os.R_OK | os.W_OK)]
    found: Parts = {"device": str(nodes[0]) if nodes else None}
    if nodes:
        found["access"] = str(open_to_us[0]) if open_to_us else None

    def find(*names: str) -> str | None:
        return next(filter(None, (_find_library(name, root, environ) for name in names)), None)

    if kind == "GPU":
        vendors = sorted((root / "etc/OpenCL/vendors").glob("*intel*.icd"))
        return {**found, "loader": find("libOpenCL.so.1"), "driver": str(vendors[0]) if vendors else None}
    return {
        **found,
        "loader": find("libze_loader.so.1"),
        "driver": find("libze_intel_npu.so.1", "libze_intel_vpu.so.1"),
        # In pip's package on Linux it is not (openvino issue #36374); the driver's package has it under either name.
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
    if (root / "dev/dxg").exists():  # Windows' GPU inside of its Subsystem for Linux
        yield root / "dev/dxg"


def _find_library(name: str, root: Path, environ: Mapping[str, str]) -> str | None:
    """Return where the loader of shared libraries would find one; neither loads it nor asks another program."""
    folders = [folder for folder in environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    listed = re.search(rb"/[^\0]*/" + re.escape(name.encode()) + rb"(?=\0)", _read(root / "etc/ld.so.cache"))
    if listed is not None:
        folders.append(str(Path(os.fsdecode(listed[0])).parent))
    candidates = [Path(folder) for folder in folders]
    candidates += [Path(sys.prefix) / "lib", *(root / folder for folder in _LIBRARY_FOLDERS)]
    candidates += root.glob("usr/lib/*-linux-gnu")
    return next(filter(None, (_existing(folder / name) for folder in candidates)), None)


def _look_on_windows(kind: str, libraries: Path, root: Path, environ: Mapping[str, str]) -> Parts:
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
    """Return name and version of the driver of Intel's first device of a setup class."""
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
