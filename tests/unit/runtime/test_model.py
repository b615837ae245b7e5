from __future__ import annotations

import asyncio
import gc
import re
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import openvino.opset13 as ops
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npu_persist import Model, load
from npu_persist.bundle.graph_records import Dimension, Port
from npu_persist.bundle.signature import ModelOutput
from npu_persist.errors import InferenceError, InputError
from npu_persist.runtime.lanes import LENT
from npu_persist.runtime.report import LiveReport
from npu_persist.runtime.requests import Requests
from tests.support.graphs import (
    AFFINE_OF_GRID,
    GRID,
    make_model,
    parameter,
    publish_affine,
    publish_aliased,
    publish_broadcast,
    publish_dtypes,
    publish_dynamic,
    publish_graph,
    publish_nested,
    publish_power,
    publish_sum,
)
from tests.support.loaded import LARGE, Loader
from tests.support.processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.store import Store

POWER = (512, 512)
"""A shape that takes a while to multiply."""


@pytest.fixture
def power(loaded: Loader) -> Model:
    """`x -> x` to the power of 21, as matrices, which takes a while."""
    return loaded(publish_power, POWER[0], 20)


class TestResults:
    def test_are_writable_copies_that_no_later_call_changes(self, affine: Model) -> None:
        first, inferred = affine(GRID), affine.infer([GRID])[0]
        second = affine(GRID + 1)
        assert not np.shares_memory(first, second)
        assert np.array_equal(first, AFFINE_OF_GRID)
        assert np.array_equal(inferred, AFFINE_OF_GRID)
        assert first.flags.owndata
        assert first.flags.writeable
        assert first.flags.c_contiguous
        first[:] = 7
        assert np.array_equal(affine(GRID), AFFINE_OF_GRID)

    def test_of_every_dtype(self, loaded: Loader) -> None:
        model = loaded(publish_dtypes)
        values = [np.array([[0, 1], [1, 3]], port.dtype) for port in model.inputs]
        before = [value.copy() for value in values]
        results = model(*values)
        assert [result.dtype for result in results] == [np.dtype(port.dtype) for port in model.outputs]
        for value, kept, changed, same in zip(values, before, results[:12], results[12:], strict=True):
            assert np.array_equal(value, kept)
            assert np.array_equal(same, value)
            assert np.array_equal(changed, ~value if value.dtype == bool else value + value)
            assert not np.shares_memory(same, value)

    def test_that_are_one_thing_in_the_graph_are_arrays_of_their_own(self, loaded: Loader) -> None:
        x = np.array([[-1, 2], [3, -4]], np.float32)
        results = loaded(publish_aliased)(x)
        for result, expected in zip(results, [x, x.clip(0), x, x.clip(0)], strict=True):
            assert np.array_equal(result, expected)
        for index, result in enumerate(results):
            result[:] = index
        assert [result[0, 0] for result in results] == [0, 1, 2, 3]
        assert x[0, 0] == -1

    def test_of_a_nested_signature(self, loaded: Loader) -> None:
        model = loaded(publish_nested)
        x, vector = np.arange(4, dtype=np.float32).reshape(2, 2), np.array([1, 2], np.float32)
        found: Any = model(
            x, (vector, {"a": 10}), vector, [0, 0], output={"last": vector}, scale=2.0, return_dict=True, level=3
        )
        assert repr(type(found)) == repr(ModelOutput)
        assert np.array_equal(found.values, x + 3 * vector + 10)
        assert found.pair.second is found.values
        assert np.array_equal(found["parts"]["list"][0], x + 1)
        assert found["parts"]["list"][1] == 7
        assert found.loss is None
        with pytest.raises(InputError, match=r"argument scale: expected 2\.0"):
            model(x, (vector, {"a": 10}), vector, vector, output={"last": vector}, return_dict=True, level=3)


