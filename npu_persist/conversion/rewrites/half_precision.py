"""Keep float32 the constants that half precision would ruin, after OpenVINO has halved them all.

Half precision ruins frequencies of rotary embeddings at positions that no example reaches, and turns weights beyond
65504 into 65504. So vectors (frequencies, biases, scales: a thousandth of a model's size) and constants with such
values stay float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Mapping

COMPRESSED = "_compressed"
"""What OpenVINO appends to the name of a constant that it has halved."""
_LARGEST = float(np.finfo(np.float16).max)


def find_exact(model: ov.Model) -> dict[str, np.ndarray[Any, Any]]:
    """Return the float32 constants to keep, by name."""
    exact = {}
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "Constant" and operation.get_element_type() == ov.Type.f32:
            values = operation.data
            if values.size and (values.size == max(values.shape, default=1) or _is_beyond_half(values)):
                exact[operation.get_friendly_name()] = values
    return exact


def _is_beyond_half(values: np.ndarray[Any, Any]) -> bool:
    """Return whether a finite value would become infinite or be clipped; two passes, for a copy could be gigabytes."""
    return bool(values.max() > _LARGEST or values.min() < -_LARGEST)


def restore_exact(root: ET.Element, exact: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Make the halved layers of these constants float32 again, and the conversions behind them do nothing."""
    for scope in root.iter():
        layers, edges = scope.find("layers"), scope.find("edges")
        if layers is None or edges is None:
            continue
        restored = {layer.get("id"): layer for layer in layers if _was_halved(layer, exact)}
        users = {edge.get("to-layer") for edge in edges if edge.get("from-layer") in restored}
        for layer in restored.values():
            for data in layer.iterfind("data"):
                data.set("element_type", "f32")
            for port in layer.iterfind("output/port"):
                port.set("precision", "FP32")
        for layer in layers:
            if layer.get("id") in users and layer.get("type") == "Convert":
                for port in layer.iterfind("input/port"):
                    port.set("precision", "FP32")
                for mark in layer.findall("rt_info"):
                    layer.remove(mark)


def _was_halved(layer: ET.Element, exact: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    name = layer.get("name") or ""
    return layer.get("type") == "Const" and name.endswith(COMPRESSED) and name.removesuffix(COMPRESSED) in exact
