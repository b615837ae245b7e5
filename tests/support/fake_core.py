"""Cores of machines that are not here."""

from __future__ import annotations

from typing import Any


class FakeCore:
    """Another machine's core: its devices and what they answer."""

    def __init__(self, **devices: dict[str, Any]) -> None:
        self.devices = {name.replace("_", "."): answers for name, answers in devices.items()}

    @property
    def available_devices(self) -> list[str]:
        return sorted(self.devices)

    def get_property(self, device: str, name: str) -> Any:
        try:
            return self.devices[device][name]
        except KeyError as error:
            raise RuntimeError(f"{device} does not answer {name}") from error


LAPTOP = FakeCore(
    CPU={"SUPPORTED_PROPERTIES": {"PERFORMANCE_HINT": "RW"}},
    GPU_0={"DEVICE_TYPE": "Type.INTEGRATED"},
    GPU_1={"DEVICE_TYPE": "Type.DISCRETE"},
    NPU={"OPTIMIZATION_CAPABILITIES": ["FP16", "EXPORT_IMPORT"], "NPU_DRIVER_VERSION": 1688, "NPU_MAX_TILES": 4},
)
