"""Devices that are not there: told apart from graphs that do not compile.

The promise: the error says what was asked for, what was found, what is missing, and what to write instead.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.device.core import import_openvino
from npu_persist.device.names import VIRTUAL, candidates, head, is_available, is_virtual, named_devices
from npu_persist.errors import CompilationError, DeviceNotFoundError, UsageError

if TYPE_CHECKING:
    import openvino as ov

KINDS = ("CPU", "GPU", "NPU")
"""Kinds of devices that OpenVINO has for Intel's hardware, here or not."""

_NO_COMPILER = "compiler loading failed"
"""What OpenVINO's NPU plugin says where it finds no compiler."""

_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
_COUNTED = re.compile(r"[^()]*(\([1-9][0-9]{0,5}\))?")
"""A device with the number of requests or the batch size in brackets."""


def check_device(core: ov.Core, device: str) -> None:
    """Refuse a device string that means nothing on any machine.

    AUTO passes over a name that it does not know in silence, and runs on whatever else is named.

    Raises:
        DeviceNotFoundError: A name in it is no device of this OpenVINO.
        UsageError: What is in brackets is no number.
    """
    first, _, rest = device.partition(":")
    names = [first if first in VIRTUAL else device]
    if is_virtual(device):
        names += [name.removeprefix("-") for name in rest.split(",") if name]
    for name in names:
        bare = name.partition("(")[0]
        if not _is_known(core, bare):
            raise DeviceNotFoundError(_say_unknown(core, device, bare))
        if not _COUNTED.fullmatch(name):
            raise UsageError(f"device {device!r}: expected a number from 1 on in brackets, as in CPU(4); got {name!r}")


def explain_missing(core: ov.Core, device: str, error: Exception) -> DeviceNotFoundError | CompilationError | None:
    """Return the error to raise if a compilation failed because a device, or its compiler, is not there; else None.

    Args:
        core: The core that could not compile.
        device: The device string that was asked for.
        error: What OpenVINO said.

    """
    # Not needed by a load that succeeds.
    from npu_persist.device.advice import advise, say_missing
    from npu_persist.device.host import look_for

    found, named = core.available_devices, named_devices(device)
    missing = [name for name in named if not is_available(name, found)]
    if missing:
        kind = head(missing[0])
        text = f"device {device!r}: OpenVINO has no {missing[0]} on this machine, only {', '.join(found)}."
        if not _is_known(core, missing[0]):
            text = _say_unknown(core, device, missing[0])
        elif kind in KINDS and not any(head(name) == kind for name in found):
            text += " " + say_missing(sys.platform, kind, look_for(kind, find_libraries()))
        text += _say_instead(device, missing, found)
    elif is_virtual(device) and not candidates(core, device):
        text = f"device {device!r} names no device that is on this machine; it has {', '.join(found)}."
        text += f" Write for instance device={head(device) + ':' + found[0]!r}."
    elif _NO_COMPILER in str(error):
        advice = advise(sys.platform, "NPU", "compiler")
        text = f"device {device!r}: the NPU is here, but no compiler for it. {advice}"
        return CompilationError(f"{text} OpenVINO said: {error}")
    else:
        return None
    return DeviceNotFoundError(f"{text} OpenVINO said: {error}")


def find_libraries() -> Path:
    """Return the folder in which pip's OpenVINO has its libraries; another OpenVINO does not have it."""
    return Path(import_openvino().__file__).parent / "libs"


def _is_known(core: ov.Core, name: str) -> bool:
    """Tell whether a name is that of a device, here or not."""
    if not _NAME.fullmatch(name):
        return False
    if name in VIRTUAL or head(name) in KINDS:
        return True
    try:
        return bool(core.get_versions(name))
    except RuntimeError:  # it has a plugin, which does not load here
        return True


def _say_unknown(core: ov.Core, device: str, name: str) -> str:
    import difflib

    found = core.available_devices
    close = difflib.get_close_matches(name.strip().upper(), dict.fromkeys([*found, *KINDS, *VIRTUAL]), n=1)
    asked = f"; did you mean {close[0]!r}?" if close else "."
    return (
        f"device {device!r}: OpenVINO has no device called {name!r}{asked} On this machine it has {', '.join(found)}."
    )


def _say_instead(device: str, missing: list[str], found: list[str]) -> str:
    if is_virtual(device):
        there = [name for name in named_devices(device) if name not in missing] or found[:1]
        return f" Or write device={head(device) + ':' + ','.join(there)!r}."
    text = f" Or write device={found[0]!r}."
    if device in KINDS:
        text = f"{text[:-1]}, or device='AUTO:{device},{found[0]}', which takes the {found[0]} where no {device} is."
    return text
