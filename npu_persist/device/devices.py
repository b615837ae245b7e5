"""Device strings, the real devices they stand for, and what identifies those.

Device strings follow OpenVINO's rules; nothing is compiled to resolve one. `AUTO` never means the NPU unless named.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from npu_persist.device.core import get_core
from npu_persist.errors import DeviceNotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import openvino as ov

KINDS = ("CPU", "GPU", "NPU")
"""Kinds of devices that OpenVINO supports on Intel's hardware, whether this machine has them or not."""

VIRTUAL = ("AUTO", "HETERO", "MULTI", "BATCH")
"""OpenVINO's virtual devices, made of the devices that follow the colon."""

CORE_PROPERTIES = frozenset({"CACHE_DIR", "CACHE_MODE", "CACHE_BLOB_ID", "CACHE_ENCRYPTION_CALLBACKS", "ENABLE_MMAP"})
"""Properties that OpenVINO's core takes for every device and no device lists."""

PRECISION = "INFERENCE_PRECISION_HINT"
"""The property that says what a device may compute in, whatever the graph says."""

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_COUNTED = re.compile(r"[^()]*(\([1-9][0-9]{0,5}\))?")
"""A device, optionally with its number of requests or batch size in brackets."""

_IDENTITY = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "OPTIMIZATION_CAPABILITIES")
_IDENTITY_OF_KIND = {
    "GPU": ("GPU_DRIVER_VERSION", "GPU_UARCH_VERSION", "GPU_EXECUTION_UNITS_COUNT"),
    "NPU": ("NPU_DRIVER_VERSION", "NPU_COMPILER_VERSION", "NPU_MAX_TILES"),
}

_FLAGS = re.compile(r"^(?:flags|Features)\s*:(.*)", re.MULTILINE)
"""The line of Linux' /proc/cpuinfo that has them: on x86, and on Arm."""

_INSTRUCTION_SETS = re.compile(r"sse4_.*|avx.*|amx.*|fma|f16c|asimd.*|sve.*|sme.*|bf16|i8mm")
"""Flags that decide which instructions OpenVINO compiles for."""

