from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import openvino as ov
import pytest
from openvino import opset13 as ops

from npu_persist.bundle.graph import check_graph
from npu_persist.bundle.graph.operations import find_operation, known_operations
from npu_persist.bundle.graph.reader import MAX_BODIES, MAX_RANK, MAX_TEXT
from npu_persist.bundle.weights import lay_out, read_header, write
from npu_persist.errors import GraphIntegrityError
from tests.support.graphs import write_graph
from tests.support.mutations import layers_of
from tests.support.operations import make_operations

GOOD = 'element_type="f32" shape="3, 2" offset="4104" size="24"'
PORT = '<output><port id="0" precision="FP32"/></output>'
RELU = (
    '<layer id="{0}" name="relu" type="ReLU" version="opset1"><input><port id="0" precision="FP32"/></input>'
    '<output><port id="1" precision="FP32"/></output></layer>'
)


def const(data: str, position: int = 0) -> str:
    return f'<layer id="{position}" name="c{position}" type="Const" version="opset1"><data {data}/>{PORT}</layer>'


def net(*layers: str, edges: str = "", before: str = "", after: str = "") -> str:
    """Return the text of an IR with these layers, or constants with these attributes."""
    text = "".join(layer if layer.startswith("<") else const(layer, position) for position, layer in enumerate(layers))
    return (
        f'<?xml version="1.0"?>{before}<net name="main" version="11"><layers>{text}</layers><edges>{edges}</edges>'
        f"{after}</net>"
    )


