"""The devices of this machine, described.

The promise: what OpenVINO can use here, one entry each, and nothing that it cannot use.
"""

from __future__ import annotations

from dataclasses import dataclass

from npu_persist.device.core import get_core
from npu_persist.device.identity import can_export
from npu_persist.device.machine import read_compiler_version
from npu_persist.device.names import ask, head


@dataclass(frozen=True)
class Device:
    """One device that models can be loaded on.

    Attributes:
        name: What `load` takes: `CPU`, `GPU.1`, `NPU`.
        full_name: The maker's name of it.
        kind: `CPU`, `GPU` or `NPU`.
        architecture: OpenVINO's DEVICE_ARCHITECTURE; None where the device does not say.
        capabilities: OpenVINO's OPTIMIZATION_CAPABILITIES: `FP16`, `INT8`, `EXPORT_IMPORT`, ….
        driver: Version of its driver; None where there is none.
        compiler: Version of its compiler, where that is a part of its own.
        can_export: Whether what is compiled for it can be kept.
    """

    name: str
    full_name: str
    kind: str
    architecture: str | None
    capabilities: tuple[str, ...]
    driver: str | None
    compiler: str | None
    can_export: bool


def list_devices() -> tuple[Device, ...]:
    """Return the devices of this machine; at the front door `npu_persist.devices`.

    Example:
        >>> import npu_persist
        >>> "CPU" in {device.name for device in npu_persist.devices()}
        True

    """
    core = get_core()
    return tuple(
        Device(
            name=name,
            full_name=_text(ask(core, name, "FULL_DEVICE_NAME")) or name,
            kind=head(name),
            architecture=_text(ask(core, name, "DEVICE_ARCHITECTURE")),
            capabilities=tuple(ask(core, name, "OPTIMIZATION_CAPABILITIES") or ()),
            driver=_text(ask(core, name, f"{head(name)}_DRIVER_VERSION")),
            compiler=read_compiler_version(ask(core, name, f"{head(name)}_COMPILER_VERSION")),
            can_export=can_export(core, name),
        )
        for name in core.available_devices
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
