"""Somebody publishes a bundle with a layer that lacks inputs.

Attack: the edges into a layer are taken away; or its ports too, so that it looks complete.

Before: SIGSEGV in OpenVINO's shape inference, of MaxPool among others. Now a layer has the ports of its operation, and
one edge into each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import attack, find_layer
from tests.support.operations import make_operation

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from pathlib import Path


@pytest.mark.parametrize("name", ["max_pool-8", "max_pool-14", "avg_pool-14", "relu", "concat", "softmax", "lstm_cell"])
@pytest.mark.parametrize("ports", ["keep", "drop"])
def test_a_layer_has_its_inputs(tmp_path: Path, name: str, ports: str) -> None:
    inputs, node = make_operation(name)
    first = node[0] if isinstance(node, list) else node.output(0)
    kind = {"Relu": "ReLU", "Softmax": "SoftMax"}.get(
        first.get_node().get_type_name(), first.get_node().get_type_name()
    )

    def change(root: ET.Element) -> None:
        layer, edges = find_layer(root, kind), root.find("edges")
        assert edges is not None
        for edge in [edge for edge in edges if edge.get("to-layer") == layer.get("id")]:
            edges.remove(edge)
        if ports == "drop":
            found = layer.find("input")
            assert found is not None
            layer.remove(found)

    error = attack(tmp_path, inputs, node, change)
    assert error.startswith("GraphIntegrityError: "), error
    assert ("one edge into each input" if ports == "keep" else "inputs and") in error