def edge(source: int, begin: int, target: int, end: int) -> str:
    return f'<edge from-layer="{source}" from-port="{begin}" to-layer="{target}" to-port="{end}"/>'


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file: an i64 at byte 4096, six f32 at 4104, three f16 at 4128, one flag at 4134."""
    path = tmp_path / "weights.safetensors"
    header, _ = lay_out(
        {"a": ("I64", (1,), 8), "b": ("F32", (3, 2), 24), "c": ("F16", (3,), 6), "d": ("BOOL", (), 1)}, {}
    )
    write(path, header, [bytes(39)], lambda _: None)
    return path


def scan(weights: Path, text: str | bytes) -> Any:
    graph = weights.with_name("model.xml")
    graph.write_bytes(text if isinstance(text, bytes) else text.encode())
    return check_graph(graph, weights)


def refuse(weights: Path, text: str | bytes, reason: str) -> None:
    with pytest.raises(GraphIntegrityError, match=reason) as caught:
        scan(weights, text)
    assert "model.xml" in str(caught.value)


class TestConstants:
    @pytest.mark.parametrize(
        "constant",
        [
            GOOD,
            'element_type="i64" shape="" offset="4096" size="8"',
            'element_type="f16" shape="3" offset="4128" size="6"',
            'element_type="boolean" shape="1" offset="4134" size="1"',
            'element_type="u4" shape="3" offset="4133" size="2"',
            'element_type="f32" shape="0,7" offset="4104" size="0"',
            'element_type="u8" shape="0" offset="4135" size="0"',
        ],
    )
    def test_a_constant_inside_of_the_data_passes(self, weights: Path, constant: str) -> None:
        assert scan(weights, net(constant)) == read_header(weights)

    @pytest.mark.parametrize(
        ("constant", "reason"),
        [
            ('element_type="f32" shape="2" offset="4092" size="8"', "between byte 4096 and byte 4135"),
            ('element_type="u8" shape="8" offset="0" size="8"', "got 8 bytes at 0"),
            ('element_type="u8" shape="1" offset="4135" size="1"', "got 1 bytes at 4135"),
            ('element_type="u8" shape="40" offset="4096" size="40"', "got 40 bytes at 4096"),
            ('element_type="u8" shape="1" offset="999999999999999999" size="1"', "bytes at 999999999999999999"),
            ('element_type="u8" shape="1" offset="4096" size="999999999999999999"', "999999999999999999 bytes"),
            # OpenVINO adds these up to less than the file's size.
            ('element_type="u8" shape="8" offset="18446744073709551608" size="16"', "a value of offset"),
            # OpenVINO's product of these overflows to 0.
            ('element_type="f32" shape="4611686018427387904,4" offset="4104" size="16"', "a value of shape"),
            ('element_type="f32" shape="576460752303423488,32" offset="4104" size="16"', "as large as its shape"),
            ('element_type="f32" shape="3,3" offset="4104" size="24"', "as large as its shape"),
            ('element_type="f32" shape="1" offset="4104" size="24"', "as large as its shape"),
            ('element_type="u4" shape="5" offset="4096" size="2"', "as large as its shape"),
            ('element_type="f32" shape="2" offset="4105" size="8"', "aligned"),
            ('element_type="i64" shape="2" offset="4100" size="16"', "aligned"),
            ('element_type="f32" shape="-1" offset="4104" size="4"', "a value of shape"),
            ('element_type="f32" shape="2,,2" offset="4104" size="16"', "a value of shape"),
            ('element_type="f32" shape="?" offset="4104" size="16"', "a value of shape"),
            ('element_type="f32" offset="4104" size="24"', "the attributes"),
            ('element_type="f32" shape="2" offset="4104"', "the attributes"),
            ('element_type="f32" shape="2" size="8"', "the attributes"),
            ('shape="2" offset="4104" size="8"', "the attributes"),
            ('element_type="string" shape="1" offset="4104" size="8"', "a value of element_type"),
            ('element_type="dynamic" shape="1" offset="4104" size="8"', "a value of element_type"),
            ('element_type="bf16" shape="1" offset="4104" size="2"', "a value of element_type"),
            # OpenVINO would read the numbers up to the first character that is no digit.
            ('element_type="u8" shape="1" offset="4_100" size="1"', "a value of offset"),
            ('element_type="u8" shape="1" offset="4100.5" size="1"', "a value of offset"),
            ('element_type="u8" shape="1" offset=" 4100" size="1"', "a value of offset"),
            ('element_type="u8" shape="1" offset="+4100" size="1"', "a value of offset"),
            ('element_type="u8" shape="1" offset="\u0664\u0661\u0660\u0660" size="1"', "a value of offset"),
            # OpenVINO takes the text as the data, however large the shape.
            ('element_type="f32" shape="2" offset="4104" size="8" value="x"', "the attributes"),
            ('element_type="f32" shape="1000000" value="x"', "the attributes"),
            (f'element_type="u8" shape="{",".join("1" * (MAX_RANK + 1))}" offset="4096" size="1"', "a value of shape"),
        ],
    )
    def test_a_constant_that_is_not_in_the_data_is_refused(self, weights: Path, constant: str, reason: str) -> None:
        for text in (net(constant), net(GOOD, constant), net(constant, GOOD)):
            refuse(weights, text, reason)

    def test_a_type_spelled_with_character_references_is_seen(self, weights: Path) -> None:
        text = net(const('element_type="f32" shape="2" value="x"').replace("Const", "Con&#115;t"))
        refuse(weights, text, "the attributes")


class TestXML:
    @pytest.mark.parametrize(
        "doctype",
        [
            "<!DOCTYPE net>",
            '<!DOCTYPE net [<!ENTITY start "0">]>',
            '<!DOCTYPE net SYSTEM "file:///etc/passwd">',
            '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>',
        ],
    )
    def test_a_document_type_is_refused(self, weights: Path, doctype: str) -> None:
        refuse(weights, net(GOOD, before=doctype), r"an IR without a document type; got <!DOCTYPE>")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            '<net name="main" version="11">',
            net(GOOD)[:-6],
            net(GOOD).replace('size="24"', 'size="&size;"'),
            net(GOOD).replace('size="24"', 'size="24" size="24"'),
            net(GOOD) + "<net/>",
            net(GOOD).replace("Const", "Con\0st"),
            b'<net name="\xff" version="11"/>',
            net(GOOD).replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"),
            net(GOOD).encode("utf-16-le"),
            net(GOOD).encode("utf-32"),
            net(GOOD).encode("utf-8-sig"),
            " " + net(GOOD),
        ],
    )
    def test_what_is_no_utf8_xml_is_refused(self, weights: Path, text: str | bytes) -> None:
        refuse(weights, text, r"model\.xml: expected well-formed XML; got")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (net(GOOD, after="<a/>"), "elements of an IR in <net>; got <a>"),
            ("<nets/>", "elements of an IR in <xml>; got <nets>"),
            (net(GOOD, after="<a>" * 1_000_000), "got <a>"),
            (net(GOOD, after="<layers></layers>"), "one <layers> in <net>; got two"),
            (net(GOOD, after="<edges></edges>"), "one <edges> in <net>; got two"),
            (net(const(GOOD).replace("<output>", "<output/><output>")), "one <output> in <layer>"),
            (net(const(GOOD).replace('precision="FP32"', 'precision="FP32" a="b"')), "the attributes of <port>"),
            (net(const(GOOD).replace("FP32", "FP33")), "port 0, of a known type"),
            (net(const(GOOD).replace('port id="0"', 'port id="1"')), "port 0, of a known type"),
            (net(const(GOOD, 1)), "layer 0 of 'c1' in its place; got 1"),
            (net(const(GOOD).replace('name="c0"', f'name="{"a" * MAX_TEXT}"')), f"at most {MAX_TEXT} characters"),
        ],
    )
    def test_what_persist_does_not_write_is_refused(self, weights: Path, text: str, reason: str) -> None:
        refuse(weights, text, reason)

    @pytest.mark.parametrize("name", ["WeightlessCacheAttribute", "fused_names", "layout", "old_api_map_order"])
    def test_other_runtime_attributes_are_refused(self, weights: Path, name: str) -> None:
        info = f'<rt_info><attribute name="{name}" version="0" value="a"/></rt_info>'
        refuse(weights, net(const(GOOD).replace("<data", f"{info}<data")), f"in <rt_info>; got {name}")

    def test_axes_are_bounded(self, weights: Path) -> None:
        one = '<port id="0" precision="FP32"/>'
        port = one[:-2] + ">{}</port>"
        scan(weights, net(const(GOOD).replace(one, port.format("<dim>1</dim>" * MAX_RANK))))
        refuse(weights, net(const(GOOD).replace(one, port.format("<dim>1</dim>" * (MAX_RANK + 1)))), "axes")

    def test_a_graph_of_absurd_length_is_refused(self, weights: Path) -> None:
        graph = weights.with_name("model.xml")
        with graph.open("wb") as file:
            file.truncate((1 << 28) + 1)  # a sparse file
        with pytest.raises(GraphIntegrityError, match="at most 268435456 bytes; got 268435457"):
            check_graph(graph, weights)

    def test_the_weights_are_checked_too(self, weights: Path) -> None:
        weights.write_bytes(b"no safetensors file")
        with pytest.raises(GraphIntegrityError, match=r"weights\.safetensors: expected a header"):
            scan(weights, net(GOOD))


class TestEdges:
    def test_an_edge_into_each_input_passes(self, weights: Path) -> None:
        scan(weights, net(GOOD, RELU.format(1), RELU.format(2), edges=edge(0, 0, 1, 0) + edge(1, 1, 2, 0)))

    @pytest.mark.parametrize(
        ("edges", "reason"),
        [
            ("", "one edge into each input; got 0 edges"),
            (edge(0, 0, 1, 0), "one edge into each input; got 1 edges"),
            (edge(0, 0, 1, 0) + edge(0, 0, 1, 0), "one edge into each input in layer 2"),
            (edge(0, 0, 1, 0) + edge(1, 1, 2, 0) + edge(0, 0, 2, 0), "one edge into each input; got 3 edges"),
            (edge(2, 1, 1, 0) + edge(1, 1, 2, 0), "from a layer to a later one"),
            (edge(1, 1, 1, 0) + edge(1, 1, 2, 0), "from a layer to a later one"),
            (edge(0, 0, 1, 0) + edge(1, 1, 3, 0), "from a layer to a later one"),
            (edge(0, 1, 1, 0) + edge(1, 1, 2, 0), "between ports that are there"),
            (edge(0, 0, 1, 1) + edge(1, 1, 2, 0), "between ports that are there"),
            (edge(0, 0, 1, 0) + edge(1, 0, 2, 0), "between ports that are there"),
            (edge(0, 0, 1, 0) + edge(-1, 1, 2, 0), "from a layer to a later one"),
            (edge(0, 0, 1, 0) + edge(1, 1, 2, 0).replace('"1"', '"01"'), "from a layer to a later one"),
        ],
    )
    def test_other_edges_are_refused(self, weights: Path, edges: str, reason: str) -> None:
        refuse(weights, net(GOOD, RELU.format(1), RELU.format(2), edges=edges), reason)


def write_operation(folder: Path, inputs: list[Any], node: Any) -> Path:
    """Write a graph of `make_operations` as a bundle has it, and return its folder."""
    results = [ops.result(output) for output in (node if isinstance(node, list) else [node])]
    sinks = [found for found in inputs if found.get_type_name() == "Assign"]
    parameters = [found for found in inputs if found.get_type_name() == "Parameter"]
    folder.mkdir()
    write_graph(folder, ov.Model(results, sinks, parameters, "main"), [], [])
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The graphs of `make_operations`, by name."""
    folder = tmp_path_factory.mktemp("operations")
    return {name: write_operation(folder / name, inputs, node) for name, inputs, node in make_operations()}