class TestInfer:
    def test_takes_names_and_gives_a_list(self, dynamic: Model) -> None:
        x, y, z = np.ones((2, 4), np.float32), -np.ones((2, 3), np.float32), np.ones(5, np.float32)
        by_name = dynamic.infer({"z": z, "x": x, "y": y})
        by_order = dynamic.infer((x, y, z))
        assert isinstance(by_name, list)
        for first, second, expected in zip(by_name, by_order, [2 * x, 0 * y, np.array(5)], strict=True):
            assert np.array_equal(first, second)
            assert np.array_equal(first, expected)

    @pytest.mark.parametrize(
        ("values", "argument", "got"),
        [
            ({"x": 1, "y": 2}, "z", "missing ['z'], unknown []"),
            ({"x": 1, "y": 2, "z": 3, "w": 4}, "w", "missing [], unknown ['w']"),
            ({"x": 1, "y": 2, 3: 3}, "z", "missing ['z'], unknown [3]"),
            ({}, "x", "missing ['x', 'y', 'z'], unknown []"),
            ([1, 2], None, "2 inputs"),
            ([1, 2, 3, 4], None, "4 inputs"),
        ],
    )
    def test_other_inputs_are_refused(self, dynamic: Model, values: Any, argument: str | None, got: str) -> None:
        with pytest.raises(InputError, match=r"expected the inputs \['x', 'y', 'z'\]") as caught:
            dynamic.infer(values)
        assert (caught.value.argument, caught.value.got) == (argument, got)


class TestDynamicShapes:
    @staticmethod
    def call(model: Model, batch: int, width: int) -> None:
        x = np.full((batch, 4), batch, np.float32)
        y = np.full((batch, width), width, np.float32)
        double, same, total = model(x, y, np.ones(2 * batch + 1, np.float32))
        assert np.array_equal(double, 2 * x)
        assert np.array_equal(same, y)
        assert total.shape == ()
        assert total == 2 * batch + 1

    def test_sizes_may_change_from_call_to_call(self, dynamic: Model) -> None:
        # Small and large, so that inputs are copied and read where they are in turn; zero is a size too.
        for batch, width in [(1, 1), (8, 3), (1, LENT), (2, 0), (8, 1), (3, LENT // 2), (3, LENT // 2), (1, 2)]:
            self.call(dynamic, batch, width)

    def test_no_array_of_a_caller_is_written_to(self, dynamic: Model) -> None:
        # The CPU plugin copies an input that was not set to where the input of the request before was.
        mine = [np.full((2, 4), 1, np.float32), np.full((2, LENT), 2, np.float32), np.full(5, 3, np.float32)]
        dynamic.compiled(mine)
        self.call(dynamic, 3, 7)
        dynamic(*mine)
        self.call(dynamic, 4, 7)
        dynamic.compiled.create_infer_request().infer([np.full_like(array, 9) for array in mine])
        assert [set(array.ravel().tolist()) for array in mine] == [{1.0}, {2.0}, {3.0}]

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (((9, 4), (9, 1), (19,)), r"argument x: expected size 1\.\.8 on axis 0 \(batch\); got 9: float32\[9, 4\]"),
            (((0, 4), (0, 1), (1,)), r"argument x: expected size 1\.\.8 on axis 0 \(batch\); got 0"),
            (((2, 3), (2, 1), (5,)), r"argument x: expected size 4 on axis 1; got 3"),
            (((2, 4), (3, 1), (5,)), r"argument y: expected batch = 2 on axis 0, since batch = 2 in x; got 3"),
            (((2, 4), (2, 1), (6,)), r"argument z: expected 2\*batch\+1 = 5 on axis 0, since batch = 2 in x; got 6"),
            (((2, 4), (2, 1), (1,)), r"argument z: expected size 3\.\.17 on axis 0 \(2\*batch\+1\); got 1"),
            (((2, 4), (2,), (5,)), r"argument y: expected rank 2; got rank 1"),
        ],
    )
    def test_sizes_out_of_bounds_or_at_odds_are_refused(self, dynamic: Model, shapes: Any, message: str) -> None:
        with pytest.raises(InputError, match=message + r".*Expected \(x: float32\[batch:1\.\.8, 4\], "):
            dynamic(*(np.zeros(shape, np.float32) for shape in shapes))

    def test_sizes_that_only_the_graph_refuses(self, loaded: Loader) -> None:
        ports = [Port(name, "float32", (Dimension(None, 2, None),)) for name in "ab"]

        def publish(store: Store, name: str) -> Any:
            nodes = [parameter(port) for port in ports]
            model = make_model(nodes, [("c", ops.add(*nodes))])
            return publish_graph(store, model, ports, [Port("c", "float32", ports[0].shape)], name=name)

        model = loaded(publish, name="sum")
        assert model([1, 2], [3, 4]).tolist() == [4, 6]
        with pytest.raises(InputError, match=r"could not run the model on these sizes.*float32\[2\], float32\[3\]"):
            model([1, 2], [3, 4, 5])
        assert model([1, 2, 3], [4, 5, 6]).tolist() == [5, 7, 9]


