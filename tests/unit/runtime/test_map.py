from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino.opset13 as ops
import pytest

from npu_persist.bundle.graph_records import Parameter, Port, Signature, TensorNode, TupleNode
from npu_persist.errors import InferenceError, InputError
from tests.support.graphs import (
    make_model,
    parameter,
    publish_affine,
    publish_broadcast,
    publish_graph,
    publish_power,
    publish_relu,
)
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npu_persist import Model
    from npu_persist.store import Store
    from tests.support.loaded import Loader

WINDOW = 4
"""Inputs that may be taken ahead of the results: twice the requests of the models below."""


@pytest.fixture
def relu(loaded: Loader) -> Model:
    """`x[4] -> max(x, 0)` on two requests."""
    model = loaded(publish_relu, (4,), name="relu", config={"NUM_STREAMS": 2})
    assert model._requests.optimal * 2 == WINDOW
    return model


@pytest.fixture
def broadcast(loaded: Loader) -> Model:
    """`x[4], shape[2] -> sum of x`, broadcast to the shape, on two requests."""
    return loaded(publish_broadcast, config={"NUM_STREAMS": 2})


@pytest.fixture
def power(loaded: Loader) -> Model:
    """A model that takes its time."""
    return loaded(publish_power, 512, 40, config={"NUM_STREAMS": 2})


def rows(count: int) -> Iterator[np.ndarray[Any, Any]]:
    return (np.full(4, index, np.float32) for index in range(count))


class Pair(NamedTuple):
    """An argument that is a tuple, but not a call's arguments."""

    first: list[int]
    second: list[int]


class TestItems:
    def test_are_the_only_argument(self, relu: Model) -> None:
        assert [result[0] for result in relu.map(rows(20))] == list(range(20))
        assert [result.tolist() for result in relu.map([[1, -1, 2, -2], np.ones(4, np.int8)])] == [
            [1, 0, 2, 0],
            [1, 1, 1, 1],
        ]
        assert list(relu.map([])) == []

    def test_that_are_tuples_or_mappings_are_arguments(self, broadcast: Model) -> None:
        row = np.ones(4, np.float32)
        items: list[Any] = [(row, [2, 4]), {"x": row, "shape": [1, 4]}, (row, np.array([3, 4]))]
        assert [float(result) for result in broadcast.map(items)] == [8, 4, 12]

    def test_that_are_tuples_themselves_come_in_a_tuple(self, loaded: Loader) -> None:
        pair = TupleNode((TensorNode(0), TensorNode(1)))

        def publish(store: Store, name: str) -> Any:
            ports = [Port(f"pair.{index}", "float32", (2,)) for index in range(2)]
            signature = Signature((Parameter("pair", "positional_or_keyword", None),), (("pair", pair),), TensorNode(0))
            nodes = [parameter(port) for port in ports]
            model = make_model(nodes, [("y", ops.add(*nodes))])
            return publish_graph(store, model, ports, [Port("y", "float32", (2,))], signature, name=name)

        model = loaded(publish, name="pair")
        named = Pair([1, 2], [3, 4])
        items: list[Any] = [(([1, 2], [3, 4]),), named, [[1, 2], [3, 4]], {"pair": ([1, 2], [3, 4])}]
        assert [result.tolist() for result in model.map(items)] == [[4, 6]] * 4
        with pytest.raises(InputError, match=r"item 0 of map: .*too many positional arguments"):
            next(model.map([([1, 2], [3, 4])]))

    def test_may_be_one_array_that_is_filled_again(self, relu: Model) -> None:
        def frames() -> Iterator[Any]:
            frame = np.zeros(4, np.float32)
            for index in range(50):
                frame[:] = index
                yield frame

        results = list(relu.map(frames()))
        assert [result[0] for result in results] == list(range(50))


class TestOrder:
    def test_is_that_of_the_inputs(self, loaded: Loader) -> None:
        model = loaded(publish_affine)
        assert [result[0, 0] for result in model.map(np.full((2, 3), i, "f4") for i in range(100))] == [
            index + 0.5 for index in range(100)
        ]

    def test_or_as_they_are_done(self, relu: Model) -> None:
        found = [result[0] for result in relu.map(rows(100), ordered=False)]
        assert sorted(found) == list(range(100))


class TestBackPressure:
    @pytest.mark.parametrize("ordered", [True, False])
    def test_inputs_are_taken_as_results_are(self, relu: Model, ordered: bool) -> None:  # noqa: FBT001
        taken: list[int] = []

        def items() -> Iterator[Any]:
            for index, row in enumerate(rows(50)):
                taken.append(index)
                yield row

        results = relu.map(items(), ordered=ordered)
        assert taken == []
        for count, _ in enumerate(results, 1):
            assert len(taken) <= min(count - 1 + WINDOW, 50)
        assert len(taken) == 50

    def test_an_endless_iterable_is_one_too(self, relu: Model) -> None:
        results = relu.map(np.zeros(4, np.float32) for _ in iter(int, 1))
        assert all(not next(results).any() for _ in range(20))


