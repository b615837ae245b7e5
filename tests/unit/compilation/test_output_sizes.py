"""How sizes of outputs follow from those of inputs: found in real graphs, and never guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from npu_persist.bundle.graph_records import Dimension, Port
from npu_persist.bundle.signature import size_of
from npu_persist.compilation.output_sizes import find_unrelated, name_outputs
from tests.support.graphs import make_model, parameter

if TYPE_CHECKING:
    from collections.abc import Callable

N = Dimension("n", 1, 64)
X = Port("x", "float32", (1, 3, N))
TWO = Port("x", "float32", (Dimension("batch", 1, 4), Dimension(None, 2, 512), 4))


def conv(node: Any, stride: int, kernel: int, pad: int) -> Any:
    weights = ops.constant(np.ones((3, 3, kernel), np.float32))
    return ops.convolution(node, weights, [stride], [pad], [pad], [1])


def relate(port: Port, build: Callable[[Any], Any], *sizes: tuple[int, ...], rank: int = 3) -> Port:
    node = parameter(port)
    model = make_model([node], [("y", build(node))])
    before = str(model.inputs[0].get_partial_shape())
    (found,) = name_outputs(
        model,
        [port],
        [Port("y", "float32", (Dimension(None, 0, None),) * rank)],
        [{"x": size} for size in sizes],
    )
    assert str(model.inputs[0].get_partial_shape()) == before
    return found


def names(port: Port) -> list[str | int | None]:
    return [size.name if isinstance(size, Dimension) else size for size in port.shape]


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda x: ops.relu(x), "n"),  # noqa: PLW0108
        (lambda x: ops.concat([x, x], 2), "2*n"),
        (lambda x: conv(x, 1, 3, 0), "1*n-2"),
        (lambda x: conv(x, 2, 3, 1), "(n+1)//2"),
        (lambda x: conv(conv(x, 2, 3, 1), 2, 2, 0), "(n+1)//4"),
        (lambda x: conv(x, 5, 3, 1), "(n+4)//5"),
        (lambda x: ops.concat([conv(x, 2, 3, 1), conv(x, 2, 3, 1)], 2), "2*((n+1)//2)"),
    ],
)
def test_the_steps_of_a_size(build: Callable[[Any], Any], name: str) -> None:
    assert names(relate(X, build, (1, 3, 16), (1, 3, 64))) == [1, 3, name]


def test_a_formula_holds_at_every_size() -> None:
    node = parameter(X)
    model = make_model([node], [("y", conv(conv(node, 3, 5, 1), 2, 3, 1))])
    outputs = [Port("y", "float32", (1, 3, Dimension(None, 0, None)))]
    (port,) = name_outputs(model, [X], outputs, [{"x": (1, 3, 64)}])
    assert isinstance(port.shape[2], Dimension)
    assert port.shape[2].name is not None
    for n in range(4, 65):
        model.reshape([1, 3, n])
        assert size_of(port.shape[2].name, {"n": n}) == model.outputs[0].shape[2], n


def test_each_axis_follows_its_own() -> None:
    assert names(relate(TWO, lambda x: ops.transpose(x, ops.constant([2, 1, 0])), (4, 512, 4))) == [
        4,
        "x[1]",
        "batch",
    ]


def test_an_axis_of_two_sizes() -> None:
    port = Port("x", "float32", (Dimension("batch", 1, 2), 4))
    assert names(relate(port, lambda x: ops.relu(x), (1, 4), (2, 4), rank=2)) == ["batch", 4]  # noqa: PLW0108


def test_an_axis_that_never_changes_is_fixed() -> None:
    assert names(relate(X, lambda x: ops.reduce_mean(x, ops.constant([2]), keep_dims=True), (1, 3, 64))) == [1, 3, 1]


@pytest.mark.parametrize(
    "build",
    [
        lambda x: ops.reshape(x, ops.constant([-1, 4]), special_zero=False),  # batch times length
        lambda x: ops.concat([ops.relu(x), ops.transpose(x, ops.constant([1, 0, 2]))], 0),  # batch plus length
    ],
)
def test_what_follows_from_two_axes_has_no_name(build: Callable[[Any], Any]) -> None:
    node = parameter(TWO)
    try:
        model = make_model([node], [("y", build(node))])
    except RuntimeError:
        pytest.fail("OpenVINO refuses the graph of this test")
    rank = len(model.outputs[0].get_partial_shape())
    output = Port("y", "float32", (Dimension(None, 0, None),) * rank)
    (found,) = name_outputs(model, [TWO], [output], [{"x": (4, 512, 4)}])
    assert names(found)[0] is None
    assert find_unrelated([TWO], [found]) == (found, 0)


def test_what_follows_from_values_has_no_name() -> None:
    node = parameter(X)
    model = make_model([node], [("y", ops.non_zero(node))])
    output = Port("y", "int64", (3, Dimension(None, 0, None)))
    (found,) = name_outputs(model, [X], [output], [{"x": (1, 3, 64)}])
    assert find_unrelated([X], [found]) == (found, 1)


def test_a_graph_that_takes_multiples_only() -> None:
    def halve_and_double(x: Any) -> Any:
        half = ops.reshape(x, ops.constant([1, 3, -1, 8]), special_zero=False)
        return ops.reshape(half, ops.constant([1, 3, -1]), special_zero=False)

    assert names(relate(X, halve_and_double, (1, 3, 32), (1, 3, 64))) == [1, 3, "n"]


def test_a_graph_that_takes_one_size_only_says_nothing() -> None:
    node = parameter(X)
    model = make_model([node], [("y", ops.add(node, ops.constant(np.zeros((1, 3, 64), np.float32))))])
    assert isinstance(model, ov.Model)
    output = Port("y", "float32", (1, 3, N))
    (found,) = name_outputs(model, [X], [output], [{"x": (1, 3, 64)}])
    assert find_unrelated([X], [found]) == (found, 2)


def test_names_that_no_input_has_are_no_relation() -> None:
    output = Port("y", "float32", (Dimension("m", 1, 64),))
    assert find_unrelated([X], [output]) == (output, 0)
    assert find_unrelated([X], [Port("y", "float32", (N, Dimension("(n+1)//2", 1, 32), 3))]) is None