class TestSubmit:
    def test_gives_the_future_of_what_a_call_gives(self, affine: Model, loaded: Loader) -> None:
        assert np.array_equal(affine.submit(x=GRID).result(), AFFINE_OF_GRID)
        vector = np.zeros(2, np.float32)
        arguments = np.zeros((2, 2), np.float32), (vector, {"a": 10}), vector, [0, 0]
        keywords: dict[str, Any] = {"output": {"last": vector}, "return_dict": True, "level": 3}
        found = loaded(publish_nested).submit(*arguments, **keywords, scale=2.0).result()
        assert np.array_equal(found["values"], np.full((2, 2), 10))

    def test_inputs_belong_to_the_caller_when_it_returns(self, large: Model) -> None:
        x = np.zeros(LARGE, np.float32)
        futures = []
        for step in range(6):
            x[:] = step
            futures.append(large.submit(x))
        x[:] = -1
        assert [(future.result() == step).all() for step, future in enumerate(futures)] == [True] * 6

    def test_refuses_inputs_at_once(self, affine: Model, dynamic: Model) -> None:
        with pytest.raises(InputError, match="argument x: expected float32"):
            affine.submit(GRID.astype(np.float64))
        with pytest.raises(InputError, match="expected batch = 2"):
            dynamic.submit(np.ones((2, 4), "f4"), np.ones((3, 1), "f4"), np.ones(5, "f4"))

    def test_what_the_device_refuses_is_in_the_future(self, loaded: Loader) -> None:
        model = loaded(publish_broadcast)
        futures = [model.submit([1, 2, 3, 4], [1, 4 + index % 2]) for index in range(8)]
        for index, future in enumerate(futures):
            if index % 2:
                assert isinstance(future.exception(), InferenceError)
            else:
                assert future.result() == 10

    def test_what_waits_can_be_cancelled(self, power: Model) -> None:
        futures = [power.submit(np.zeros(POWER, np.float32)) for _ in range(8)]
        assert futures[-1].cancel()
        with pytest.raises(CancelledError):
            futures[-1].result()
        assert not futures[0].result().any()
        assert not futures[0].cancel()
        assert not futures[-2].result().any()

    def test_can_be_awaited(self, affine: Model) -> None:
        async def run() -> list[Any]:
            return await asyncio.gather(*(asyncio.wrap_future(affine.submit(GRID + step)) for step in range(10)))

        for step, found in enumerate(asyncio.run(run())):
            assert np.array_equal(found, (GRID + step) * [1, 2, 3] + 0.5)

    def test_a_model_that_nobody_holds_still_answers(self, loaded: Loader) -> None:
        reference = publish_affine(loaded.store, name="dropped").reference
        futures = [load(reference, "CPU", store=loaded.store).submit(GRID) for _ in range(3)]
        gc.collect()
        assert all(np.array_equal(future.result(), AFFINE_OF_GRID) for future in futures)


