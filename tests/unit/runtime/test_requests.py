from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from npu_persist.errors import InferenceError
from npu_persist.runtime.requests import Inference, stop, wait_for
from npu_persist.store import Store
from tests.support.graphs import publish_affine, publish_broadcast, publish_power, publish_sum
from tests.support.processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from npu_persist import Model
    from tests.support.loaded import Loader

SQUARE = (512, 512)
ZEROS = np.zeros(SQUARE, np.float32)


OUTLIVE = """
import sys, threading
import numpy, npu_persist

def work():
    threading.main_thread().join()
    model = npu_persist.load("affine", "CPU", store={store!r})
    sys.stdout.write(str(model(numpy.ones((2, 3), numpy.float32))[0, 0]))

threading.Thread(target=work).start()
"""


@pytest.fixture
def power(loaded: Loader) -> Model:
    """A model that takes its time."""
    return loaded(publish_power, SQUARE[0], 40)


class TestInference:
    def test_that_is_stopped_while_it_runs_ends_early(self, power: Model) -> None:
        requests = power._requests
        power.warm_up([ZEROS])
        job = Inference(requests, [ZEROS])
        future = requests.queue(job)
        while job._lane is None:
            time.sleep(0)
        stop([(future, job)])
        assert future.done()
        # Asked for between taking the request and the inference, it runs to its end.
        assert future.exception() is None or "was canceled" in str(future.exception())
        assert requests.run([ZEROS])[0].shape == SQUARE

    def test_that_was_stopped_before_never_runs(self, power: Model) -> None:
        requests = power._requests
        blocking, waiting = Inference(requests, [ZEROS]), Inference(requests, [ZEROS])
        pending = [(requests.queue(job), job) for job in (blocking, waiting)]
        waiting.release()
        stop(pending)
        assert waiting._lane is None
        assert all(future.done() for future, _ in pending)

    def test_takes_a_request_and_gives_it_back(self, loaded: Loader) -> None:
        requests = loaded(publish_broadcast)._requests
        for shape in ([2, 4], [3, 3]):
            job = Inference(requests, [np.ones(4, np.float32), np.array(shape)], is_kept=True)
            idle = len(requests._idle)
            future = requests.queue(job)
            wait_for([future])
            # One that failed has nothing to keep.
            assert len(requests._idle) == idle - (future.exception() is None)
            job.release()
            job.release()
            assert len(requests._idle) == idle


class TestWaiting:
    def test_ends_when_the_time_is_up(self, power: Model) -> None:
        future = power.submit(ZEROS)
        assert wait_for([future], 0) is False
        assert wait_for([future], 60) is True
        assert wait_for([future], 0) is True


class TestNumber:
    def test_of_workers_is_what_the_device_likes_best(self, loaded: Loader) -> None:
        assert loaded(publish_affine, config={"NUM_STREAMS": 2})._requests.optimal == 2
        assert loaded(publish_sum, config={"NUM_STREAMS": 2})._requests.optimal == 1

    def test_that_the_device_has_no_room_for(self, loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
        model = loaded(publish_affine, name="no-room")

        def refuse(_: object) -> None:
            raise RuntimeError("ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY")

        native = type(model.compiled).__mro__[1]
        monkeypatch.setattr(native, "create_infer_request", refuse)
        x = np.ones((2, 3), np.float32)
        with model.start(x) as started:
            assert started.wait()
            with pytest.raises(InferenceError, match=r"no-room:1: CPU could not create another .* said: ZE_RESULT"):
                model(x)
        assert model(x).shape == (2, 3)


def test_a_thread_that_outlives_the_main_one_loads_and_calls(tmp_path: Path) -> None:
    publish_affine(Store(tmp_path))
    found = run_python("-c", OUTLIVE.format(store=str(tmp_path)))
    assert found.stdout == "1.5", found.stderr


def count_while(run: Callable[[], object]) -> float:
    """Return how often a busy thread of Python gets on in a second while something runs."""
    is_over = threading.Event()
    counted = [0]

    def count() -> None:
        while not is_over.is_set():
            counted[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    before, start = counted[0], time.perf_counter()
    run()
    found = (counted[0] - before) / (time.perf_counter() - start)
    is_over.set()
    thread.join()
    return found


@pytest.mark.parametrize("way", ["call", "infer", "shared", "submit", "start", "map"])
def test_python_goes_on_while_the_device_works(loaded: Loader, way: str) -> None:
    model = loaded(publish_power, SQUARE[0], 40, name="long")
    runs: dict[str, Callable[[], Any]] = {
        "call": lambda: model(ZEROS),
        "infer": lambda: model.infer([ZEROS]),
        "shared": lambda: model(ZEROS, share_inputs=True, share_outputs=True),
        "submit": lambda: model.submit(ZEROS).result(),
        "start": lambda: model.start(ZEROS).output(0),
        "map": lambda: list(model.map([ZEROS])),
    }
    alone = count_while(lambda: time.sleep(0.1))
    # The device has the processors too: a tenth is what a thread gets at the very least that is not shut out.
    assert max(count_while(runs[way]) for _ in range(2)) > alone / 10


def use_in_every_way(affine: Model, broadcast: Model) -> dict[str, Callable[[np.ndarray[Any, Any]], bool]]:
    """Return the ways to use a model, each of which tells whether the answers were right."""

    def is_right(y: Any, x: Any) -> bool:
        return np.array_equal(y, x * [1, 2, 3] + 0.5)

    def submit(x: Any) -> bool:
        futures = [affine.submit(x + index) for index in range(3)]
        return all(is_right(future.result(), x + index) for index, future in enumerate(futures))

    def start(x: Any) -> bool:
        with affine.start(x) as started:
            return is_right(started.result(), x)

    def map_all(x: Any) -> bool:
        return all(is_right(y, x + step) for step, y in enumerate(affine.map(x + step for step in range(5))))

    def fail(x: Any) -> bool:
        with pytest.raises(InferenceError):
            broadcast(x[0, :1].repeat(4), [3, 3])
        return bool(broadcast(x[0, :1].repeat(4), [2, 4]) == 8 * x[0, 0])

    def drop(x: Any) -> bool:
        return affine.start(x) is not None

    def close(x: Any) -> bool:
        results = affine.map(x + index for index in range(9))
        first = next(results)
        results.close()
        return is_right(first, x)

    return {
        "call": lambda x: is_right(affine(x), x),
        "lent": lambda x: is_right(affine(x, share_inputs=True), x),
        "submit": submit,
        "start": start,
        "map": map_all,
        "failing": fail,
        "dropped": drop,
        "closed": close,
    }


def test_all_ways_at_once_give_right_answers(loaded: Loader) -> None:
    affine, broadcast = loaded(publish_affine), loaded(publish_broadcast)
    ways = use_in_every_way(affine, broadcast)

    def run(seed: int) -> list[str]:
        order = random.Random(seed).choices(sorted(ways), k=25)  # noqa: S311 (which way comes next)
        arrays = (np.full((2, 3), seed * 100 + step, np.float32) for step in range(25))
        return [way for way, x in zip(order, arrays, strict=True) if not ways[way](x)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(16))) == [[]] * 16
    for model in (affine, broadcast):
        idle = model._requests._idle
        assert len({id(lane) for lane in idle}) == len(idle)
