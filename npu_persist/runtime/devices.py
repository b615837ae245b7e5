"""Device strings and properties: what OpenVINO leaves unsaid about them.

The promise: a device that is not there is told apart from a graph that does not compile, and a misspelt property is
refused by the devices made of others too, which pass over it in silence.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from npu_persist.errors import CompilationError, DeviceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import openvino as ov

_VIRTUAL = frozenset({"AUTO", "HETERO", "MULTI", "BATCH"})
"""OpenVINO's devices that are made of others, named after a colon."""

_SIMILAR = 0.85
"""How alike, from 0 to 1, an unknown property must be to a known one to be taken for a slip of it."""


def missing_device(core: ov.Core, device: str, error: Exception) -> DeviceNotFoundError | None:
    """Return the error to raise if a compilation failed because a device is not there; None if it is there.

    Args:
        core: the core that could not compile.
        device: the device string that was asked for.
        error: what OpenVINO said.

    """
    found = core.available_devices
    missing = [name for name in named_devices(device) if not _is_available(name, found)]
    if not missing:
        return None
    return DeviceNotFoundError(
        f"device {device!r}: OpenVINO has no {missing[0] or 'device without a name'} on this machine, only "
        f"{', '.join(found)}. Install the driver for it, or load with one of these, for instance device={found[0]!r}. "
        f"OpenVINO said: {error}"
    )


def named_devices(device: str) -> list[str]:
    """Return the real devices that a device string asks for.

    >>> named_devices("AUTO:NPU,-GPU,CPU"), named_devices("AUTO"), named_devices("GPU.1")
    (['NPU', 'CPU'], [], ['GPU.1'])
    """
    head, _, rest = device.partition(":")
    if head not in _VIRTUAL:
        return [device]
    parts = [part.strip().split("(", maxsplit=1)[0] for part in rest.split(",")]
    return [part for part in parts if part and not part.startswith("-")]


def _is_available(name: str, found: list[str]) -> bool:
    # The only GPU is listed as GPU, and answers to GPU.0 too; of several each is listed with its number.
    return any(name in {listed, f"{listed}.0", listed.split(".", maxsplit=1)[0]} for listed in found)


def check_properties(core: ov.Core, device: str, properties: Mapping[str, Any]) -> None:
    """Refuse what looks like a slip of a known property's name, where OpenVINO would not.

    Properties that are unlike any known one pass: a device lists fewer than it takes.

    Raises:
        CompilationError: a name that no device knows is almost that of one that a device knows.

    """
    head = device.partition(":")[0]
    if head not in _VIRTUAL or not properties:
        return
    known: set[str] = set()
    for name in (head, *core.available_devices):
        known.update(core.get_property(name, "SUPPORTED_PROPERTIES"))
    for key in properties:
        close = difflib.get_close_matches(key, known - {key}, n=1, cutoff=_SIMILAR)
        if key not in known and close:
            raise CompilationError(f"{device} has no property {key!r}; did you mean {close[0]!r}?")
