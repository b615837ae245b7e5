"""Devices that are not there: told apart from graphs that do not compile.

The promise: the error says what was asked for, what was found, what is missing, and what to write instead.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from npu_persist.device.names import VIRTUAL, is_available, named_devices
from npu_persist.errors import DeviceNotFoundError

if TYPE_CHECKING:
    import openvino as ov

_KINDS = ("CPU", "GPU", "NPU")


def check_device(core: ov.Core, device: str) -> None:
    """Refuse a device string with a name that this OpenVINO has no plugin for, on any machine.

    AUTO and MULTI pass over such a name in silence, and run on whatever else is named.

    Raises:
        DeviceNotFoundError: a name in it is no device of this OpenVINO.

    """
    for name in (device.partition(":")[0], *named_devices(device)):
        if not _is_registered(core, name):
            known = [*_KINDS, *core.available_devices, *VIRTUAL]
            close = difflib.get_close_matches(name.strip().upper(), known, n=1)
            raise DeviceNotFoundError(
                f"device {device!r}: OpenVINO has no device called {name!r}"
                + (f"; did you mean {close[0]!r}? " if close else ". ")
                + f"On this machine it found {', '.join(core.available_devices)}."
            )


def _is_registered(core: ov.Core, name: str) -> bool:
    try:
        return bool(core.get_versions(name))
    except RuntimeError:  # it has a plugin, which does not load here
        return True


def explain_missing(core: ov.Core, device: str, error: Exception) -> DeviceNotFoundError | None:
    """Return the error to raise if a compilation failed because a device is not there; None if it is there.

    Args:
        core: the core that could not compile.
        device: the device string that was asked for.
        error: what OpenVINO said.

    """
    found = core.available_devices
    missing = [name for name in named_devices(device) if not is_available(name, found)]
    if not missing:
        return None
    return DeviceNotFoundError(
        f"device {device!r}: OpenVINO has no {missing[0] or 'device without a name'} on this machine, only "
        f"{', '.join(found)}. Install the driver for it, or load with one of these, for instance device={found[0]!r}. "
        f"OpenVINO said: {error}"
    )
