"""Drop the tracer's names of inner tensors, which hold its counters, and indentation, a tenth of a large file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET


def strip_tensor_names(root: ET.Element) -> None:
    """Keep the names of inputs and outputs only."""
    results = {layer.get("id") for layer in root.iterfind("layers/layer") if layer.get("type") == "Result"}
    kept = {
        (edge.get("from-layer"), edge.get("from-port"))
        for edge in root.iterfind("edges/edge")
        if edge.get("to-layer") in results
    }
    top = set(root.iterfind("layers/layer"))
    for layer in root.iter("layer"):
        if layer.get("type") == "Parameter":
            continue
        for port in layer.iterfind("output/port"):
            if layer not in top or (layer.get("id"), port.get("id")) not in kept:
                port.attrib.pop("names", None)
    for element in root.iter():
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