class TestErrors:
    def test_of_the_device_name_the_item(self, broadcast: Model) -> None:
        items = [([index] * 4, [3, 3] if index == 7 else [1, 4]) for index in range(12)]
        found: list[float] = []
        with pytest.raises(InferenceError, match=r"^item 7 of map: broadcast:\d+ failed on CPU") as caught:
            found.extend(float(result) for result in broadcast.map(items))
        assert found == [0, 4, 8, 12, 16, 20, 24]
        assert caught.value.index == 7
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert broadcast([1] * 4, [2, 4]) == 8

    def test_without_order_too(self, broadcast: Model) -> None:
        items = [([index] * 4, [3, 3] if index == 7 else [1, 4]) for index in range(12)]
        with pytest.raises(InferenceError) as caught:
            list(broadcast.map(items, ordered=False))
        assert caught.value.index == 7

    def test_of_the_inputs_name_the_item(self, relu: Model) -> None:
        found: list[float] = []
        with pytest.raises(InputError, match=r"^item 3 of map: argument x: expected size 4 on axis 0; got 5") as caught:
            found.extend(result[0] for result in relu.map([*rows(3), np.zeros(5, np.float32), *rows(9)]))
        assert found == [0, 1, 2]
        assert (caught.value.index, caught.value.argument) == (3, "x")

    def test_of_the_iterable_pass_unchanged(self, relu: Model) -> None:
        error = LookupError("no frame")

        def items() -> Iterator[Any]:
            yield from rows(3)
            raise error

        found: list[float] = []
        with pytest.raises(LookupError) as caught:
            found.extend(result[0] for result in relu.map(items()))
        assert caught.value is error
        assert caught.value.args == ("no frame",)
        assert found == [0, 1, 2]

    def test_of_another_map_keep_their_item(self, relu: Model) -> None:
        rows_and_more = [*rows(5), np.zeros(5, np.float32)]
        with pytest.raises(InputError, match=r"^item 5 of map: argument x") as caught:
            list(relu.map(relu.map(rows_and_more)))
        assert caught.value.index == 5

    def test_of_no_iterable(self, relu: Model) -> None:
        with pytest.raises(InputError, match="map: expected an iterable of inputs; got 3"):
            relu.map(3)  # type: ignore[arg-type]


class TestEnd:
    def test_a_generator_that_is_closed_leaves_nothing_running(self, power: Model) -> None:
        results = power.map(np.zeros((512, 512), np.float32) for _ in range(1000))
        next(results)
        results.close()
        executor = power._requests._executor
        assert executor is not None
        assert executor._work_queue.qsize() == 0
        assert not any(is_busy(lane) for lane in power._requests._idle)
        assert len(power._requests._idle) >= 2
        assert not power(np.zeros((512, 512), np.float32)).any()

    def test_one_that_is_dropped_too(self, power: Model) -> None:
        before = len(power._requests._idle)
        results = power.map(np.zeros((512, 512), np.float32) for _ in range(1000))
        next(results)
        del results
        assert len(power._requests._idle) >= max(before, 1)
        assert not any(is_busy(lane) for lane in power._requests._idle)

    def test_an_exception_in_the_loop_too(self, relu: Model) -> None:
        def loop() -> None:
            for result in relu.map(rows(50)):
                if result[0] == 3:
                    raise KeyError

        with pytest.raises(KeyError):
            loop()
        assert [result[0] for result in relu.map(rows(5))] == list(range(5))

    def test_several_at_once_share_the_device(self, relu: Model) -> None:
        first, second = relu.map(rows(30)), relu.map(rows(30), ordered=False)
        pairs = [(a[0], b[0]) for a, b in zip(first, second, strict=True)]
        assert [a for a, _ in pairs] == sorted(b for _, b in pairs) == list(range(30))
        found: list[list[float]] = []

        def run() -> None:
            found.append([result[0] for result in relu.map(rows(50))])

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [list(range(50))] * 6


def is_busy(lane: Any) -> bool:
    """OpenVINO refuses to touch a request that runs."""
    try:
        lane.request.set_input_tensor(0, lane.own[0])
    except RuntimeError:
        return True
    return False


INTERRUPTED = """
import sys, numpy, npu_persist
model = npu_persist.load(sys.argv[1], "CPU", config={"NUM_STREAMS": 2}, store=sys.argv[2])
zeros = numpy.zeros((512, 512), "f4")
taken = 0
def items():
    global taken
    while True:
        taken += 1
        yield zeros
try:
    for result in model.map(items()):
        print("running", flush=True)
except KeyboardInterrupt:
    print("stopped", len(model._requests._idle) <= 3, not model(zeros).any(), next(model.map([zeros])).any())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT that reaches one process only")
def test_ctrl_c_ends_it_and_leaves_the_model_usable(power: Model, loaded: Loader) -> None:
    arguments = [sys.executable, "-c", INTERRUPTED, power.bundle.reference, str(loaded.store.home)]
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # A suite that runs in the background has SIGINT ignored, and its children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert err == ""
    assert out.splitlines()[-1] == "stopped True True False"
    assert process.returncode == 0
