"""Fields of two manifests, compared: whatever a manifest says is in one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist.bundle.field_changes import compare_fields, has_same_graphs, has_same_weights
from npu_persist.bundle.golden_records import Difference, Golden, Tolerance
from npu_persist.bundle.graph_records import Bounds, Buckets, Padding, Port, ValueNode
from npu_persist.bundle.manifest import Producer
from tests.support.bundles import TINY_GRAPH, tiny_files, tiny_manifest

if TYPE_CHECKING:
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.manifest import Manifest

TINY = tiny_manifest()
MEASURED = (Difference("y", 0.001, 0.0004, 0.99999),)
X, INDEX = TINY_GRAPH.inputs


def with_graph(**changes: Any) -> Manifest:
    return replace(TINY, graphs=(replace(TINY_GRAPH, **changes),))


def changed(first: Manifest, second: Manifest) -> list[str]:
    return [one.field for one in compare_fields(first, second)[0]]


def test_nothing_differs_but_the_name() -> None:
    changes, same = compare_fields(TINY, replace(TINY, name="other"))
    assert changes == ()
    assert same > 15


SIGNATURE = replace(TINY_GRAPH.signature, arguments=(TINY_GRAPH.signature.arguments[0], ("scale", ValueNode(2.0))))
PADDED = Buckets(({"x.0": (1, 2, 4)},), {"x.0": Padding(1.0)})
CASES = {
    "dtype": (with_graph(inputs=(replace(X, dtype="float64"), INDEX)), ["call", "inputs.x.0"]),
    "bounds": (with_graph(inputs=(X, replace(INDEX, bounds=Bounds(0, 9)))), ["inputs.x.1"]),
    "order": (with_graph(inputs=(INDEX, X)), ["call", "inputs"]),
    "output": (with_graph(outputs=(replace(TINY_GRAPH.outputs[0], shape=(1, 2)),)), ["call", "outputs.y"]),
    "call": (with_graph(signature=SIGNATURE), ["call"]),
    "precision": (with_graph(precision="fp32"), ["precision"]),
    "capture": (with_graph(conversion="export"), ["conversion"]),
    "buckets": (with_graph(buckets=PADDED), ["buckets.shapes", "buckets.padding"]),
    "graph's name": (with_graph(name="other"), ["graph"]),
    "graph's file": (tiny_manifest(files=tiny_files(model=b"<net/>")), ["size", "files.model.xml"]),
    "tensors": (replace(TINY, weights=replace(TINY.weights, tensors=2)), ["weights.tensors"]),
    "tolerance": (
        replace(TINY, golden=Golden("golden.safetensors", Tolerance(0.1, 0.9), MEASURED)),
        ["golden.tolerance"],
    ),
    "measured": (
        replace(TINY, golden=Golden("golden.safetensors", Tolerance(0.02, 0.999), (Difference("y", 0.0, 0.0, 1.0),))),
        ["golden.measured.y"],
    ),
    "golden": (replace(TINY, golden=None), ["golden.path", "golden.tolerance", "golden.measured.y"]),
    "warnings": (replace(TINY, warnings=()), ["warnings"]),
    "producer": (replace(TINY, producer=Producer("0.1.0", "2026.5.0", None)), ["producer.openvino", "producer.torch"]),
    "metadata": (replace(TINY, metadata={"author": "Ada", "epoch": 1}), ["metadata.tags", "metadata.epoch"]),
}


@pytest.mark.parametrize("kind", CASES)
def test_each_difference_is_named(kind: str) -> None:
    other, fields = CASES[kind]
    assert changed(TINY, other) == fields
    assert sorted(changed(other, TINY)) == sorted(fields)


def test_before_and_after_are_what_json_can_hold() -> None:
    (change,), _ = compare_fields(replace(TINY, metadata={"x": 1}), replace(TINY, metadata={"x": True}))
    assert (change.field, change.before, change.after) == ("metadata.x", 1, True)


def test_several_graphs_go_by_their_names() -> None:
    def make(*graphs: Graph) -> Manifest:
        return replace(TINY, graphs=graphs)

    other = replace(TINY_GRAPH, name="decode", precision="fp32")
    fields = changed(make(TINY_GRAPH), make(TINY_GRAPH, other))
    assert "graphs.decode.precision" in fields
    assert not [field for field in fields if not field.startswith("graphs.decode.")]
    assert changed(make(TINY_GRAPH, other), make(other, TINY_GRAPH)) == []


def test_what_a_later_format_says_of_a_port_is_not_left_out() -> None:
    assert Port.__struct_fields__ == ("name", "dtype", "shape", "bounds")  # the text of `inputs.x` has all of these


def test_same_graphs_and_weights() -> None:
    weights = tiny_manifest(files=tiny_files(weights=b"\0" * 4096 + b"x" * 64))
    assert has_same_graphs(TINY, weights)
    assert not has_same_weights(TINY, weights)
    graph = tiny_manifest(files=tiny_files(model=b"<net/>"))
    assert not has_same_graphs(TINY, graph)
    assert has_same_weights(TINY, graph)
    assert not has_same_graphs(TINY, with_graph(precision="fp32"))
