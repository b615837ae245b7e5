"""Closing a model: what runs ends first, what is held is given back, and later calls say so."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from npu_persist import load
from npu_persist.cache import CompileCache
from npu_persist.errors import ModelClosedError, UsageError
from tests.support.graphs import publish_affine, publish_power, publish_sum, publish_text
from tests.support.loads import AFFINE_OF_GRID, GRID, is_right

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist import Model
    from npu_persist.store import Store

SQUARE = (256, 256)
ZEROS = np.zeros(SQUARE, np.float32)


@pytest.fixture
def affine(store: Store) -> Model:
    publish_affine(store)
    return load("affine", "CPU", store=store)


USES: dict[str, Callable[[Model], Any]] = {
    "call": lambda model: model(GRID),
    "infer": lambda model: model.infer([GRID]),
    "submit": lambda model: model.submit(GRID),
    "map": lambda model: next(model.map([GRID])),
    "start": lambda model: model.start(GRID),
    "reset": lambda model: model.reset(),
    "warm_up": lambda model: model.warm_up(),
    "profile": lambda model: model.profile(),
    "compiled": lambda model: model.compiled,
}


class TestAfterwards:
    @pytest.mark.parametrize("use", USES)
    def test_each_use_says_that_it_is_closed(self, affine: Model, use: str) -> None:
        affine.close()
        with pytest.raises(ModelClosedError, match="affine:1: the model is closed"):
            USES[use](affine)

    def test_the_report_and_the_signature_stay(self, affine: Model) -> None:
        affine(GRID)
        affine.close()
        assert affine.report.execution_devices == ("CPU",)
        assert "first_inference" in affine.report.phases
        assert [port.name for port in affine.inputs] == ["x"]
        assert "affine:1" in repr(affine)

    def test_twice_is_fine(self, affine: Model) -> None:
        affine.close()
        affine.close()

    def test_the_end_of_a_block_closes(self, affine: Model) -> None:
        with affine as model:
            assert model is affine
            assert is_right(model)
        with pytest.raises(ModelClosedError):
            affine(GRID)

    def test_a_bundle_with_buckets(self, store: Store) -> None:
        publish_text(store, buckets=[(1, 16), (1, 64)])
        model = load("text", "CPU", store=store)
        model(np.ones((1, 3), np.int64))
        model.close()
        for size in (3, 16, 20):
            with pytest.raises(ModelClosedError):
                model(np.ones((1, size), np.int64))
            with pytest.raises(ModelClosedError):
                model.submit(np.ones((1, size), np.int64))

    def test_a_bundle_with_a_state(self, store: Store) -> None:
        model = load(publish_sum(store).reference, "CPU", store=store)
        futures = [model.submit(np.ones(4, np.float32)) for _ in range(3)]
        model.close()
        assert [float(np.ravel(future.result())[0]) for future in futures] == [1, 2, 3]
        for use in (model.reset, lambda: model(np.ones(4, np.float32)), model.warm_up):
            with pytest.raises(ModelClosedError):
                use()


class TestGivesBack:
    def test_the_compiled_model_and_the_mark_on_the_cache_entry(self, store: Store, affine: Model) -> None:
        gone = weakref.ref(affine.compiled)
        (entry,) = CompileCache(store.home).entries()
        assert entry.in_use
        affine(GRID)
        gc.disable()  # what has to go, goes without the collector
        try:
            affine.close()
            assert gone() is None
            assert not entry.in_use
        finally:
            gc.enable()

    def test_while_somebody_holds_the_compiled_model_it_can_be_used(self, store: Store, affine: Model) -> None:
        affine.close()
        second = load("affine", "CPU", store=store)  # from the cache: it reads a blob and the weights
        compiled = second.compiled
        second.close()
        gc.collect()
        assert np.array_equal(compiled(GRID)[0], AFFINE_OF_GRID)

    def test_what_was_started_is_released(self, affine: Model) -> None:
        done, waiting = affine.start(GRID), affine.start(GRID)
        assert done.wait()
        affine.close()
        for started in (done, waiting):
            assert "released" in repr(started)
            with pytest.raises(UsageError, match="released"):
                started.result()
            started.release()


class TestWhileItRuns:
    def test_calls_end_first_and_no_thread_waits_forever(self, store: Store) -> None:
        publish_power(store, SQUARE[0], 10)
        model = load("power", "CPU", store=store)
        expected = model(ZEROS)
        began = threading.Barrier(5)
        done: list[bool] = []
        closed: list[BaseException] = []

        def call() -> None:
            began.wait()
            try:
                while True:
                    done.append(np.array_equal(model(ZEROS), expected))
            except ModelClosedError as error:
                closed.append(error)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        began.wait()
        while len(done) < 8:
            pass
        model.close()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert all(done)
        assert len(closed) == 4

    def test_what_was_queued_is_finished(self, store: Store) -> None:
        publish_power(store, SQUARE[0], 10)
        with load("power", "CPU", store=store) as model:
            futures = [model.submit(ZEROS) for _ in range(8)]
        assert all(future.done() for future in futures)
        assert all(future.result().shape == SQUARE for future in futures)

    def test_several_threads_close_it(self, affine: Model) -> None:
        threads = [threading.Thread(target=affine.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with pytest.raises(ModelClosedError):
            affine(GRID)
