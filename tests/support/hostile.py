"""Bundles whose graph somebody changed, with a manifest that agrees, loaded in a process of their own."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import openvino as ov
from openvino import opset13 as ops

from npu_persist.bundle.graph_records import Port
from tests.support.graphs import XML, write_graph, write_manifest
from tests.support.processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOAD = """
import sys
import numpy as np
import npu_persist
from npu_persist.errors import NpuPersistError
try:
    model = npu_persist.load(sys.argv[1], device="CPU")
    for _ in range(3):
        model(*[np.zeros(port.shape, port.dtype) for port in model.inputs])
    model.close()
except NpuPersistError as error:
    print(f"{type(error).__name__}: {error}")
else:
    print("loaded")
"""


def write_changed(folder: Path, inputs: list[Any], node: Any, change: Callable[[ET.Element], None]) -> Path:
    """Write a bundle whose graph is `node` of `inputs`, changed, with digests that are right."""
    folder.mkdir(exist_ok=True)
    outputs = node if isinstance(node, list) else [node]
    results = [ops.result(output) for output in outputs]
    for number, result in enumerate(results):
        result.set_friendly_name(f"y{number}")
    parameters = [found for found in inputs if found.get_type_name() == "Parameter"]
    sinks = [found for found in inputs if found.get_type_name() == "Assign"]
    model = ov.Model(results, sinks, parameters, "main")
    manifest = write_graph(folder, model, [*map(_port, parameters)], [*map(_port, results)])
    tree = ET.parse(folder / XML)  # noqa: S314 - written a moment ago
    change(tree.getroot())
    tree.write(folder / XML, encoding="utf-8", xml_declaration=True)
    write_manifest(folder, manifest.graphs[0], manifest.weights)
    return folder


def load_hostile(folder: Path) -> str:
    """Load and call a bundle in another process, which must survive, and return its error or `loaded`."""
    ran = run_python("-c", _LOAD, str(folder), env={"NPU_PERSIST_HOME": str(folder.with_name("home"))})
    assert ran.returncode == 0, f"the process died: {ran.returncode}: {ran.stderr[-500:]}"
    return ran.stdout.strip()


def attack(folder: Path, inputs: list[Any], node: Any, change: Callable[[ET.Element], None]) -> str:
    """Write a changed bundle and load it."""
    return load_hostile(write_changed(folder / "bundle", inputs, node, change))


def find_layer(root: ET.Element, kind: str) -> ET.Element:
    """Return the first layer of a type."""
    return next(layer for layer in root.iter("layer") if layer.get("type") == kind)


def find_data(root: ET.Element, kind: str) -> ET.Element:
    """Return the attributes of the first layer of a type."""
    data = find_layer(root, kind).find("data")
    assert data is not None
    return data


def _port(node: Any) -> Port:
    name = node.get_friendly_name()
    value = node.output(0) if node.get_type_name() == "Parameter" else node.input_value(0)
    kind = value.get_element_type().to_dtype().name
    shape = value.get_partial_shape()
    return Port(name, kind, tuple(axis.get_length() for axis in shape))
