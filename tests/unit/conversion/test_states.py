"""States: what a module gives and takes again stays inside of the loaded model, which answers as torch does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino.opset13 as ops
import pytest
import torch
from torch import nn
from torch.export import Dim

import npu_persist
from npu_persist.bundle.graph_records import Growth
from npu_persist.bundle.signature import ModelOutput
from npu_persist.conversion import stateful
from npu_persist.conversion.call import DTYPES
from npu_persist.errors import ConversionError, ParityError, StateCapacityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from npu_persist.store import Store

BATCH, TIME, PAST = Dim("batch", min=1, max=8), Dim("time", min=1, max=16), Dim("past", min=0, max=12)


def talk(
    store: Store,
    step: Callable[[Any, Any], tuple[Any, Any]],
    calls: Iterable[Any],
    first: Any,
    tolerance: float = 1e-5,
) -> None:
    """Compare each call of a conversation, in a session and by the model itself, with torch that carries the state."""
    (bundle,) = npu_persist.list(store=store)
    with npu_persist.load(bundle.reference, "CPU", store=store) as model, model.session() as session:
        for _ in range(2):
            state = first
            for x in calls:
                with torch.no_grad():
                    y, state = step(x, state)
                for answer in (session(x.numpy()), model(x.numpy())):
                    np.testing.assert_allclose(answer, y.numpy(), rtol=tolerance, atol=tolerance)
            session.reset()
            model.reset()


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = kind(4, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any, state: Any) -> Any:
        y, state = self.inner(x, state)
        return self.head(y), state


class Attention(nn.Module):
    """Several layers with a cache of keys and values each, as nested tuples."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(16, 48) for _ in range(layers))

    def forward(self, x: Any, past: Any) -> Any:
        batch, time, _ = x.shape
        present = []
        for layer, (old_key, old_value) in zip(self.layers, past, strict=True):
            query, new_key, new_value = layer(x).view(batch, time, 3, 2, 8).permute(2, 0, 3, 1, 4)
            key, value = torch.cat([old_key, new_key], 2), torch.cat([old_value, new_value], 2)
            y = nn.functional.scaled_dot_product_attention(query, key, value)
            x = x + y.transpose(1, 2).reshape(batch, time, 16)
            present.append((key, value))
        return x, tuple(present)


def cache(batch: int, length: int, layers: int = 2) -> Any:
    return tuple((torch.randn(batch, 2, length, 8), torch.randn(batch, 2, length, 8)) for _ in range(layers))


class Ring(nn.Module):
    """A causal convolution over chunks, with the end of the last chunk, and a count of samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv1d(2, 3, 5)

    def forward(self, chunk: Any, *, kept: Any, count: Any) -> Any:
        joined = torch.cat([kept, chunk], 2)
        y = self.convolution(joined) + count.float()
        return {"kept": joined[:, :, -4:], "y": y, "count": count + chunk.shape[2]}


class Fixed(nn.Module):
    """A cache of a fixed size, into which the forward writes at a position that it counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(16, 48)

    def forward(self, x: Any, keys: Any, values: Any, position: Any) -> Any:
        query, key, value = self.layer(x).view(1, 1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        keys, values = keys.index_copy(2, position, key), values.index_copy(2, position, value)
        mask = torch.arange(keys.shape[2]) <= position
        y = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask[None, None, None])
        return y.transpose(1, 2).reshape(1, 1, 16), keys, values, position + 1


