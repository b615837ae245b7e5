"""What a device is, as far as it decides whether a compiled blob runs on it.

The promise: cheap, the same in every process of one machine, and never an error: a property that a device does not
answer is absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.device.names import candidates, head, is_virtual

if TYPE_CHECKING:
    import openvino as ov

_ASKED = (
    "FULL_DEVICE_NAME",
    "DEVICE_ARCHITECTURE",
    "OPTIMIZATION_CAPABILITIES",
    "NPU_DRIVER_VERSION",
    "NPU_COMPILER_VERSION",
    "GPU_DRIVER_VERSION",
)


def identify(core: ov.Core, device: str) -> dict[str, str]:
    """Return what distinguishes a device from others for a compiled blob.

    Args:
        core: the core.
        device: a device string; of one made of others, each candidate's properties are returned as `CPU.<property>`.

    """
    if is_virtual(device):
        return {
            f"{name}.{key}": value for name in candidates(core, device) for key, value in identify(core, name).items()
        }
    answers = {name: ask(core, device, name) for name in _ASKED}
    return {name: _text(value) for name, value in answers.items() if value is not None}


def can_export(core: ov.Core, device: str) -> bool:
    """Tell whether what is compiled for a device can be exported and imported."""
    if head(device) in {"AUTO", "MULTI", "BATCH"}:
        return False
    return "EXPORT_IMPORT" in (ask(core, head(device), "OPTIMIZATION_CAPABILITIES") or ())


def ask(core: ov.Core, device: str, name: str) -> Any:
    """Return a property of a device; None if it does not answer."""
    try:
        return core.get_property(device, name)
    except RuntimeError:  # not a property of this device, or the device is not there
        return None


def _text(value: Any) -> str:
    return ",".join(sorted(map(str, value))) if isinstance(value, (list, tuple)) else str(value)
