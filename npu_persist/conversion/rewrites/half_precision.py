"""Keep float32 the constants that half precision would ruin, after OpenVINO has halved them all.

OpenVINO halves nothing in a graph with compressed weights: there the rest is halved here.

Half precision ruins frequencies of rotary embeddings at positions that no example reaches, and turns weights beyond
65504 into 65504. So vectors (frequencies, biases, scales: a thousandth of a model's size) and constants with such
values stay float32.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

if TYPE_CHECKING:
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


def halve(model: ov.Model, exact: Mapping[str, object]) -> None:
    """Store all float32 constants but those in `exact` as half precision, as OpenVINO would; then `mark_halved`."""
    for operation in model.get_ordered_ops():
        for body in BODIES.get(operation.get_type_name(), ()):
            halve(getattr(operation, body)(), exact)
        name = operation.get_friendly_name()
        if operation.get_type_name() != "Constant" or operation.get_element_type() != ov.Type.f32 or name in exact:
            continue
        users = operation.output(0).get_target_inputs()
        half = ops.constant(operation.data.astype(np.float16))
        half.set_friendly_name(f"{name}{COMPRESSED}")
        whole = ops.convert(half, ov.Type.f32)
        for user in users:
            user.replace_source_output(whole.output(0))


BODIES = {"If": ("get_then_body", "get_else_body"), "Loop": ("get_function",), "TensorIterator": ("get_function",)}


def mark_halved(root: ET.Element) -> None:
    """Mark the conversions of half-precision constants to float32, so that plugins keep the constants as they are."""
    for scope in root.iter():
        layers, edges = scope.find("layers"), scope.find("edges")
        if layers is None or edges is None:
            continue
        halved = {layer.get("id") for layer in layers if _is_half(layer)}
        users = {edge.get("to-layer") for edge in edges if edge.get("from-layer") in halved}
        for layer in layers:
            if layer.get("id") in users and layer.get("type") == "Convert" and layer.find("rt_info") is None:
                info = ET.Element("rt_info")
                ET.SubElement(info, "attribute", {"name": "decompression", "version": "0"})
                layer.insert(1, info)


def _is_half(layer: ET.Element) -> bool:
    data = layer.find("data")
    return layer.get("type") == "Const" and data is not None and data.get("element_type") in {"f16", "bf16"}


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
