"""Device strings: which real devices they mean, and in which order.

The promise: OpenVINO's own rules, without compiling anything. `AUTO` never means the NPU unless it is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import openvino as ov

VIRTUAL = ("AUTO", "HETERO", "MULTI", "BATCH")
"""OpenVINO's devices that are made of others, named after a colon."""

OF_THE_CORE = frozenset({"CACHE_DIR", "CACHE_MODE", "CACHE_BLOB_ID", "CACHE_ENCRYPTION_CALLBACKS", "ENABLE_MMAP"})
"""Properties that OpenVINO's core takes for every device, and no device lists."""


def head(device: str) -> str:
    """Return the plugin that a device string addresses.

    >>> head("AUTO:NPU,CPU"), head("GPU.1"), head("CPU")
    ('AUTO', 'GPU', 'CPU')
    """
    return device.partition(":")[0].partition(".")[0]


def is_virtual(device: str) -> bool:
    """Tell whether a device is made of others."""
    return device.partition(":")[0] in VIRTUAL


def named_devices(device: str) -> list[str]:
    """Return the real devices that a device string asks for.

    >>> named_devices("AUTO:NPU,-GPU,CPU"), named_devices("AUTO"), named_devices("GPU.1")
    (['NPU', 'CPU'], [], ['GPU.1'])
    """
    return [part for part in _parts(device) if not part.startswith("-")] if is_virtual(device) else [device]


def candidates(core: ov.Core, device: str) -> list[str]:
    """Return the real devices on which a model for `device` may run here, in OpenVINO's order of preference.

    `AUTO` and `MULTI` leave out what is named but not there; so does this, so that the list can be empty.
    """
    if not is_virtual(device):
        return [device]
    found = core.available_devices
    named = named_devices(device)
    if named:
        there = [real for name in named for real in _listed(name, found)]
        return list(dict.fromkeys(there))
    if head(device) != "AUTO":
        return []
    excluded = {real for part in _parts(device) for real in _listed(part.removeprefix("-"), found)}
    usable = [name for name in found if name not in excluded and head(name) != "NPU"]
    return sorted(usable, key=lambda name: _preference(core, name))


def settle(core: ov.Core, device: str, properties: Mapping[str, Any]) -> str:
    """Return the only device that `AUTO` could take here, if it answers to all of the properties; else `device`.

    A device alone can be cached exactly; AUTO leaves that to its devices. So `AUTO:NPU,CPU` is the CPU where there is
    no NPU, and whoever asks for it warns of that.
    """
    # The bracketed number of requests is for AUTO alone; and cumulative is what AUTO makes of several devices.
    cumulative = str(properties.get("PERFORMANCE_HINT")).endswith("CUMULATIVE_THROUGHPUT")
    if head(device) != "AUTO" or "(" in device or cumulative:
        return device
    usable = candidates(core, device)
    if len(usable) != 1:
        return device
    taken = {*(ask(core, usable[0], "SUPPORTED_PROPERTIES") or ()), *OF_THE_CORE}
    return usable[0] if taken.issuperset(properties) else device


def ask(core: ov.Core, device: str, name: str) -> Any:
    """Return a property of a device; None if it does not answer."""
    try:
        return core.get_property(device, name)
    except (RuntimeError, TypeError):  # none of this device's, or one that Python has no type for, or no such device
        return None


def is_available(name: str, found: Sequence[str]) -> bool:
    """Tell whether one of the devices that OpenVINO found answers to a name."""
    return bool(_listed(name, found))


def _parts(device: str) -> list[str]:
    parts = (part.strip().partition("(")[0] for part in device.partition(":")[2].split(","))
    return [part for part in parts if part]


def _listed(name: str, found: Sequence[str]) -> list[str]:
    """Return the found devices that answer to a name."""
    # The only GPU is listed as GPU, and answers to GPU.0 too; of several each is listed with its number.
    return [each for each in found if name in {each, head(each)} or (name == f"{each}.0" and each != "CPU")]


def _preference(core: ov.Core, name: str) -> int:
    """Rank a device as AUTO does: a GPU of its own, a GPU beside the CPU, any other, the CPU."""
    if head(name) == "GPU":
        return 0 if "DISCRETE" in str(ask(core, name, "DEVICE_TYPE")).upper() else 1
    return 3 if name == "CPU" else 2