class TestFailures:
    def test_name_the_bundle_the_device_and_the_cause(self, loaded: Loader) -> None:
        model = loaded(publish_broadcast)
        assert model([1, 2, 3, 4], [1, 4]) == 10
        with pytest.raises(InferenceError) as caught:
            model([1, 2, 3, 4], [3, 3])
        assert re.fullmatch(
            r"broadcast:1 failed on CPU with the inputs float32\[4\], int64\[2\]: .*OpenVINO said: .*Broadcast node.*",
            str(caught.value),
            re.DOTALL,
        )
        assert isinstance(caught.value, RuntimeError)
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert model([1, 2, 3, 4], [1, 4]) == 10


class TestState:
    @pytest.fixture
    def total(self, loaded: Loader) -> Model:
        model = loaded(publish_sum)
        model.reset()
        return model

    def test_goes_from_call_to_call_until_the_reset(self, total: Model, affine: Model) -> None:
        assert (total.has_state, affine.has_state) == (True, False)
        assert [total(np.full(4, step, "f4"))[0] for step in range(4)] == [0, 1, 3, 6]
        total.reset()
        assert total(np.ones(4, "f4")).tolist() == [1, 1, 1, 1]
        affine.reset()

    def test_is_one_for_all_ways_of_running_in_order(self, total: Model) -> None:
        one = np.ones(4, np.float32)
        futures = [total.submit(one) for _ in range(20)]
        started = total.start(one)
        assert total(one)[0] == 22  # after all that was asked for before, though nothing was waited for
        assert [future.result()[0] for future in futures] == list(range(1, 21))
        assert started.result()[0] == 21
        assert [result[0] for result in total.map([one] * 5)] == [23, 24, 25, 26, 27]
        future = total.submit(one)
        total.reset()
        assert future.result()[0] == 28
        assert total.infer([one], share_outputs=True)[0].tolist() == [1] * 4

    def test_takes_one_request(self, total: Model) -> None:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: total(np.ones(4, "f4"))[0], range(40)))
        assert sorted(found) == list(range(1, 41))
        assert len(total._requests._idle) == 1

    def test_map_takes_what_it_gives(self, total: Model) -> None:
        results = total.map([np.ones(4, "f4")] * 10)
        next(results)
        next(results)
        results.close()
        assert total(np.ones(4, "f4"))[0] == 3

    def test_warming_up_and_profiling_leave_it(self, loaded: Loader) -> None:
        model = loaded(publish_sum, config={"PERF_COUNT": True})
        model(np.ones(4, "f4"))
        model.warm_up()
        model.warm_up([np.full(4, 7, "f4")])
        model.profile(runs=3)
        assert model(np.ones(4, "f4"))[0] == 2

    def test_a_call_that_is_interrupted_leaves_no_inference(
        self, total: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: Any) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr("npu_persist.runtime.requests.wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            total(np.ones(4, "f4"))
        assert len(total._requests._idle) == 1
        total.reset()
        assert total(np.ones(4, "f4"))[0] == 1


class TestWarmUp:
    def test_makes_every_request_ready(self, affine: Model, dynamic: Model) -> None:
        affine.warm_up()
        affine.warm_up([GRID])
        dynamic.warm_up()
        dynamic.warm_up({"x": np.ones((8, 4), "f4"), "y": np.ones((8, 2), "f4"), "z": np.ones(17, "f4")})
        assert np.array_equal(affine(GRID), AFFINE_OF_GRID)

    def test_refuses_inputs_that_do_not_fit(self, affine: Model) -> None:
        with pytest.raises(InputError, match="2 inputs"):
            affine.warm_up([GRID, GRID])


def wrap_again(model: Model) -> Model:
    """Return another model around the same compiled one, that has run nothing yet."""
    report = LiveReport(msgspec.structs.replace(model.report, phases={}), [model.compiled])
    requests = Requests(model.compiled, model._plan, model.bundle.reference, report.note_first_inference)
    return Model(model.bundle, model.graph, model._plan, requests, report)


class TestFirstInference:
    @pytest.mark.parametrize("way", ["call", "submit", "map", "start", "warm_up"])
    def test_is_timed_once(self, loaded: Loader, way: str) -> None:
        model = wrap_again(loaded(publish_affine))
        run: dict[str, Callable[[], object]] = {
            "call": lambda: model(GRID),
            "submit": lambda: model.submit(GRID).result(),
            "map": lambda: list(model.map([GRID] * 5)),
            "start": lambda: model.start(GRID).result(),
            "warm_up": model.warm_up,
        }
        assert "first_inference" not in model.report.phases
        run[way]()
        seconds = model.report.phases["first_inference"]
        assert seconds > 0
        for other in run.values():
            other()
        assert model.report.phases["first_inference"] == seconds

    def test_is_the_first_that_succeeds(self, loaded: Loader) -> None:
        model = wrap_again(loaded(publish_broadcast))
        with pytest.raises(InferenceError):
            model([1, 2, 3, 4], [3, 3])
        assert "first_inference" not in model.report.phases
        model([1, 2, 3, 4], [2, 4])
        assert "first_inference" in model.report.phases


LOAD_IN_THREADS = """
import faulthandler, sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import numpy
import npu_persist
faulthandler.dump_traceback_later(20, exit=True)
barrier = Barrier(8)
def call(_):
    barrier.wait()
    model = npu_persist.load("dynamic", "CPU", store=sys.argv[1])
    return model(numpy.ones((2, 4), "f4"), numpy.ones((2, 1), "f4"), numpy.ones(5, "f4"))[2]
with ThreadPoolExecutor(8) as pool:
    print(*pool.map(call, range(8)))
"""


class TestThreads:
    def test_many_threads_load_first_thing_in_a_process(self, loaded: Loader) -> None:
        loaded(publish_dynamic)
        for _ in range(3):  # as it deadlocks in every other process if it can
            done = run_python("-c", LOAD_IN_THREADS, str(loaded.store.home))
            assert (done.stdout.split(), done.stderr) == (["5.0"] * 8, "")

    def test_many_threads_call_one_model(self, affine: Model, large: Model) -> None:
        def call(seed: int) -> bool:
            x = np.full((2, 3), seed, np.float32)
            good = all(np.array_equal(affine(x + step), (x + step) * [1, 2, 3] + 0.5) for step in range(40))
            big = np.full(LARGE, seed, np.float32)
            return good and all(bool((large(big) == seed).all()) for _ in range(3))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(call, range(16)))

    def test_with_dynamic_shapes(self, dynamic: Model) -> None:
        def call(seed: int) -> None:
            for step in range(30):
                width = LENT // 8 if (seed, step) == (3, 5) else (seed * step) % 5
                TestDynamicShapes.call(dynamic, (seed + step) % 8 + 1, width)

        with ThreadPoolExecutor(8) as pool:
            assert len(list(pool.map(call, range(16)))) == 16

    def test_there_are_never_more_requests_than_calls_at_once(self, affine: Model) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: affine(GRID), range(100)))
        assert len(affine._requests._idle) <= 9  # 8 of the test above, and this one's own thread


def test_says_what_it_is(affine: Model) -> None:
    assert repr(affine) == "<Model affine:1 (x: float32[2, 3]) -> float32[2, 3]>"
    assert affine.inputs == (Port("x", "float32", (2, 3)),)
    assert affine.outputs == (Port("y", "float32", (2, 3)),)
    assert affine.bundle.reference == "affine:1"
    assert affine.signature.parameters[0].name == "x"
    assert np.array_equal(affine.compiled(GRID)[0], AFFINE_OF_GRID)


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(0, 10), width=st.integers(0, 5), length=st.integers(0, 20))
def test_a_call_fits_or_is_refused(loaded: Loader, batch: int, width: int, length: int) -> None:
    model = loaded(publish_dynamic)
    values = np.ones((batch, 4), np.float32), np.ones((batch, width), np.float32), np.ones(length, np.float32)
    if 1 <= batch <= 8 and length == 2 * batch + 1:
        assert model(*values)[2] == length
    else:
        with pytest.raises(InputError, match="on axis 0"):
            model(*values)
