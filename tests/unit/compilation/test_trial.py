"""What a compiled model is called with once, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from openvino import opset13 as ops

from npu_persist.bundle.graph_records import Bounds, Port
from npu_persist.compilation.recipe import Recipe
from npu_persist.compilation.trial import call_once
from npu_persist.device.core import get_core
from npu_persist.errors import GraphIntegrityError
from tests.support.graphs import BATCH, GOLDEN, PRODUCT_INPUT, make_model, parameter, publish_graph, publish_product
from tests.support.loads import spoil

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store


class _Called:
    """A compiled model that keeps what it was called with."""

    def __init__(self, error: Exception | None = None) -> None:
        self.inputs: list[Any] = []
        self.error = error

    def create_infer_request(self) -> _Called:
        return self

    def infer(self, inputs: list[Any]) -> None:
        self.inputs = inputs
        if self.error is not None:
            raise self.error


def _call(bundle: Bundle, shapes: Any = None, error: Exception | None = None) -> list[Any]:
    recipe, called = Recipe(bundle, bundle.graph(), "CPU", {}, shapes), _Called(error)
    model = get_core().read_model(bundle.file("model.xml"), recipe.weights)
    call_once(recipe, model, called)
    return called.inputs


def test_with_the_golden_sample(store: Store) -> None:
    (x,) = _call(publish_product(store))
    np.testing.assert_array_equal(x, PRODUCT_INPUT)


def test_with_zeros_where_it_cannot_be_read(store: Store) -> None:
    bundle = publish_product(store)
    spoil(bundle.path / GOLDEN, b"x" * 100)
    (x,) = _call(bundle)
    np.testing.assert_array_equal(x, np.zeros((4, 64)))


def test_what_openvino_refuses_is_for_the_caller(store: Store) -> None:
    assert _call(publish_product(store), error=RuntimeError("no")) != []


def _publish(store: Store, sample: dict[str, Any] | None, size: int = 3) -> Bundle:
    ports = [Port("x", "float32", (BATCH, 3)), Port("i", "int64", (BATCH, size), Bounds(2, 5))]
    x, i = (parameter(port) for port in ports)
    out = Port("y", "float32", (BATCH, 3))
    model = make_model([x, i], [("y", ops.add(x, ops.convert(i, "f32")))])
    return publish_graph(store, model, ports, [out], sample=sample)


def test_open_axes_and_bounds(store: Store) -> None:
    x, i = _call(_publish(store, None))
    assert (x.shape, i.shape, i.min()) == ((1, 3), (1, 3), 2)
    x, i = _call(_publish(store, {"input.x": np.ones((4, 3), np.float32), "input.i": np.ones((4, 3), np.int64)}))
    assert (x.shape, x.min(), i.shape, i.min()) == ((4, 3), 1, (4, 3), 1)
    x, i = _call(_publish(store, {"input.x": np.ones((9, 3), np.float32), "input.i": np.ones((4, 3), np.float32)}))
    assert (x.shape, x.max(), i.shape, i.max()) == ((1, 3), 0, (1, 3), 2)


def test_a_graph_that_is_wrong_for_the_samples_sizes(store: Store) -> None:
    """What is known only with sizes: that nothing is looked up in a table without rows."""
    ports = [Port("x", "float32", (BATCH, 3))]
    x = parameter(ports[0])
    none = ops.slice(x, ops.constant([9]), ops.constant([10]), ops.constant([1]), ops.constant([0]))
    found = ops.gather(none, ops.constant([0]), ops.constant(0))
    model = make_model([x], [("y", found)])
    bundle = publish_graph(store, model, ports, [Port("y", "float32", (1, 3))])
    with pytest.raises(GraphIntegrityError, match="not empty"):
        _call(bundle)
