"""Properties for a compilation: what OpenVINO leaves unsaid about them.

The promise: a misspelt name is refused before anything is compiled, and by the devices made of others too, which pass
over it in silence. A name that is unlike any known one passes: a device takes more than it lists. If a compilation
failed because of a property, it is told which.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import BuiltinFunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from npu_persist.device.core import import_openvino
from npu_persist.device.names import OF_THE_CORE, ask, candidates, head, named_devices
from npu_persist.errors import PropertyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openvino as ov

HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
"""Values of OpenVINO's PERFORMANCE_HINT."""

_SIMILAR = 0.85
"""How alike, from 0 to 1, an unknown property must be to a known one to be taken for a slip of it."""


def merge_hint(properties: Mapping[str, Any], hint: str | None) -> dict[str, Any]:
    """Return the properties with `hint` as their PERFORMANCE_HINT.

    Raises:
        UsageError: OpenVINO has no such hint, or the properties have one already.

    """
    if hint is None:
        return dict(properties)
    if hint not in HINTS:
        raise UsageError(f"hint: expected one of {', '.join(HINTS)}, or None; got {hint!r}")
    if "PERFORMANCE_HINT" in properties:
        raise UsageError(
            f"hint={hint!r} and config's PERFORMANCE_HINT={properties['PERFORMANCE_HINT']!r} say the same thing twice. "
            "Give one of them."
        )
    return {**properties, "PERFORMANCE_HINT": hint}


def check_properties(core: ov.Core, device: str, properties: Mapping[str, Any]) -> None:
    """Refuse what looks like a slip of a known property's name.

    Raises:
        PropertyError: A name that no device knows is almost that of one that a device knows.

    """
    for name, of_one in _by_device(properties).items():
        check_properties(core, name, of_one)
    listed = _listed_names(core, device) if properties else set()
    unlisted = [key for key in properties if key not in listed]
    if not unlisted:
        return
    import difflib

    # Devices that are not here have names too, and a list without a device lacks some.
    known = listed.union(OF_THE_CORE, _documented_names())
    for key in unlisted:
        close = difflib.get_close_matches(key.upper(), known, n=1, cutoff=_SIMILAR)
        if key not in known and close:
            raise PropertyError(f"{device} has no property {key!r}; did you mean {close[0]!r}?")


def explain_refused(
    core: ov.Core, device: str, properties: Mapping[str, Any], error: Exception
) -> PropertyError | None:
    """Return the error to raise if a compilation failed because of one of its properties; None if of something else.

    Each property is given to the devices of a second core, which checks names and values without compiling.

    Args:
        core: The core that could not compile.
        device: The device string that was asked for.
        properties: What it was asked with.
        error: What OpenVINO said.

    """
    trial = import_openvino().Core()
    for name in dict.fromkeys((head(device), *candidates(core, device))):
        ask(trial, name, "SUPPORTED_PROPERTIES")  # before its plugin is there, everything is taken
        for key, value in properties.items():
            try:
                trial.set_property(name, {key: value})
            except (RuntimeError, TypeError) as refusal:
                reason = _last_line(refusal)
                # What is for a compilation only is refused here too, and so is all by a device that has no compiler.
                if reason in str(error) and (key in reason or str(value) in reason):
                    return PropertyError(f"{device} refuses the property {key!r} with the value {value!r}: {reason}")
    of_devices = _by_device(properties).items()
    return next(filter(None, (explain_refused(core, name, of_one, error) for name, of_one in of_devices)), None)


def _by_device(properties: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the properties that AUTO and its like are given for one device each."""
    nested = properties.get("DEVICE_PROPERTIES")
    if not isinstance(nested, Mapping):
        return {}
    return {str(name): of_one for name, of_one in nested.items() if isinstance(of_one, Mapping)}


def _listed_names(core: ov.Core, device: str) -> set[str]:
    names: set[str] = set()
    for name in dict.fromkeys((head(device), *named_devices(device), *candidates(core, device))):
        names.update(ask(core, name, "SUPPORTED_PROPERTIES") or ())
    return names


def _documented_names(module: Any = None) -> Iterator[str]:
    """Return the names of all properties that OpenVINO's Python package has a function for, whatever the device."""
    # The public openvino.properties makes them on demand, and has no list of them.
    module = import_openvino()._pyopenvino.properties if module is None else module  # noqa: SLF001
    for value in vars(module).values():
        if isinstance(value, ModuleType):
            yield from _documented_names(value)
        elif isinstance(value, BuiltinFunctionType):
            try:
                yield str(value())
            except TypeError:  # one that makes a property of arguments
                continue


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2].strip()