_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that make OpenVINO compile for less than the CPU has (oneDNN: CPU Dispatcher Control)."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device that models can be loaded on.

    Attributes:
        name: What `load` takes: `CPU`, `GPU.1`, `NPU`.
        full_name: The vendor's name for it.
        kind: `CPU`, `GPU` or `NPU`.
        architecture: OpenVINO's DEVICE_ARCHITECTURE; None if the device does not report it.
        capabilities: OpenVINO's OPTIMIZATION_CAPABILITIES: `FP16`, `INT8`, `EXPORT_IMPORT`, …. With `FP32` it computes
            in float32 where that is asked for, as `load` does for bundles of precision="fp32".
        default_precision: What it computes in unless it is asked for something else: "f32", "bf16", "f16"; None if it
            does not say.
        driver: Version of its driver; None if it has none.
        compiler: Version of its compiler, if that is a separate component.
        can_export: Whether models compiled for it can be saved.
    """

    name: str
    full_name: str
    kind: str
    architecture: str | None
    capabilities: tuple[str, ...]
    default_precision: str | None
    driver: str | None
    compiler: str | None
    can_export: bool


def list_devices() -> tuple[Device, ...]:
    """Return the devices that OpenVINO can use on this machine; the front door's `npu_persist.devices`.

    Example:
        >>> import npu_persist
        >>> "CPU" in {device.name for device in npu_persist.devices()}
        True
    """
    core = get_core()

    def read(name: str, key: str) -> str | None:
        value = read_property(core, name, key)
        return None if value is None else str(value)

    return tuple(
        Device(
            name=name,
            full_name=read(name, "FULL_DEVICE_NAME") or name,
            kind=get_kind(name),
            architecture=read(name, "DEVICE_ARCHITECTURE"),
            capabilities=tuple(read_property(core, name, "OPTIMIZATION_CAPABILITIES") or ()),
            default_precision=name_precision(read_property(core, name, PRECISION)),
            driver=read(name, f"{get_kind(name)}_DRIVER_VERSION"),
            compiler=format_compiler_version(read_property(core, name, f"{get_kind(name)}_COMPILER_VERSION")),
            can_export=can_export(core, name),
        )
        for name in core.available_devices
    )


def get_kind(device: str) -> str:
    """Return the kind of device, or of virtual device, that a device string begins with.

    >>> get_kind("AUTO:NPU,CPU"), get_kind("GPU.1"), get_kind("CPU")
    ('AUTO', 'GPU', 'CPU')
    """
    return device.partition(":")[0].partition(".")[0]


def is_virtual(device: str) -> bool:
    """Tell whether a device is made of others."""
    return device.partition(":")[0] in VIRTUAL


def named_devices(device: str) -> list[str]:
    """Return the real devices that a device string names.

    >>> named_devices("AUTO:NPU,-GPU,CPU"), named_devices("AUTO"), named_devices("GPU.1")
    (['NPU', 'CPU'], [], ['GPU.1'])
    """
    return [part for part in _parts(device) if not part.startswith("-")] if is_virtual(device) else [device]


def list_candidates(core: ov.Core, device: str) -> list[str]:
    """Return the real devices that a model for `device` may run on here, in OpenVINO's order of preference.

    Empty if a virtual device names only devices that are not there: OpenVINO leaves those out.
    """
    if not is_virtual(device):
        return [device]
    found = core.available_devices
    named = named_devices(device)
    if named:
        return list(dict.fromkeys(real for name in named for real in _matching(name, found)))
    if get_kind(device) != "AUTO":
        return []
    excluded = {real for part in _parts(device) for real in _matching(part.removeprefix("-"), found)}
    usable = [name for name in found if name not in excluded and get_kind(name) != "NPU"]
    return sorted(usable, key=lambda name: _preference(core, name))


def resolve_auto(core: ov.Core, device: str, properties: Mapping[str, Any]) -> str:
    """Return the one device that `AUTO` can choose here, if it supports all of the properties; else `device` itself.

    What is compiled for a real device can be cached; what is compiled for AUTO cannot.
    """
    # Only AUTO itself understands a number of requests in brackets, and cumulative throughput.
    cumulative = str(properties.get("PERFORMANCE_HINT")).endswith("CUMULATIVE_THROUGHPUT")
    if get_kind(device) != "AUTO" or "(" in device or cumulative:
        return device
    usable = list_candidates(core, device)
    if len(usable) != 1:
        return device
    supported = {*(read_property(core, usable[0], "SUPPORTED_PROPERTIES") or ()), *CORE_PROPERTIES}
    return usable[0] if supported.issuperset(properties) else device


def is_available(name: str, found: Sequence[str]) -> bool:
    """Tell whether a name stands for one of the devices that OpenVINO found."""
    return bool(_matching(name, found))


def check_device(core: ov.Core, device: str) -> None:
    """Raise DeviceNotFoundError or UsageError for a device string that is wrong on every machine.

    OpenVINO's AUTO ignores a name that it does not know and runs on the other ones.
    """
    first, _, rest = device.partition(":")
    names = [first if first in VIRTUAL else device]
    if is_virtual(device):
        names += [name.removeprefix("-") for name in rest.split(",") if name]
    for name in names:
        bare = name.partition("(")[0]
        if not _is_known(core, bare):
            raise DeviceNotFoundError(_describe_unknown(core, device, bare))
        if not _COUNTED.fullmatch(name):
            raise UsageError(f"device {device!r}: expected a number from 1 on in brackets, as in CPU(4); got {name!r}")


def read_property(core: ov.Core, device: str, name: str) -> Any:
    """Return a device's property; None if it cannot be read."""
    try:
        return core.get_property(device, name)
    except (RuntimeError, TypeError):  # not a property of this device, of a type that Python lacks, or no such device
        return None


