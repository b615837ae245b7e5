"""Layers are named by module and kind, and by no counter."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import torch

import npu_persist
from npu_persist.conversion.rewrites.layer_names import name_layers


def test_names_hold_no_counter_of_the_process() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.LayerNorm(8))
    bundle = npu_persist.persist(module, "mixed", (torch.randn(2, 8),))
    root = ET.parse(bundle.path / "model.xml").getroot()  # noqa: S314 - our own file
    names = [layer.get("name", "") for layer in root.iter("layer")]
    assert len(set(names)) == len(names)
    assert not [name for name in names if re.search(r"_\d{2,}$|__module|#", name)]
    assert any(name.startswith("1/") for name in names), "layers carry the path of their module"


def test_equal_names_are_numbered_and_inputs_keep_theirs() -> None:
    layers = [("x_12", "Parameter"), ("Add_17", "Add"), ("__module.module.head/aten::add/Add_3", "Add")]
    root = ET.Element("net")
    scope = ET.SubElement(root, "layers")
    for name, kind in [*layers, ("Add_99", "Add")]:
        ET.SubElement(scope, "layer", name=name, type=kind)
    name_layers(root)
    assert [layer.get("name") for layer in scope] == ["x_12", "Add", "head/aten::add/Add", "Add:2"]
