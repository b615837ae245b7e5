"""Where a compiled model runs, as OpenVINO says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov


def executing_devices(model: ov.CompiledModel) -> tuple[str, ...]:
    """Return the devices that execute a compiled model now; empty where OpenVINO does not say.

    AUTO answers with the CPU for as long as the device that it prefers still compiles.
    """
    return tuple(name.strip("()") for name in _ask(model))


def is_settled(model: ov.CompiledModel) -> bool:
    """Tell whether a compiled model stays where it runs now: AUTO writes a device that it will leave as `(CPU)`."""
    return not any(name.startswith("(") for name in _ask(model))


def is_from_cache(model: ov.CompiledModel) -> bool:
    """Tell whether OpenVINO took a compiled model from its own cache, the CACHE_DIR."""
    try:
        return bool(model.get_property("LOADED_FROM_CACHE"))
    except RuntimeError:  # not a property of this device
        return False


def _ask(model: ov.CompiledModel) -> list[str]:
    try:
        found = model.get_property("EXECUTION_DEVICES")
    except RuntimeError:  # not a property of this device
        return []
    return found.split() if isinstance(found, str) else [str(name) for name in found]