class TestAnswers:
    def test_a_cache_of_a_fixed_size(self, store: Store) -> None:
        module = Fixed().eval()
        first = torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8), torch.zeros(1, dtype=torch.int64)
        names = {name: f"output.{index}" for index, name in enumerate(("keys", "values", "position"), 1)}
        npu_persist.persist(
            module, "fixed", (torch.randn(1, 1, 16), *first), states=names, precision="fp32", store=store
        )

        def step(x: Any, state: Any) -> Any:
            y, *state = module(x, *state)
            return y, state

        talk(store, step, torch.randn(5, 1, 1, 16), first)
        with npu_persist.load("fixed", "CPU", store=store) as model:
            for _ in range(5):
                model(np.zeros((1, 1, 16), "f4"))
            with pytest.raises(StateCapacityError, match=r"position is \[5\], and the model takes -5 to 4"):
                model(np.zeros((1, 1, 16), "f4"))
            with pytest.raises(StateCapacityError) as full:
                model(np.zeros((1, 1, 16), "f4"))
            assert (full.value.state, full.value.capacity, full.value.size) == ("position", 4, 5)

    @pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
    def test_recurrent(self, store: Store, kind: Any) -> None:
        module = Recurrent(kind).eval()
        example = torch.randn(1, 5, 4), torch.randn(2, 1, 8)
        bundle = npu_persist.persist(
            module, "rnn", example, states={"state": "output.1"}, precision="fp32", store=store
        )
        (graph,) = bundle.manifest.graphs
        assert [port.name for port in (*graph.inputs, *graph.outputs)] == ["x", "output.0"]
        assert [parameter.name for parameter in graph.signature.parameters] == ["x"]
        talk(store, module, torch.randn(5, 1, 5, 4), torch.zeros(2, 1, 8))
        assert npu_persist.check("rnn", "CPU", store=store).is_right

    def test_a_pair_of_states_with_batch_and_time_open(self, store: Store) -> None:
        module = Recurrent(nn.LSTM).eval()
        example = torch.randn(2, 5, 4), (torch.randn(2, 2, 8), torch.randn(2, 2, 8))
        axes = {"x": {0: BATCH, 1: TIME}, "state": [{1: BATCH}, {1: BATCH}]}
        npu_persist.persist(
            module, "lstm", example, states={"state": "output.1"}, dynamic_shapes=axes, precision="fp32", store=store
        )
        for batch in (1, 3):
            calls = [torch.randn(batch, time, 4) for time in (3, 1, 7)]
            talk(store, module, calls, (torch.zeros(2, batch, 8),) * 2)

    @pytest.mark.parametrize("length", [0, 3])
    def test_a_growing_cache_of_several_layers(self, store: Store, length: int) -> None:
        module = Attention().eval()
        axes = {"x": {0: BATCH, 1: TIME}, "past": [({0: BATCH, 2: PAST}, {0: BATCH, 2: PAST})] * 2}
        bundle = npu_persist.persist(
            module,
            "attention",
            (torch.randn(2, 4, 16), cache(2, length)),
            states={"past": "output.1"},
            dynamic_shapes=axes,
            precision="fp32",
            store=store,
        )
        states = bundle.manifest.graphs[0].states
        assert [state.name for state in states] == ["past.0.0", "past.0.1", "past.1.0", "past.1.1"]
        assert {(state.growth, state.first, state.initial) for state in states} == {
            (Growth(2, "time"), (None, 2, 0, 8), 0.0)
        }
        for batch in (1, 3):
            calls = [torch.randn(batch, time, 16) for time in (3, 1, 1, 5, 2)]
            talk(store, module, calls, cache(batch, 0))
        with npu_persist.load("attention", "CPU", store=store) as model:
            model(np.zeros((1, 12, 16), "f4"))
            with pytest.raises(StateCapacityError):
                model(np.zeros((1, 1, 16), "f4"))

    def test_one_cache_of_one_token_a_call(self, store: Store) -> None:
        module = Attention(1).eval()
        axes = {"x": {}, "past": [({2: PAST}, {2: PAST})]}
        bundle = npu_persist.persist(
            module,
            "token",
            (torch.randn(1, 1, 16), cache(1, 3, 1)),
            states={"past.*.0": "output.1.*.0", "past.0.1": "output.1.0.1"},
            dynamic_shapes=axes,
            store=store,
        )
        assert [state.growth for state in bundle.manifest.graphs[0].states] == [Growth(2, 1)] * 2
        talk(store, module, torch.randn(12, 1, 1, 16), cache(1, 0, 1), 0.01)

    def test_a_ring_buffer_by_keywords(self, store: Store) -> None:
        module = Ring().eval()
        kept, count = torch.randn(1, 2, 4), torch.tensor([7])
        bundle = npu_persist.persist(
            module,
            "ring",
            kwargs={"chunk": torch.randn(1, 2, 6), "kept": kept, "count": count},
            states={"kept": "kept", "count": "count"},
            initial={"kept": kept, "count": torch.tensor([3])},
            dynamic_shapes={"chunk": {2: TIME}},
            precision="fp32",
            store=store,
        )
        assert [state.initial for state in bundle.manifest.graphs[0].states] == [None, 3.0]
        with npu_persist.load("ring", "CPU", store=store) as model, model.session() as session:
            state = {"kept": kept, "count": torch.tensor([3])}
            for time in (6, 1, 9):
                chunk = torch.randn(1, 2, time)
                state = module(chunk, kept=state["kept"], count=state["count"])
                y = state.pop("y")
                for answer in (session(chunk=chunk.numpy()), model(chunk.numpy())):
                    assert list(answer) == ["y"]
                    np.testing.assert_allclose(answer["y"], y.detach().numpy(), rtol=1e-5, atol=1e-5)

    def test_int8_weights(self, store: Store) -> None:
        module = Attention(1).eval()
        axes = {"x": {}, "past": [({2: PAST}, {2: PAST})]}
        npu_persist.persist(
            module,
            "int8",
            (torch.randn(1, 1, 16), cache(1, 3, 1)),
            states={"past": "output.1"},
            dynamic_shapes=axes,
            precision="int8",
            store=store,
        )
        talk(store, module, torch.randn(4, 1, 1, 16), cache(1, 0, 1), 0.1)

    def test_as_torch_export_captures_it(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise ConversionError("no trace")

        monkeypatch.setattr("npu_persist.conversion.build.trace_example", fail)
        module = Attention(1).eval()
        bundle = npu_persist.persist(
            module,
            "exported",
            (torch.randn(1, 2, 16), cache(1, 3, 1)),
            states={"past": "output.1"},
            dynamic_shapes={"x": None, "past": [({2: PAST}, {2: PAST})]},
            store=store,
        )
        assert bundle.manifest.graphs[0].conversion == "export"
        talk(store, module, torch.randn(4, 1, 2, 16), cache(1, 0, 1), 0.01)


class Pair(NamedTuple):
    y: Any
    h: Any


class Structures(nn.Module):
    def forward(self, x: Any, options: Any, scale: float = 2.0) -> Any:
        state = options["state"] + x
        return {"pair": Pair(x * scale, state), "all": [state, options["shift"] + state], "none": None}


class TestSignature:
    def test_loses_what_is_a_state_and_nothing_else(self, store: Store) -> None:
        options = {"state": torch.ones(3), "shift": torch.ones(3)}
        npu_persist.persist(
            Structures(), "structures", (torch.ones(3), options), states={"options.state": "pair.h"}, store=store
        )
        with npu_persist.load("structures", "CPU", store=store) as model:
            one = np.ones(3, "f4")
            for step in (1, 2):
                result = model(one, {"shift": one})
                assert list(result) == ["pair", "all", "none"]
                assert result["pair"]._fields == ("y",)
                assert [item.tolist() for item in result["all"]] == [[step] * 3, [step + 1] * 3]

    def test_goes_on_giving_states_where_there_is_nothing_else(self, store: Store) -> None:
        cell = nn.GRUCell(3, 3)
        npu_persist.persist(cell, "cell", (torch.ones(1, 3), torch.zeros(1, 3)), states={"hx": "output"}, store=store)
        talk(store, lambda x, h: (cell(x, h),) * 2, torch.randn(3, 1, 3), torch.zeros(1, 3), 0.01)

    def test_a_state_that_is_returned_twice_is_given_once(self, store: Store) -> None:
        class Twice(nn.Module):
            def forward(self, x: Any, h: Any) -> Any:
                h = h + x
                return h, h

        npu_persist.persist(Twice(), "twice", (torch.ones(2), torch.ones(2)), states={"h": "output.1"}, store=store)
        with npu_persist.load("twice", "CPU", store=store) as model:
            assert [model(np.ones(2, "f4")).tolist() for _ in range(2)] == [[1, 1], [2, 2]]

    def test_states_may_change_places(self, store: Store) -> None:
        class Fibonacci(nn.Module):
            def forward(self, x: Any, a: Any, b: Any) -> Any:
                return ModelOutputLike(a * x, b, a + b)

        import dataclasses

        @dataclasses.dataclass
        class ModelOutputLike:
            y: Any
            first: Any
            second: Any

        one = torch.ones(1)
        npu_persist.persist(
            Fibonacci(),
            "fibonacci",
            (one, one, one),
            states={"a": "first", "b": "second"},
            initial={"b": 1},
            store=store,
        )
        with npu_persist.load("fibonacci", "CPU", store=store) as model:
            results = [model(np.ones(1, "f4")) for _ in range(7)]
            assert [result.y[0] for result in results] == [0, 1, 1, 2, 3, 5, 8]
            assert isinstance(results[0], ModelOutput)
            assert list(results[0]) == ["y"]

    @pytest.mark.parametrize("is_open", [False, True])
    @pytest.mark.parametrize(
        "step",
        [
            lambda x, a, b: (b, x, a),  # a delay line
            lambda x, a, b: (a + x * 0, b, a),
            lambda x, a, b: (torch.cat([a, b], -1), b, a + x),
            lambda x, a, b: (x + a, a, b),  # states that never change
            lambda x, a, b: (a * b, x.flip(0), x * 2),
        ],
    )
    def test_as_they_came_or_of_each_other(self, store: Store, step: Any, is_open: bool) -> None:  # noqa: FBT001
        class Module(nn.Module):
            def forward(self, x: Any, a: Any, b: Any) -> Any:
                return step(x, a, b)

        axes = {name: {0: BATCH} for name in "xab"} if is_open else None
        x = torch.randn(2, 3)
        npu_persist.persist(
            Module(),
            "places",
            (x, x + 1, x + 2),
            states={"a": "output.1", "b": "output.2"},
            initial={"a": 1.0, "b": 2.0},
            dynamic_shapes=axes,
            precision="fp32",
            store=store,
        )

        def carry(x: Any, state: Any) -> Any:
            y, *state = step(x, *state)
            return y, state

        for batch in (2, 5) if is_open else (2,):
            talk(store, carry, torch.randn(4, batch, 3), (torch.full((batch, 3), 1.0), torch.full((batch, 3), 2.0)))

    def test_one_that_the_module_makes_nothing_of_is_refused(self, store: Store) -> None:
        class Module(nn.Module):
            def forward(self, x: Any, state: Any) -> Any:
                del state
                return x + 1, x * 2

        x = torch.ones(2)
        with pytest.raises(UsageError, match="does not use state"):
            npu_persist.persist(Module(), "unused", (x, x), states={"state": "output.1"}, store=store)

    @pytest.mark.parametrize("dtype", [*DTYPES])
    def test_of_each_dtype(self, store: Store, dtype: torch.dtype) -> None:
        class Keep(nn.Module):
            def forward(self, x: Any, last: Any) -> Any:
                return last, x

        x = torch.tensor([0, 1, 1]).to(dtype)
        npu_persist.persist(Keep(), "keep", (x, x), states={"last": "output.1"}, initial={"last": x}, store=store)
        with npu_persist.load("keep", "CPU", store=store) as model:
            last = x.float().tolist()
            for values in ([1, 1, 0], [0, 1, 0], [0, 0, 1]):
                given = np.array(values, model.inputs[0].dtype)
                answer = model(given)
                assert answer.dtype == given.dtype
                assert answer.tolist() == last
                last = values


class TestRefusals:
    @pytest.mark.parametrize(
        ("states", "message"),
        [
            ({}, "a dict of arguments to results"),
            ({"state": 1}, "the name of an argument and of a result"),
            ({"state.*": "output.1"}, r"a \* in both"),
            ({"hidden": "output.1"}, "no tensor among the arguments 'hidden' in the example call; there is x, state"),
            ({"state": "output.2"}, "no result 'output.2' in the example call; there is output.0, output.1"),
            ({"state": "output.0"}, r"state is float32\[2, 1, 8\], and output.0, .* float32\[1, 5, 3\]"),
            ({"state": "output.1", "x": "output.0"}, "at least one argument"),
        ],
    )
    def test_states_that_are_none(self, store: Store, states: Any, message: str) -> None:
        example = torch.randn(1, 5, 4), torch.randn(2, 1, 8)
        with pytest.raises(UsageError, match=message):
            npu_persist.persist(Recurrent(nn.GRU).eval(), "bad", example, states=states, store=store)

    @pytest.mark.parametrize(
        ("initial", "message"),
        [
            ({"h": 0}, "'h' is not one of the states state"),
            ({"state": torch.zeros(1, 8)}, r"state is float32\[2, 1, 8\]; got float32\[1, 8\]"),
            ([], "a dict of state names"),
        ],
    )
    def test_first_values_that_do_not_fit(self, store: Store, initial: Any, message: str) -> None:
        example = torch.randn(1, 5, 4), torch.randn(2, 1, 8)
        with pytest.raises(UsageError, match=message):
            npu_persist.persist(
                Recurrent(nn.GRU).eval(), "bad", example, states={"state": "output.1"}, initial=initial, store=store
            )

    def test_what_does_not_go_with_states(self, store: Store) -> None:
        example = torch.randn(1, 5, 4), torch.randn(2, 1, 8)
        for options in (
            {"states": {"state": "output.1"}, "buckets": [{"x": (1, 8, 4)}]},
            {"states": {"state": "output.1"}, "evaluate": [example]},
            {"initial": {"state": 1}},
        ):
            with pytest.raises(UsageError, match="states"):
                npu_persist.persist(Recurrent(nn.GRU).eval(), "bad", example, store=store, **options)

    def test_a_cache_that_grows_on_a_fixed_axis(self, store: Store) -> None:
        example = torch.randn(1, 2, 16), cache(1, 3)
        with pytest.raises(UsageError, match=r"If it grows, declare that: dynamic_shapes=\{'past.0.0': \{2: "):
            npu_persist.persist(Attention().eval(), "bad", example, states={"past": "output.1"}, store=store)

    def test_different_structures(self, store: Store) -> None:
        example = torch.randn(1, 2, 16), cache(1, 3)
        with pytest.raises(UsageError, match="of different structure"):
            npu_persist.persist(Attention().eval(), "bad", example, states={"past.0": "output.1"}, store=store)

    def test_an_answer_that_is_wrong_in_a_later_call(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stateful, "_make_first", lambda value: (ops.constant(value.numpy() + 1),) * 2)
        example = torch.randn(1, 5, 4), torch.randn(2, 1, 8)
        with pytest.raises(ParityError, match="in call 1 of 4 with the states of the last"):
            npu_persist.persist(
                Recurrent(nn.GRU).eval(), "bad", example, states={"state": "output.1"}, store=store, tolerance=1e-4
            )
        assert not npu_persist.list(store=store)
