"""Only inputs and outputs keep their tensors' names."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from npu_persist.conversion.rewrites.tensor_names import strip_tensor_names

NET = """<net><layers>
    <layer id="0" type="Parameter"><output><port id="0" names="x"/></output></layer>
    <layer id="1" type="Relu"><output><port id="1" names="12"/></output></layer>
    <layer id="2" type="Relu"><output><port id="1" names="y"/></output></layer>
    <layer id="3" type="Result"/>
</layers><edges>
    <edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
    <edge from-layer="1" from-port="1" to-layer="2" to-port="0"/>
    <edge from-layer="2" from-port="1" to-layer="3" to-port="0"/>
</edges></net>"""


def test_names_of_inner_tensors_and_indentation_go() -> None:
    root = ET.fromstring(NET)  # noqa: S314 - it stands above
    strip_tensor_names(root)
    assert [port.get("names") for port in root.iter("port")] == ["x", None, "y"]
    assert b"\n" not in ET.tostring(root)
