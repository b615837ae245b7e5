"""OpenVINO's properties for a compilation, checked before it and explained after it failed.

A name that resembles a known one is rejected as a misspelling, also for virtual devices, which ignore it silently. Any
other unknown name passes, because devices take more properties than they list.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import BuiltinFunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from npu_persist.device.core import import_openvino
from npu_persist.device.devices import CORE_PROPERTIES, get_kind, list_candidates, named_devices, read_property
from npu_persist.errors import PropertyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openvino as ov

HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
"""Values of OpenVINO's PERFORMANCE_HINT."""

_SIMILAR = 0.85
"""Similarity, from 0 to 1, from which on an unknown property is taken for a misspelling of a known one."""


def merge_hint(properties: Mapping[str, Any], hint: str | None) -> dict[str, Any]:
    """Return the properties with `hint` as their PERFORMANCE_HINT; UsageError if it is not a hint or given twice."""
    if hint is None:
        return dict(properties)
    if hint not in HINTS:
        raise UsageError(f"hint: expected one of {', '.join(HINTS)}, or None; got {hint!r}")
    if "PERFORMANCE_HINT" in properties:
        raise UsageError(
            f"hint={hint!r} and config's PERFORMANCE_HINT={properties['PERFORMANCE_HINT']!r} set the same "
            "property. Give one of them."
        )
    return {**properties, "PERFORMANCE_HINT": hint}


def check_properties(core: ov.Core, device: str, properties: Mapping[str, Any]) -> None:
    """Raise PropertyError for a name that looks like a misspelling of a known property."""
    for name, of_one in _by_device(properties).items():
        check_properties(core, name, of_one)
    listed = _listed_names(core, device) if properties else set()
    unlisted = [key for key in properties if key not in listed]
    if not unlisted:
        return
    import difflib

    # The list lacks the properties of devices that are not here.
    known = listed.union(CORE_PROPERTIES, _documented_names())
    for key in unlisted:
        close = difflib.get_close_matches(key.upper(), known, n=1, cutoff=_SIMILAR)
        if key not in known and close:
            raise PropertyError(f"{device} has no property {key!r}; did you mean {close[0]!r}?")


def explain_rejected_property(
    core: ov.Core, device: str, properties: Mapping[str, Any], error: Exception
) -> PropertyError | None:
    """Return the PropertyError to raise if a compilation failed with `error` because of one of its properties.

    Each property is set on the devices of a second core, which checks names and values without compiling.
    """
    trial = import_openvino().Core()
    for name in dict.fromkeys((get_kind(device), *list_candidates(core, device))):
        read_property(trial, name, "SUPPORTED_PROPERTIES")  # loads the plugin: until then the core accepts anything
        for key, value in properties.items():
            try:
                trial.set_property(name, {key: value})
            except (RuntimeError, TypeError) as refusal:
                reason = _last_line(refusal)
                # Properties that are only for compilations are refused here too, and all are without a compiler.
                if reason in str(error) and (key in reason or str(value) in reason):
                    return PropertyError(f"{device} rejects the value {value!r} of the property {key!r}: {reason}")
    of_devices = _by_device(properties).items()
    return next(
        filter(None, (explain_rejected_property(core, name, of_one, error) for name, of_one in of_devices)), None
    )


def _by_device(properties: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the properties that a virtual device is given for each of its devices."""
    nested = properties.get("DEVICE_PROPERTIES")
    if not isinstance(nested, Mapping):
        return {}
    return {str(name): of_one for name, of_one in nested.items() if isinstance(of_one, Mapping)}


def _listed_names(core: ov.Core, device: str) -> set[str]:
    names: set[str] = set()
    for name in dict.fromkeys((get_kind(device), *named_devices(device), *list_candidates(core, device))):
        names.update(read_property(core, name, "SUPPORTED_PROPERTIES") or ())
    return names


def _documented_names(module: Any = None) -> Iterator[str]:
    """Return the names of all properties that OpenVINO's Python package has a function for."""
    # The public openvino.properties makes them on demand and cannot list them.
    module = import_openvino()._pyopenvino.properties if module is None else module  # noqa: SLF001
    for value in vars(module).values():
        if isinstance(value, ModuleType):
            yield from _documented_names(value)
        elif isinstance(value, BuiltinFunctionType):
            try:
                yield str(value())
            except TypeError:  # it takes arguments
                continue


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2].strip()
