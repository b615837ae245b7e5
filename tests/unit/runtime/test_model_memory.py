"""What belongs to whom: inputs that are read where they are, shared outputs, and what a compiled model reads from."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino.opset13 as ops
import pytest

from npu_persist import Model, load
from npu_persist.bundle.graph_records import DictNode, Parameter, Port, Signature, TensorNode
from npu_persist.errors import InferenceError, UsageError
from npu_persist.runtime.lanes import LENT
from npu_persist.runtime.load import _keep_with
from tests.support.graphs import (
    AFFINE_OF_GRID,
    GRID,
    make_model,
    parameter,
    publish_affine,
    publish_aliased,
    publish_broadcast,
    publish_graph,
    read_only,
)
from tests.support.loaded import LARGE, Loader

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.store import Store


class TestLargeInputs:
    def test_are_read_where_they_are_and_left_alone(self, large: Model) -> None:
        x = np.random.default_rng(0).standard_normal(LARGE, np.float32)
        kept = x.copy()
        found = large(x)
        assert np.array_equal(found, kept.clip(0))
        assert np.array_equal(x, kept)
        assert not np.shares_memory(found, x)
        x[:] = -1
        assert np.array_equal(found, kept.clip(0))
        assert not large(x).any()

    @pytest.mark.parametrize("change", [read_only, lambda x: x[:, ::-1], np.asfortranarray, lambda x: x.astype(">f4")])
    def test_of_any_layout(self, large: Model, change: Callable[[Any], Any]) -> None:
        x = np.random.default_rng(0).standard_normal(LARGE, np.float32)
        changed = change(x)
        assert np.array_equal(large(changed), changed.clip(0))
        assert np.array_equal(large(x), x.clip(0))

    def test_are_let_go_after_the_call(self, large: Model) -> None:
        x = np.ones(LARGE, np.float32)
        alive = weakref.ref(x)
        large(x)
        del x
        gc.collect()
        assert alive() is None
        assert not large(read_only(np.zeros(LARGE, np.float32))).any()

    def test_are_let_go_after_a_call_that_failed(self, loaded: Loader) -> None:
        model = loaded(publish_broadcast, LENT, name="large-broadcast")
        x = np.ones(LENT, np.float32)
        alive = weakref.ref(x)
        with pytest.raises(InferenceError):
            model(x, [3, 3])
        del x
        gc.collect()
        assert alive() is None
        assert model(np.ones(LENT, np.float32), [1, LENT]) == LENT


class TestSharing:
    def test_shared_outputs_are_the_requests_memory(self, affine: Model) -> None:
        first = affine(GRID, share_outputs=True)
        assert np.array_equal(first, AFFINE_OF_GRID)
        affine(GRID + 1)
        assert np.array_equal(first, (GRID + 1) * [1, 2, 3] + 0.5)
        (second,) = affine.infer({"x": GRID}, share_outputs=True)
        assert np.shares_memory(first, second)

    def test_shared_outputs_of_varying_size_are_copies(self, dynamic: Model) -> None:
        def call(batch: int) -> Any:
            return dynamic(np.ones((batch, 4), "f4"), np.ones((batch, 3), "f4"), np.ones(2 * batch + 1, "f4"))

        values = [np.ones((2, 4), "f4"), np.ones((2, 3), "f4"), np.ones(5, "f4")]
        double, same, total = dynamic.infer(values, share_outputs=True)
        call(8)
        assert np.array_equal(double, 2 * values[0])
        assert np.array_equal(same, values[1])
        assert total == 17  # of the later call: its size is fixed

    def test_shared_outputs_are_no_array_of_the_caller(self, loaded: Loader) -> None:
        x = np.array([[-1, 2], [3, -4]], np.float32)
        results = loaded(publish_aliased)(x, share_inputs=True, share_outputs=True)
        for result, expected in zip(results, [x, x.clip(0), x, x.clip(0)], strict=True):
            assert np.array_equal(result, expected)
            assert not np.shares_memory(result, x)

    @pytest.mark.parametrize("size", ["small", "large"])
    def test_inputs_give_the_same_answer_lent_or_copied(
        self, affine: Model, large: Model, size: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, x = (affine, GRID) if size == "small" else (large, np.ones(LARGE, np.float32))
        expected = AFFINE_OF_GRID if size == "small" else x
        lane, lent = model._requests._idle[-1], []
        make_tensor = lane.share

        def note(array: Any, **options: bool) -> Any:
            lent.append(array)
            return make_tensor(array, **options)

        monkeypatch.setattr(lane, "share", note)
        for share, is_lent in ((None, size == "large"), (True, True), (False, False)):
            assert np.array_equal(model(x, share_inputs=share), expected)
            assert np.array_equal(model(read_only(x), share_inputs=share), expected)  # which is never lent
            assert [array is x for array in lent] == [True] * is_lent
            lent.clear()

    def test_of_no_kind_is_refused(self, affine: Model) -> None:
        with pytest.raises(UsageError, match=r"share_inputs: expected None, True or False; got 'yes'"):
            affine(GRID, share_inputs="yes")

    def test_a_module_keeps_its_own_names(self, loaded: Loader) -> None:
        def publish(store: Store, name: str) -> Any:
            ports = [Port("share_inputs", "float32", (2,)), Port("x", "float32", (2,))]
            nodes = [parameter(port) for port in ports]
            signature = Signature(
                (Parameter("share_inputs", "positional_or_keyword", None), Parameter("more", "var_keyword", None)),
                (("share_inputs", TensorNode(0)), ("more", DictNode((("share_outputs", TensorNode(1)),)))),
                TensorNode(0),
            )
            model = make_model(nodes, [("y", ops.add(*nodes))])
            return publish_graph(store, model, ports, [Port("y", "float32", (2,))], signature, name=name)

        model = loaded(publish, name="own-names")
        assert model(share_inputs=[1, 2], share_outputs=[3, 4]).tolist() == [4, 6]
        first = model.infer([[1, 2], [3, 4]], share_outputs=True, share_inputs=True)[0]
        model([0, 0], share_outputs=[0, 0])
        assert first.tolist() == [0, 0]


class Anchor:
    """Something to hold."""


def test_what_the_compiled_model_reads_from_lives_as_long_as_it(loaded: Loader) -> None:
    reference = publish_affine(loaded.store, name="kept").reference
    anchor = Anchor()
    alive = weakref.ref(anchor)
    model = load(reference, "CPU", store=loaded.store)
    _keep_with(model.compiled, [anchor])
    del anchor
    started = model.start(GRID)
    compiled = model.compiled
    del model
    gc.collect()
    assert alive() is not None
    del compiled
    gc.collect()
    assert alive() is not None  # `started` has a request of it
    assert np.array_equal(started.result(), AFFINE_OF_GRID)
    started.release()
    del started
    gc.collect()
    assert alive() is None
