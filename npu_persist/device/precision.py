"""Which precision devices compute in, and the properties that ask for float32.

OpenVINO's INFERENCE_PRECISION_HINT is what a device may compute in, whatever the graph says. By default it is the
fastest that there is: bf16 on a CPU with instructions for that, f16 on GPUs and NPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npu_persist.device.devices import PRECISION, get_kind, is_virtual, list_candidates, read_property

if TYPE_CHECKING:
    import openvino as ov

FULL = "f32"
"""float32, as OpenVINO calls it."""

_DECIDES = frozenset({PRECISION, "EXECUTION_MODE_HINT"})
"""Properties that decide on the precision; a caller's own value is not overruled."""

_BY_DEVICE = "DEVICE_PROPERTIES"


CACHE_PRECISION = "KV_CACHE_PRECISION"
"""What a device keeps the keys and values of a decoder in; by default CPUs take 8 bits."""


def has_f32(core: ov.Core, device: str) -> bool:
    """Tell whether a real device computes in float32 if it is asked to; an NPU does not."""
    return "FP32" in (read_property(core, device, "OPTIMIZATION_CAPABILITIES") or ()) and PRECISION in (
        read_property(core, device, "SUPPORTED_PROPERTIES") or ()
    )


def is_decided(properties: object) -> bool:
    """Tell whether a caller's properties for a device decide on the precision."""
    return isinstance(properties, Mapping) and bool(_DECIDES & properties.keys())


def list_without_f32(core: ov.Core, device: str) -> list[str]:
    """Return the real devices, of those that a device string may run on here, that have no float32."""
    return [name for name in list_candidates(core, device) if not has_f32(core, name)]


def ask_for_f32(core: ov.Core, device: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties, with float32 asked for on each device that has it and where they leave it open."""
    given = dict(properties)
    by_device = given.get(_BY_DEVICE, {})
    if is_decided(given) or not isinstance(by_device, Mapping):
        return given
    candidates = list_candidates(core, device)
    asked = [
        name
        for name in candidates
        if has_f32(core, name) and not any(is_decided(by_device.get(each)) for each in (name, get_kind(name)))
    ]
    if not asked:
        return given
    if not is_virtual(device) or get_kind(device) == "BATCH" or (asked == candidates and not by_device):
        return {**given, PRECISION: FULL}  # AUTO, MULTI and HETERO pass it on to each of their devices
    more = {name: {**by_device.get(name, {}), PRECISION: FULL} for name in asked}
    return {**given, _BY_DEVICE: {**by_device, **more}}


def ask_for_exact_cache(core: ov.Core, device: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties, with keys and values in float32 where the device has that and they leave it open."""
    given = dict(properties)
    if CACHE_PRECISION in given or CACHE_PRECISION not in (read_property(core, device, "SUPPORTED_PROPERTIES") or ()):
        return given
    return {**given, CACHE_PRECISION: FULL}
