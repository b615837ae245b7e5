from __future__ import annotations

import numpy as np
import pytest

from npu_persist.bundle.graph_records import (
    DictNode,
    Dimension,
    OpaqueNode,
    Parameter,
    Port,
    Signature,
    TensorNode,
    TupleNode,
    ValueNode,
)
from npu_persist.bundle.signature import CallPlan
from npu_persist.bundle.weights import lay_out
from npu_persist.errors import UsageError
from npu_persist.runtime.golden import make_call, make_random, read_golden_inputs
from npu_persist.store import Store
from tests.support.bundles import publish_tiny
from tests.support.graphs import NESTED_INPUTS, NESTED_SIGNATURE, publish_affine


def test_random_inputs_are_the_same_for_the_same_seed() -> None:
    ports = [Port("x", "float16", (2, 3)), Port("ids", "int64", (4,)), Port("mask", "bool", ())]
    first, second = make_random(ports, 7), make_random(ports, 7)
    assert [array.dtype.name for array in first.values()] == ["float16", "int64", "bool"]
    assert [array.shape for array in first.values()] == [(2, 3), (4,), ()]
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["x"], make_random(ports, 8)["x"])
    assert set(make_random([Port("ids", "int64", (1000,))], 0)["ids"].tolist()) == {0, 1}


def test_random_inputs_have_the_smallest_size_that_has_elements() -> None:
    shape = (Dimension("batch", 3, 8), Dimension(None, 0, None))
    assert make_random([Port("x", "float32", shape)], 0)["x"].shape == (3, 1)


def test_a_bundle_without_golden_sample_says_what_to_give() -> None:
    bundle = publish_affine(Store())
    with pytest.raises(UsageError, match=r"affine:1 has no golden sample.*--inputs FILE\.npz or --random"):
        read_golden_inputs(bundle, bundle.graph())


def test_a_call_of_every_kind_of_parameter_flattens_to_the_same_arrays() -> None:
    inputs = make_random(NESTED_INPUTS, 0)
    args, kwargs = make_call(NESTED_SIGNATURE, NESTED_INPUTS, inputs)
    outputs = [Port("values", "float32", (2, 2)), Port("more", "float32", (2, 2))]
    flat = CallPlan(NESTED_SIGNATURE, NESTED_INPUTS, outputs).flatten(tuple(args), kwargs)
    assert [id(array) for array in flat] == [id(inputs[port.name]) for port in NESTED_INPUTS]
    assert len(args) == 4  # x, pair and what * took
    assert set(kwargs) == {"output", "scale", "return_dict", "level"}


def test_what_follows_an_argument_that_was_left_out_goes_by_name() -> None:
    ports = [Port("x", "float32", ()), Port("z", "float32", ())]
    signature = Signature(
        parameters=(
            Parameter("x", "positional_or_keyword", None),
            Parameter("window", "positional_or_keyword", OpaqueNode("slice(0, 3, None)")),
            Parameter("z", "positional_or_keyword", ValueNode(None)),
        ),
        arguments=(("x", TupleNode((TensorNode(0), ValueNode(2)))), ("z", DictNode((("a", TensorNode(1)),)))),
        result=TensorNode(0),
    )
    inputs = make_random(ports, 0)
    assert make_call(signature, ports, inputs) == ([(inputs["x"], 2)], {"z": {"a": inputs["z"]}})


@pytest.mark.parametrize("names", [(), ("y",), ("x", "y")])
def test_arrays_of_other_names_are_refused(names: tuple[str, ...]) -> None:
    bundle = publish_affine(Store())
    graph = bundle.graph()
    with pytest.raises(UsageError, match="inputs: expected arrays named x; got"):
        make_call(graph.signature, graph.inputs, dict.fromkeys(names, np.zeros(1)))


def test_the_golden_sample_is_read_as_it_was_written() -> None:
    x, y = np.arange(8, dtype="float32").reshape(1, 2, 4), np.array(5, np.int64)
    entries = {"input.x.0": ("F32", (1, 2, 4), 32), "input.x.1": ("I64", (), 8), "output.y": ("F32", (1, 2), 8)}
    header, starts = lay_out(entries, {})
    assert starts["input.x.1"] < starts["input.x.0"] < starts["output.y"]
    bundle = publish_tiny(Store(), golden=header + y.tobytes() + x.tobytes() + bytes(8))
    inputs = read_golden_inputs(bundle, bundle.graph())
    assert list(inputs) == ["x.0", "x.1"]
    assert np.array_equal(inputs["x.0"], x)
    assert (inputs["x.1"].shape, inputs["x.1"].dtype.name, int(inputs["x.1"])) == ((), "int64", 5)