class TestOperations:
    def test_what_openvino_writes_passes(self, written: dict[str, Path]) -> None:
        for folder in written.values():
            check_graph(folder / "model.xml", folder / "weights.safetensors")

    def test_nearly_all_operations_are_tried(self, written: dict[str, Path]) -> None:
        texts = [(folder / "model.xml").read_text() for folder in written.values()]
        tried = {(kind, version) for text in texts for kind, version, _ in layers_of(text)}
        assert known_operations() - tried == {("GroupedMatMul", "opset17"), ("Interpolate", "opset4")}

    def test_an_operation_is_known_by_its_exact_type_and_version(self) -> None:
        assert find_operation("Const", "opset1") is not None
        for kind, version in (("Constant", "opset1"), ("const", "opset1"), ("Const", "opset2"), ("Relu", "opset1")):
            assert find_operation(kind, version) is None

    def test_bodies_are_checked(self, written: dict[str, Path], tmp_path: Path) -> None:
        for name in ("if", "loop", "iterator"):
            root = ET.parse(written[name] / "model.xml").getroot()  # noqa: S314
            weights = shutil.copy(written[name] / "weights.safetensors", tmp_path)
            inner = next(layer for layer in root.iter("layer") if any("body" in child.tag for child in layer))
            for body in (child for child in inner if "body" in child.tag):
                layer = next(layer for layer in body.iter("layer") if layer.get("type") not in {"Parameter", "Const"})
                kept = layer.get("type", "")
                layer.set("type", "Nothing")
                with pytest.raises(GraphIntegrityError, match="an operation that persist writes"):
                    scan(Path(weights), ET.tostring(root))
                layer.set("type", kept)

    def test_bodies_inside_each_other_are_bounded(self, weights: Path) -> None:
        opening = '<layer id="0" name="a" type="If" version="opset8"><then_body><layers>' * (MAX_BODIES + 1)
        refuse(weights, f'<net name="a" version="11"><layers>{opening}', f"at most {MAX_BODIES} bodies")
