from __future__ import annotations

import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from npu_persist.errors import InferenceError, InputError, UsageError
from tests.support.graphs import (
    publish_broadcast,
    publish_dynamic,
    publish_nested,
    publish_power,
    publish_sum,
)

if TYPE_CHECKING:
    from npu_persist import Model
    from tests.support.loaded import Loader

ROW = np.arange(6, dtype=np.float32).reshape(2, 3)
AFFINE_OF_ROW = ROW * [1, 2, 3] + 0.5
SQUARE = (512, 512)


@pytest.fixture
def power(loaded: Loader) -> Model:
    """A model that takes its time."""
    return loaded(publish_power, SQUARE[0], 60)


def idle(model: Model) -> int:
    return len(model._requests._idle)


class TestOutputs:
    def test_come_one_by_one_by_name_or_position(self, loaded: Loader) -> None:
        model = loaded(publish_dynamic)
        x, y, z = np.ones((2, 4), "f4"), np.full((2, 3), 2, "f4"), np.ones(5, "f4")
        started = model.start(x, y=y, z=z)
        assert np.array_equal(started.output("y.copy"), y)
        assert np.array_equal(started.output(0), 2 * x)
        assert [result.shape for result in started.result()] == [(2, 4), (2, 3), ()]

    def test_come_in_the_modules_structure(self, loaded: Loader) -> None:
        vector = np.zeros(2, np.float32)
        arguments = np.zeros((2, 2), np.float32), (vector, {"a": 10}), vector, [0, 0]
        keywords: dict[str, Any] = {"output": {"last": vector}, "return_dict": True, "level": 3, "scale": 2.0}
        found = loaded(publish_nested).start(*arguments, **keywords).result()
        assert np.array_equal(found["values"], np.full((2, 2), 10))

    def test_are_copies_that_outlive_it(self, affine: Model) -> None:
        with affine.start(ROW) as started:
            first, second = started.output("y"), started.result()
        for _ in range(3):
            affine(ROW + 1)
        assert np.array_equal(first, AFFINE_OF_ROW)
        assert np.array_equal(second, AFFINE_OF_ROW)

    def test_stay_while_others_run(self, affine: Model) -> None:
        several = [affine.start(ROW + step) for step in range(5)]
        for step in range(5):
            affine(ROW * step)
            list(affine.map([ROW] * 3))
        for step, started in enumerate(several):
            assert np.array_equal(started.result(), (ROW + step) * [1, 2, 3] + 0.5)

    def test_of_no_such_name_are_refused(self, affine: Model) -> None:
        started = affine.start(ROW)
        for wrong in ("z", 1, -1, None):
            with pytest.raises(UsageError, match=r"expected one of the outputs \['y'\], or a position from 0 to 0"):
                started.output(wrong)  # type: ignore[arg-type]


class TestWait:
    def test_tells_whether_it_is_done(self, power: Model) -> None:
        with power.start(np.zeros(SQUARE, np.float32)) as started:
            assert started.wait(0) is False
            assert "running" in repr(started)
            assert started.wait() is True
            assert started.wait(0) is True
            assert "done" in repr(started)
            assert not started.result().any()

    def test_inputs_belong_to_the_caller_meanwhile(self, power: Model) -> None:
        x = np.zeros(SQUARE, np.float32)
        with power.start(x) as started:
            x[:] = 1
            assert not started.result().any()

    def test_raises_what_went_wrong(self, loaded: Loader, affine: Model) -> None:
        model = loaded(publish_broadcast)
        started = model.start([1, 2, 3, 4], [3, 3])
        for ask in (started.wait, started.result, lambda: started.output("total")):
            with pytest.raises(InferenceError, match="failed on CPU"):
                ask()
        assert idle(model) == 1
        with pytest.raises(InputError, match="argument x: expected float32"):
            affine.start(ROW.astype(np.float64))


class TestRelease:
    def test_gives_the_request_back(self, affine: Model) -> None:
        affine(ROW)
        before = idle(affine)
        with affine.start(ROW) as started:
            started.wait()
            assert idle(affine) == before - 1
        assert idle(affine) == before
        started.release()
        assert idle(affine) == before
        assert "released" in repr(started)

    def test_so_does_the_garbage_collector(self, affine: Model) -> None:
        affine(ROW)
        before = idle(affine)
        started = affine.start(ROW)
        started.wait()
        assert idle(affine) == before - 1
        del started
        gc.collect()
        assert idle(affine) == before

    def test_ends_what_still_runs(self, power: Model) -> None:
        with power.start(np.zeros(SQUARE, np.float32)) as running, power.start(np.zeros(SQUARE, np.float32)) as waiting:
            assert not waiting.wait(0)
            assert not running.wait(0)
        assert not power(np.zeros(SQUARE, np.float32)).any()
        assert not power.submit(np.zeros(SQUARE, np.float32)).result().any()
        assert idle(power) == len({id(lane) for lane in power._requests._idle})

    def test_is_the_end(self, affine: Model) -> None:
        started = affine.start(ROW)
        started.release()
        for ask in (started.wait, started.result, lambda: started.output("y")):
            with pytest.raises(UsageError, match="this inference was released, and its outputs are gone"):
                ask()

    def test_during_a_copy_waits_for_it(self, affine: Model) -> None:
        for _ in range(50):
            started = affine.start(ROW)
            started.wait()
            thread = threading.Thread(target=started.release)
            thread.start()
            with contextlib.suppress(UsageError):  # if it was released before
                assert np.array_equal(started.result(), AFFINE_OF_ROW)
            thread.join()


class TestState:
    def test_holds_no_request(self, loaded: Loader) -> None:
        model = loaded(publish_sum)
        first = model.start(np.ones(4, "f4"))
        assert model(np.ones(4, "f4"))[0] == 2
        second = model.start(np.ones(4, "f4"))
        assert (first.result()[0], second.output("total")[0]) == (1, 3)
        first.release()
        with pytest.raises(UsageError, match="released"):
            first.result()

    def test_goes_on_when_it_is_dropped(self, loaded: Loader) -> None:
        model = loaded(publish_sum, name="dropped")
        for _ in range(5):
            model.start(np.ones(4, "f4"))
        assert model(np.ones(4, "f4"))[0] == 6


def test_from_many_threads(affine: Model) -> None:
    def run(seed: int) -> bool:
        good = True
        for step in range(20):
            with affine.start(ROW + seed * step) as started:
                good &= np.array_equal(started.result(), (ROW + seed * step) * [1, 2, 3] + 0.5)
        return good

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(16)))