def identify(core: ov.Core, device: str) -> dict[str, str]:
    """Return the properties that tell a device from others that may not run the same blob.

    The same in every process of one machine. A property that the device does not answer is left out. Those of a
    virtual device are its candidates' properties, as `CPU.<property>`.
    """
    if is_virtual(device):
        return {
            f"{name}.{key}": value
            for name in list_candidates(core, device)
            for key, value in identify(core, name).items()
        }
    names = (*_IDENTITY, *_IDENTITY_OF_KIND.get(get_kind(device), ()))
    answers = {name: read_property(core, device, name) for name in names}
    identity = {
        name: ",".join(sorted(map(str, value))) if isinstance(value, (list, tuple)) else str(value)
        for name, value in answers.items()
        if value is not None
    }
    if device == "CPU":
        # OpenVINO rejects a blob that was compiled for other instruction sets. It names them (RUNTIME_REQUIREMENTS)
        # only for a compiled model, and compiling one takes 20 ms and more.
        identity["INSTRUCTION_SETS"] = read_instruction_sets()
        identity |= {name: os.environ[name].upper() for name in _ISA_LIMITS if os.environ.get(name)}
    return identity


def read_instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the instruction sets of this CPU that decide what is compiled for it, sorted and joined by commas."""
    try:
        line = _FLAGS.search(cpuinfo.read_text(encoding="ascii", errors="replace"))
    except OSError:
        line = None
    found = {flag for flag in line[1].split() if _INSTRUCTION_SETS.fullmatch(flag)} if line else set()
    if not found:
        # Windows, macOS, and Linux on other processors. Coarse, but with the CPU's full name it is enough.
        import numpy as np

        found = set(np.show_config(mode="dicts")["SIMD Extensions"].get("found", ()))
    return ",".join(sorted(found))


def can_export(core: ov.Core, device: str) -> bool:
    """Tell whether models compiled for a device can be exported and imported."""
    kind = get_kind(device)
    if kind in {"AUTO", "MULTI", "BATCH"}:
        return False
    parts = [kind, *named_devices(device)] if kind == "HETERO" else [device]
    return all("EXPORT_IMPORT" in (read_property(core, name, "OPTIMIZATION_CAPABILITIES") or ()) for name in parts)


def name_precision(value: Any) -> str | None:
    """Return OpenVINO's short name of a precision; None for None."""
    if value is None:
        return None
    return str(value.get_type_name()) if hasattr(value, "get_type_name") else str(value)


def format_compiler_version(value: Any) -> str | None:
    """Format a compiler's version; OpenVINO gives the NPU's as one integer with the major number in the upper half.

    >>> format_compiler_version(8 << 16 | 4)
    '8.4'
    """
    return f"{value >> 16}.{value & 0xFFFF}" if isinstance(value, int) else None if value is None else str(value)


def _parts(device: str) -> list[str]:
    parts = (part.strip().partition("(")[0] for part in device.partition(":")[2].split(","))
    return [part for part in parts if part]


def _matching(name: str, found: Sequence[str]) -> list[str]:
    """Return the found devices that a name stands for."""
    # A single GPU is listed as GPU and answers to GPU.0 too; of several, each is listed with its number.
    return [each for each in found if name in {each, get_kind(each)} or (name == f"{each}.0" and each != "CPU")]


def _preference(core: ov.Core, name: str) -> int:
    """Rank a device as AUTO does: discrete GPU, integrated GPU, anything else, CPU."""
    if get_kind(name) == "GPU":
        return 0 if "DISCRETE" in str(read_property(core, name, "DEVICE_TYPE")).upper() else 1
    return 3 if name == "CPU" else 2


def _is_known(core: ov.Core, name: str) -> bool:
    if not _NAME.fullmatch(name):
        return False
    if name in VIRTUAL or get_kind(name) in KINDS:
        return True
    try:
        return bool(core.get_versions(name))
    except RuntimeError:  # it has a plugin, but that does not load here
        return True


def _describe_unknown(core: ov.Core, device: str, name: str) -> str:
    import difflib

    found = core.available_devices
    close = difflib.get_close_matches(name.strip().upper(), dict.fromkeys([*found, *KINDS, *VIRTUAL]), n=1)
    meant = f"; did you mean {close[0]!r}?" if close else "."
    return (
        f"device {device!r}: OpenVINO has no device called {name!r}{meant} On this machine it has {', '.join(found)}."
    )
