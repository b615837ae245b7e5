"""What a device is, as far as it decides whether a compiled blob runs on it.

The promise: cheap, the same in every process of one machine, and never an error: a property that a device does not
answer is absent.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_persist.device.names import ask, candidates, head, is_virtual, named_devices

if TYPE_CHECKING:
    import openvino as ov

_ASKED = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "OPTIMIZATION_CAPABILITIES")
_ASKED_OF = {
    "GPU": ("GPU_DRIVER_VERSION", "GPU_UARCH_VERSION", "GPU_EXECUTION_UNITS_COUNT"),
    "NPU": ("NPU_DRIVER_VERSION", "NPU_COMPILER_VERSION", "NPU_MAX_TILES"),
}

_INSTRUCTION_SETS = re.compile(r"sse4_.*|avx.*|amx.*|fma|f16c")
"""Flags of Linux' /proc/cpuinfo that decide for which instructions OpenVINO compiles."""

_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that make OpenVINO compile for less than the CPU has (oneDNN: CPU Dispatcher Control)."""


def identify(core: ov.Core, device: str) -> dict[str, str]:
    """Return what distinguishes a device from others for a compiled blob.

    Args:
        core: The core.
        device: A device string; of one made of others, each candidate's properties are returned as `CPU.<property>`.

    """
    if is_virtual(device):
        return {
            f"{name}.{key}": value for name in candidates(core, device) for key, value in identify(core, name).items()
        }
    answers = {name: ask(core, device, name) for name in (*_ASKED, *_ASKED_OF.get(head(device), ()))}
    identity = {name: _text(value) for name, value in answers.items() if value is not None}
    if device == "CPU":
        # OpenVINO does not take a blob that was compiled for other instructions. It names them (RUNTIME_REQUIREMENTS)
        # for a compiled model only, which takes 20 ms and more.
        identity["INSTRUCTION_SETS"] = read_instruction_sets()
        identity |= {name: os.environ[name].upper() for name in _LIMITS if os.environ.get(name)}
    return identity


def read_instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the extensions of this CPU that decide what is compiled for it, sorted and joined by commas."""
    try:
        flags = cpuinfo.read_text(encoding="ascii", errors="replace").partition("\nflags")[2].partition("\n")[0]
    except OSError:
        flags = ""
    found = {flag for flag in flags.split() if _INSTRUCTION_SETS.fullmatch(flag)}
    if not found:
        # Windows, and Linux on other processors. Coarse, but with the full name of the CPU it tells them apart.
        import numpy as np

        found = set(np.show_config(mode="dicts")["SIMD Extensions"].get("found", ()))
    return ",".join(sorted(found))


def can_export(core: ov.Core, device: str) -> bool:
    """Tell whether what is compiled for a device can be exported and imported."""
    first = head(device)
    if first in {"AUTO", "MULTI", "BATCH"}:
        return False
    parts = [first, *named_devices(device)] if first == "HETERO" else [device]
    return all("EXPORT_IMPORT" in (ask(core, name, "OPTIMIZATION_CAPABILITIES") or ()) for name in parts)


def _text(value: Any) -> str:
    return ",".join(sorted(map(str, value))) if isinstance(value, (list, tuple)) else str(value)
