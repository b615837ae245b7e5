"""Sessions: each has a state of its own; a call that does not fit the state leaves it as it was."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino.opset13 as ops
import pytest
from msgspec.structs import replace

import npu_persist
from npu_persist import Model, check, load
from npu_persist.bundle.golden_records import Tolerance
from npu_persist.bundle.graph_records import Port, State
from npu_persist.bundle.reference import HubReference
from npu_persist.bundle.states import describe_state, require_fixed
from npu_persist.errors import (
    DynamicShapeError,
    GraphIntegrityError,
    InferenceError,
    InputError,
    ModelClosedError,
    StateCapacityError,
    StateError,
    UsageError,
)
from npu_persist.hub.card import make_section
from tests.support.graphs import (
    GRID,
    MEMORY,
    make_model,
    parameter,
    publish_affine,
    publish_graph,
    publish_memory,
    publish_sum,
)
from tests.support.second_device import SECOND
from tests.support.signers import pulled

if TYPE_CHECKING:
    import openvino as ov

    from npu_persist.store import Store


@pytest.fixture
def memory(store: Store) -> Model:
    publish_memory(store)
    return load("memory", "CPU", store=store)


def ones(batch: int = 1, time: int = 1, value: float = 1) -> Any:
    return np.full((batch, time, 2), value, np.float32)


class TestState:
    def test_is_the_sessions_own(self, memory: Model) -> None:
        one, other = memory.session(), memory.session()
        assert [one(ones())[0, 0], other(ones(3, 2, 5))[2, 1], memory(ones(2))[1, 0]] == [1, 10, 1]
        assert [one(ones())[0, 0], other(ones(3))[2, 1], memory(ones(2))[1, 0]] == [2, 11, 2]
        one.reset()
        assert [one(ones(4))[3, 0], other(ones(3))[2, 1], memory(ones(2))[1, 0]] == [1, 12, 3]
        assert memory.states == (MEMORY,)

    def test_of_a_bundle_that_names_none(self, store: Store) -> None:
        publish_sum(store)
        with load("sum", "CPU", store=store) as model:
            one, other = model.session(), model.session()
            assert [one(np.ones(4, "f4"))[0] for _ in range(2)] + [other(np.ones(4, "f4"))[0]] == [1, 2, 1]
            one.reset()
            assert one(np.ones(4, "f4"))[0] == 1
            with pytest.raises(UsageError, match="describes no states"):
                one.copy()

    def test_goes_on_twice_from_a_copy(self, memory: Model) -> None:
        session = memory.session()
        fresh = session.copy()
        session(ones(2, 3))
        branch = session.copy()
        assert [fresh(ones(5))[0, 0], session(ones(2))[0, 0], branch(ones(2, 2))[0, 0]] == [1, 4, 5]
        with pytest.raises(StateCapacityError):
            branch(ones(2, 2))
        assert branch(ones(2))[0, 0] == 6
        assert session(ones(2, 2))[0, 0] == 6

    def test_is_kept_by_a_call_that_does_not_fit(self, memory: Model) -> None:
        session = memory.session()
        session(ones(2, 4))
        with pytest.raises(InputError, match=r"axis 0 \(batch\) of the state past is 2, but .* require 1"):
            session(ones(1))
        with pytest.raises(
            StateCapacityError, match="holds 4 of at most 6 along axis 1, and the call would add 3"
        ) as full:
            session(ones(2, 3))
        assert (full.value.state, full.value.capacity, full.value.size) == ("past", 6, 4)
        assert session(ones(2, 2))[0].tolist() == [6, 6]
        with pytest.raises(StateCapacityError):
            session(ones(2))
        session.reset()
        assert session(ones(1))[0, 0] == 1

    def test_of_the_model_has_the_same_limits(self, memory: Model) -> None:
        assert [result[0, 0] for result in memory.map([ones(1, 2)] * 3)] == [2, 4, 6]
        with pytest.raises(StateCapacityError):
            memory(ones())
        with pytest.raises(StateCapacityError):
            memory.submit(ones()).result()
        memory.warm_up()
        memory.reset()
        assert memory(ones(2, 4))[1, 1] == 4

    def test_is_unknown_after_a_failure(self, memory: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        session = memory.session()
        session(ones())

        def fail(*_: Any) -> None:
            raise RuntimeError("the device is gone")

        monkeypatch.setattr("npu_persist.runtime.lanes.Lane.run", fail)
        with pytest.raises((InferenceError, InputError), match="the device is gone"):
            session(ones())
        monkeypatch.undo()
        for use in (lambda: session(ones()), session.copy):
            with pytest.raises(StateError, match="reset"):
                use()
        session.reset()
        assert session(ones())[0, 0] == 1

    def test_profiling_takes_more_runs_than_it_has_room(self, store: Store) -> None:
        publish_memory(store)
        with load("memory", "CPU", config={"PERF_COUNT": True}, store=store) as model:
            model(ones())
            assert model.profile(runs=9)
            assert model(ones())[0, 0] == 2

    @pytest.mark.parametrize("device", [f"AUTO:{SECOND},CPU", "HETERO:CPU", SECOND])
    def test_on_other_devices(self, store: Store, device: str, second_device: ov.Core) -> None:
        assert SECOND in second_device.available_devices
        publish_memory(store)
        with load("memory", device, store=store) as model, model.session() as session:
            assert [session(ones(2))[1, 0] for _ in range(3)] == [1, 2, 3]
            session.reset()
            assert session(ones(3, 2))[1, 0] == 2


class TestThreads:
    def test_use_one_session_in_turn(self, memory: Model) -> None:
        session = memory.session()
        with ThreadPoolExecutor(6) as pool:
            found = [*pool.map(lambda _: session(ones())[0, 0], range(6))]
        assert sorted(found) == [1, 2, 3, 4, 5, 6]

    def test_talk_at_the_same_time(self, memory: Model) -> None:
        def talk(value: int) -> list[float]:
            with memory.session() as session:
                found = []
                for _ in range(20):
                    session.reset()
                    found += [session(ones(value % 3 + 1, 1, value))[0, 0] for _ in range(6)]
                return found

        with ThreadPoolExecutor(8) as pool:
            for value, found in enumerate(pool.map(talk, range(8))):
                assert found == [value * step for step in range(1, 7)] * 20


class TestEnd:
    def test_closed_sessions_and_models_say_so(self, memory: Model) -> None:
        with memory.session() as session:
            session(ones())
        session.close()
        other = memory.session()
        memory.close()
        for use in (lambda: session(ones()), session.reset, session.copy, lambda: other(ones()), memory.session):
            with pytest.raises(ModelClosedError):
                use()

    def test_a_session_that_is_gone_holds_nothing(self, memory: Model) -> None:
        for _ in range(3):
            memory.session()(ones())
        gc.collect()
        memory.close()

    def test_the_model_waits_for_a_call_of_a_session(self, memory: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        session = memory.session()
        is_running, go_on, found = threading.Event(), threading.Event(), []
        assert session._lane is not None
        run = session._lane.run

        def wait(*args: Any) -> Any:
            is_running.set()
            assert go_on.wait(60)
            return run(*args)

        monkeypatch.setattr(session._lane, "run", wait)
        caller = threading.Thread(target=lambda: found.append(session(ones())[0, 0]))
        caller.start()
        assert is_running.wait(60)
        closer = threading.Thread(target=memory.close)
        closer.start()
        go_on.set()
        closer.join(60)
        caller.join(60)
        assert found == [1]

    def test_a_model_without_a_state_has_none(self, store: Store) -> None:
        publish_affine(store)
        with load("affine", "CPU", store=store) as model:
            assert model.states == ()
            with pytest.raises(UsageError, match="affine:1 has no state"):
                model.session()
            model(GRID)


class TestBundle:
    def test_has_no_buckets_and_no_fixed_sizes(self, store: Store) -> None:
        bundle = publish_memory(store)
        with pytest.raises(UsageError, match="memory:1 has states, and each bucket would have its own"):
            load("memory", "CPU", buckets=[{"x": (1, 1, 2)}], store=store)
        with pytest.raises(DynamicShapeError, match="axis 0 of the state past varies") as caught:
            require_fixed(bundle.graph().states, bundle.reference, "NPU")
        assert (caught.value.input, caught.value.axis) == ("past", 0)
        require_fixed(publish_sum(store).graph().states, "sum:1", "NPU")

    def test_is_compiled_and_called_in_a_process_of_its_own(self, store: Store) -> None:
        publish_memory(store)
        npu_persist.compile("memory", "CPU", store=store)
        with load("memory", "CPU", compile_timeout=300, store=store) as model:
            assert model.report.attempts[-1].source == "attached"
            assert [model(ones())[0, 0] for _ in range(2)] == [1, 2]

    def test_of_a_stranger_is_tried_in_a_process_of_its_own(self, store: Store) -> None:
        bundle = publish_memory(store)
        pulled(bundle.path)
        with load("memory", "CPU", store=store) as model:
            assert "in a separate process" in str(model.report)
            assert [model(ones(3))[2, 0] for _ in range(2)] == [1, 2]

    def test_says_what_it_keeps(self, store: Store) -> None:
        bundle = publish_memory(store)
        assert describe_state(bundle.graph().states[0]) == (
            "float32[batch:1..8, past:0..6, 2] from present, grows by time on axis 1"
        )
        card = make_section(bundle, HubReference("org/memory"), {})
        assert "grows by time on axis 1" in card
        publish_memory(store, states=(replace(MEMORY, initial=1.0),))
        (change,) = [one for one in npu_persist.diff("memory:1", "memory:2", store=store).fields if "past" in one.field]
        assert (change.field, change.before, change.after) == (
            "states.past",
            "float32[batch:1..8, past:0..6, 2] from present, grows by time on axis 1, at first 0.0",
            "float32[batch:1..8, past:0..6, 2] from present, grows by time on axis 1, at first 1.0",
        )

    def test_whose_graph_has_no_state_is_refused(self, store: Store) -> None:
        port = Port("x", "float32", (1, 2))
        x = parameter(port)
        state = State("h", "output.1", "v", "float32", (1, 2), (1, 2))
        publish_graph(store, make_model([x], [("y", ops.relu(x))]), [port], [port], name="liar", states=(state,))
        with pytest.raises(GraphIntegrityError, match="says that the graph has the states h"):
            load("liar", "CPU", store=store)

    def test_is_checked_over_all_calls_of_its_golden_sample(self, store: Store) -> None:
        calls = [(ones(2, 3), 3), (ones(2, 1), 4), (ones(2, 2, 2), 8)]
        sample: dict[str, Any] = {}
        for step, (x, total) in enumerate(calls):
            sample |= {f"input{step or ''}.x": x, f"output{step or ''}.total": np.full((2, 2), total, np.float32)}
        bundle = publish_memory(store, sample=sample, steps=3, tolerance=Tolerance(0.01, 0.99))
        bundle.verify()
        assert check("memory", "CPU", store=store).is_right
        publish_memory(store, sample={**sample, "output2.total": np.zeros((2, 2), np.float32)}, steps=3)
        result = check("memory:2", "CPU", store=store)
        (output,) = result.runs[0].outputs
        assert not result.is_right
        assert output.difference.max_abs == 8
