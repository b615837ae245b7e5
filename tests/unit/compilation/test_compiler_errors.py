"""Where a compiler's refusal stands in the torch module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from npu_persist.bundle.graph_records import Dimension, Port
from npu_persist.compilation.compiler_errors import Layer, explain_refusal, find_layers, first_lines
from npu_persist.compilation.recipe import Recipe
from npu_persist.errors import CompilationError
from npu_persist.store import Store
from tests.support.graphs import constant, make_model, parameter, publish_graph

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

NAMES = {
    "softmax": "encoder.layer.0/aten::softmax/Softmax",
    "again": "encoder.layer.10/aten::softmax/Softmax:2",
    "root": "aten::relu/Relu",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle with layers named as `persist` names them."""
    from openvino import opset13 as ops

    port = Port("x", "float32", (Dimension("batch", 1, 8), 4))
    x = parameter(port)
    first = ops.softmax(x, 1, name=NAMES["softmax"])
    second = ops.softmax(ops.add(first, constant([[1, 2, 3, 4]])), 0, name=NAMES["again"])
    model = make_model([x], [("y", ops.relu(second, name=NAMES["root"]))])
    return publish_graph(Store(tmp_path), model, [port], [Port("y", "float32", port.shape)])


def found(bundle: Bundle, message: str) -> list[str]:
    return [layer.name for layer in find_layers(bundle.path / "model.xml", message)]


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (f"cannot tile loc({NAMES['softmax']!r})", ["softmax"]),
        (f"{NAMES['again']}: unsupported", ["again"]),
        (f"between {NAMES['root']} and {NAMES['again']}", ["again", "root"]),
        ("String attribute axis is not supported", ["softmax", "again"]),
        ("unknown 'axis'", ["softmax", "again"]),
        ("IE.Relu: no kernel", ["root"]),
        ("no kernel for ReLU", ["root"]),
        ("ReLUGrad: no kernel", []),
        ("out of luck", []),
        ("", []),
    ],
)
def test_layers_are_found_by_name_attribute_or_kind(bundle: Bundle, message: str, names: list[str]) -> None:
    assert found(bundle, message) == [NAMES[name] for name in names]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        (NAMES["softmax"], "encoder.layer.0"),
        (NAMES["root"], ""),
        ("sampler/aten::multinomial/Reshape", "sampler"),
        ("constant.7:2", None),
        ("Convert", None),
        ("encoder.weight", None),
    ],
)
def test_the_module_is_read_from_the_name(name: str, module: str | None) -> None:
    assert Layer(name, "Kind", frozenset()).module == module


def test_the_error_has_the_compilers_words_the_layers_and_the_way_around(bundle: Bundle) -> None:
    error = CompilationError("Exception from src\\a.cpp:7:\nIE.Softmax: no kernel")
    text = str(explain_refusal(Recipe(bundle, bundle.graph(), "NPU", {}), "graph:1 for NPU:4000", error))
    assert text.startswith("graph:1 for NPU:4000: IE.Softmax: no kernel. It is about ")
    text_root = str(
        explain_refusal(Recipe(bundle, bundle.graph(), "NPU", {}), "graph:1", CompilationError("ReLU: no kernel"))
    )
    assert "ReLU in the module itself (aten::relu/Relu)" in text_root
    assert text_root.endswith("buckets=[{'x': (8, 4)}]")
    fixed = Recipe(bundle, bundle.graph(), "NPU", {}, {"x": (2, 4)})
    assert "buckets" not in str(explain_refusal(fixed, "graph:1", error))


def test_of_many_layers_some_are_named_and_the_others_counted(tmp_path: Path) -> None:
    from openvino import opset13 as ops

    port = Port("x", "float32", (4,))
    x = node = parameter(port)
    for number in range(9):
        node = ops.relu(node, name=f"layer.{number}/aten::relu/Relu")
    bundle = publish_graph(Store(tmp_path), make_model([x], [("y", node)]), [port], [Port("y", "float32", (4,))])
    text = str(explain_refusal(Recipe(bundle, bundle.graph(), "NPU", {}), "graph:1", CompilationError("ReLU: no")))
    assert "ReLU in layer.4 " in text
    assert "layer.5" not in text
    assert text.endswith(" and 4 more")


def test_long_messages_are_cut() -> None:
    assert first_lines("a  b\n\nc") == "a b c"
    assert len(first_lines("x" * 5000, 100)) == 103
