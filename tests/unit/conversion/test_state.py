"""What a forward leaves behind in its module: found, put back, and warned of where an answer depends on it."""

from __future__ import annotations

import collections
import re
import types
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import npu_persist
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import export, trace
from npu_persist.conversion.state import Snapshot
from npu_persist.errors import StateWarning
from tests.support.as_torch import assert_as_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.errors import PersistWarning

X = torch.arange(12.0).reshape(3, 4) - 5
TOTAL = 0.0


class Slots:
    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0.0


class Body(torch.nn.Module):
    shared = 0.0

    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body
        self.plain = torch.zeros(4)
        self.total = 0.0
        self.memo: torch.Tensor | None = None
        self.seen: list[Any] = []
        self.recent = collections.deque([torch.zeros(3, 4)], maxlen=2)
        self.cache: dict[Any, Any] = {}
        self.helper = types.SimpleNamespace(inner=types.SimpleNamespace(mean=torch.zeros(4)))
        self.slots = Slots()
        self.array = np.zeros(2)
        self.buffer: torch.Tensor
        self.register_buffer("buffer", torch.zeros(4))
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(self, x)


def rebinds_attribute(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.plain = m.plain * 0.5 + x[0]
    return x + m.plain


def rebinds_buffer(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.buffer = m.buffer * 0.5 + x[0]
    return x + m.buffer


def rebinds_data(m: Body, x: torch.Tensor) -> torch.Tensor:
    y = x * m.weight
    m.weight.data = m.weight.data * 0.5
    return y


def counts(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.total += 1
    return x * m.total


def appends(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.seen.append(x)
    return torch.stack(m.seen).sum(0)


def appends_left(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.recent.append(x)
    return m.recent[0] + m.recent[-1]


def caches(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.cache["keys"] = torch.cat([m.cache["keys"], x]) if "keys" in m.cache else x
    result: torch.Tensor = m.cache["keys"].sum(0)
    return result


def remembers_the_first(m: Body, x: torch.Tensor) -> torch.Tensor:
    if m.memo is None:
        m.memo = x.sum()
    return x * m.memo


def in_a_helper(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.helper.inner.mean = m.helper.inner.mean + x[0]
    return torch.add(x, m.helper.inner.mean)


def in_place_in_a_helper(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.helper.inner.mean.add_(x[0])
    return torch.add(x, m.helper.inner.mean)


def in_slots(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.slots.total += 1
    return x * m.slots.total


def in_the_class(m: Body, x: torch.Tensor) -> torch.Tensor:
    type(m).shared += 1
    return x * type(m).shared


def in_an_array(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.array[0] += 1
    return torch.mul(x, float(m.array[0]))


def writes_a_slice(m: Body, x: torch.Tensor) -> torch.Tensor:
    m.buffer[:2] = x[0, :2]
    return m.buffer * 2


STATEFUL = [
    (rebinds_attribute, "plain"),
    (rebinds_buffer, "buffer"),
    (rebinds_data, "weight"),
    (counts, "total"),
    (appends, "seen"),
    (appends_left, "recent"),
    (caches, r"cache\['keys'\]"),
    (remembers_the_first, "memo"),
    (in_a_helper, r"helper\.inner\.mean"),
    (in_place_in_a_helper, r"helper\.inner\.mean"),
    (in_slots, r"slots\.total"),
    (in_the_class, r"Body\.shared"),
    (in_an_array, "array"),
    (writes_a_slice, "buffer"),
]


def caveats(module: torch.nn.Module) -> tuple[PersistWarning, ...]:
    return trace(bind_call(module, (X,), {}), fix_sizes=True).caveats


@pytest.mark.parametrize(("body", "path"), STATEFUL)
def test_state_is_found_and_put_back(body: Callable[..., Any], path: str) -> None:
    module = Body(body)
    with torch.no_grad():
        snapshot = Snapshot(module)
        before = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        (caveat,) = caveats(module)
    assert isinstance(caveat, StateWarning)
    assert re.search(rf"output output depends on what the forward writes into {path}", str(caveat))
    assert snapshot.changes() == []
    assert all(torch.equal(before[name], tensor) for name, tensor in Snapshot(module).tensors.items())


class Counter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.state = {"total": torch.zeros(())}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state["total"] = self.state["total"] + 1
        return x * self.state["total"]


class Nest(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(Counter())

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


class Global(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global TOTAL  # noqa: PLW0603 - what is tested
        TOTAL += 1.0
        return x * TOTAL


def test_the_attribute_s_path_and_the_line_are_named() -> None:
    (caveat,) = caveats(Nest())
    assert "inner.0.state['total'] (test_state.py:" in str(caveat)
    assert 'self.state["total"] = self.state["total"] + 1)' in str(caveat)


def test_a_global_variable() -> None:
    (caveat,) = caveats(Global())
    assert "test_state.TOTAL (test_state.py:" in str(caveat)
    assert TOTAL == 0.0


class Rotary(torch.nn.Module):
    """Keeps a table that gives equal answers, one for each shape, and what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.longest = 0
        self.table: torch.Tensor | None = None
        self.shapes: dict[Any, Any] = {}
        self.last: Any = None
        self.history: list[Any] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None or x.shape[0] > self.longest:
            self.longest = int(x.shape[0])
            self.table = torch.arange(self.longest).cos()
        shape = tuple(int(size) for size in x.shape)
        if shape not in self.shapes:
            self.shapes[shape] = torch.ones(shape).cumsum(0)
        self.last = x * 2
        self.history.append(x)
        return torch.add(x * self.table[: x.shape[0], None], self.shapes[shape])


def test_caches_and_records_that_no_answer_depends_on_are_put_back_without_a_warning() -> None:
    module = Rotary()
    assert_as_torch(module, (X,), (-X,))
    fresh = Rotary()
    npu_persist.persist(fresh, "rotary", (X,))
    assert (fresh.longest, fresh.table, fresh.shapes, fresh.last, fresh.history) == (0, None, {}, None, [])


def test_a_counter_that_no_answer_depends_on_yet() -> None:
    class Every(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x if self.calls % 10 == 0 else x * 2

    (caveat,) = caveats(Every())
    assert "the forward counts in calls (test_state.py:" in str(caveat)
    assert "0, then 1, then 2" in str(caveat)


def test_a_forward_that_returns_a_buffer_it_has_just_written() -> None:
    class Latest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latest: torch.Tensor
            self.register_buffer("latest", torch.zeros(3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.latest.copy_(x)
            return self.latest

    assert_as_torch(Latest(), (X,), (-X,))


def test_statistics_of_a_normalization_are_put_back() -> None:
    class Adapts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)

    module = Adapts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        npu_persist.persist(module, "adapts", (X,))
    assert torch.equal(module.state_dict()["norm.running_mean"], torch.zeros(4))


@pytest.mark.parametrize("body", [rebinds_attribute, caches, in_a_helper])
def test_torch_export_leaves_nothing_behind_either(body: Callable[..., Any]) -> None:
    module = Body(body)
    with torch.no_grad():
        call = bind_call(module, (X,), {})
        results = call.run(call.tensors)
        snapshot = Snapshot(module)
        capture = export(call, results, None)
    assert snapshot.changes() == []
    assert [type(caveat) for caveat in capture.caveats] == [StateWarning]
