"""The digest of a forward's functions: that of a trace and of a plain run agree, and what it cannot see has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, scaled_dot_product_attention

import npu_persist
from npu_persist.conversion import refresh as refreshing
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import answer, trace_example
from npu_persist.errors import RefreshError

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Uses(torch.nn.Module):
    """A function of an input, two weights of equal shapes and a submodule."""

    def __init__(self, function: Callable[..., Any], scale: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 2, 4) * scale)
        self.other = torch.nn.Parameter(torch.linspace(2, 3, 4) * scale)
        self.layer = torch.nn.Linear(4, 4)
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, self)


@torch.jit.script
def clamp_in_script(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Return values that the function mode does not see being made."""
    return x.clamp(-limit, limit)


@torch.jit.script
def write_in_script(x: torch.Tensor, limit: float) -> None:
    """Write into a tensor without a call that the function mode sees."""
    x.clamp_(-limit, limit)


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return x * 2


@torch.library.custom_op("npu_persist_tests::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    """Return what another definition of the same name could change."""
    return x * 2


def digest(function: Callable[..., Any], scale: float = 1.0) -> str | None:
    """Return the digest of a plain run."""
    module = Uses(function, scale).eval()
    with torch.no_grad():
        answered = answer(bind_call(module, (X,), {}))
    return None if answered is None else answered.operations


def reads_sizes(x: torch.Tensor, module: Uses) -> torch.Tensor:
    rows, columns = x.shape
    places = torch.arange(columns)
    return module.layer(x.reshape(rows * columns // 4, -1)) + places + columns * 0.5  # type: ignore[no-any-return]


def writes_into_slices(x: torch.Tensor, module: Uses) -> torch.Tensor:
    y = x.clone()
    y[:, 1:3] = x[:, :2] * module.weight[0]
    y += 1
    return y.mul_(2)


def asks_for_the_trace(x: torch.Tensor, module: Uses) -> torch.Tensor:
    return module.layer(x) if torch.jit.is_tracing() else x  # type: ignore[attr-defined, no-untyped-call]


FOLLOWED: list[Callable[..., Any]] = [
    lambda x, m: m.layer(x) * m.weight,
    lambda x, m: {"a": gelu(x), "b": (x + m.other, 3)},
    lambda x, m: scaled_dot_product_attention(x[None], x[None], m.layer(x)[None]),
    lambda x, m: torch.cat([x, m.weight[None].expand(2, -1)], 1).softmax(-1).max(1).values,
    lambda x, m: m.layer(x.to(torch.float64).to(x.dtype)) @ m.weight,
    reads_sizes,
    writes_into_slices,
    asks_for_the_trace,
]
HELD: list[Callable[..., Any]] = [
    lambda x, m: gelu(m.layer(x)),
    lambda x, m: {"a": scaled_dot_product_attention(x[None], x[None], m.layer(x)[None]), "b": (x, 3)},
    reads_sizes,
    asks_for_the_trace,
]
"""Their graphs hold the weights as they are."""
UNSEEN: list[Callable[..., Any]] = [
    lambda x, m: clamp_in_script(x, 9.0) * m.weight,
    lambda x, m: (y := x * 2, write_in_script(y, 9.0), y * m.weight)[2],
    lambda x, m: x * torch.from_numpy(m.weight.detach().numpy()),
    lambda x, m: x * float(m.weight[0]),
    lambda x, m: x * m.weight.data,
    lambda x, m: x * torch.tensor(m.weight.tolist()),
    lambda x, m: torch.vmap(lambda row: row * 2)(x) * m.weight,
    lambda x, m: double(x) * m.weight,
    lambda x, m: x[x > 0] * m.weight[0],
    lambda x, m: x * x.nonzero().shape[0] * m.weight,
    lambda x, m: x @ torch.linalg.inv(torch.diag(m.weight)),
    lambda x, m: x * torch.rand(4) * m.weight,
    lambda x, m: x * m.weight * np.random.default_rng().integers(1, 2) if x.sum() < 9 else x,
]
CHANGED: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (lambda x, m: gelu(m.layer(x)), lambda x, m: gelu(m.layer(x), approximate="tanh")),
    (lambda x, m: m.layer(x) * 1.0001, lambda x, m: m.layer(x) * 1.0),
    (lambda x, m: m.layer(x) - x, lambda x, m: x - m.layer(x)),
    (lambda x, m: torch.softmax(m.layer(x), 0), lambda x, m: torch.softmax(m.layer(x), 1)),
    (lambda x, m: x * m.weight + m.other, lambda x, m: x * m.other + m.weight),
    (lambda x, m: x - m.weight, lambda x, m: m.weight - x),
    (lambda x, m: m.layer(x) * 2, lambda x, m: m.layer(x) * 2.0),
    (lambda x, m: m.layer(x) + torch.arange(4), lambda x, m: m.layer(x) + torch.arange(1, 5)),
    (lambda x, m: (m.layer(x), x + 1), lambda x, m: (x + 1, m.layer(x))),
    (lambda x, m: m.layer(x)[:, 1:], lambda x, m: m.layer(x)[:, :3]),
    (lambda x, m: Identity.apply(x) * m.weight, lambda x, m: x * 3 * m.weight),  # type: ignore[no-untyped-call]
    (lambda x, m: x.clone().add_(m.weight), lambda x, m: x.clone().sub_(m.weight)),
]


class TestDigest:
    @pytest.mark.parametrize("function", FOLLOWED)
    def test_a_trace_and_a_plain_run_agree_for_other_weights(self, function: Callable[..., Any]) -> None:
        with torch.no_grad():
            traced = trace_example(bind_call(Uses(function).eval(), (X,), {}), fix_sizes=True)
        assert traced.operations is not None
        assert digest(function, 1.7) == traced.operations

    @pytest.mark.parametrize("function", UNSEEN)
    @pytest.mark.filterwarnings("ignore")
    def test_there_is_none_where_anything_happens_unseen(self, function: Callable[..., Any]) -> None:
        assert digest(function) is None

    @pytest.mark.parametrize(("before", "after"), CHANGED)
    def test_another_computation_has_another(self, before: Callable[..., Any], after: Callable[..., Any]) -> None:
        assert digest(before) is not None
        assert digest(before) != digest(after)

    def test_another_constant_of_the_module_has_another(self) -> None:
        def uses(module: Uses, table: Any) -> str | None:
            module.table = table
            answered = answer(bind_call(module.eval(), (X,), {}))
            return None if answered is None else answered.operations

        def function(x: torch.Tensor, m: Any) -> Any:
            return x * m.table * m.weight

        with torch.no_grad():
            assert uses(Uses(function), torch.ones(4)) == uses(Uses(function, 2.0), torch.ones(4)) is not None
            assert uses(Uses(function), torch.ones(4)) != uses(Uses(function), torch.full((4,), 1.001))

    def test_a_weight_that_may_be_taken_for_a_number_is_one(self) -> None:
        def function(x: torch.Tensor, m: Uses) -> torch.Tensor:
            return x * torch.linspace(m.weight[0], m.other[0], 4)

        assert digest(function) == digest(function) is not None
        assert digest(function, 0.9) != digest(function)

    def test_a_factor_is_none(self) -> None:
        assert digest(lambda x, m: x * m.weight[0].exp()) == digest(lambda x, m: x * m.weight[0].exp(), 0.9) is not None

    def test_other_indices_have_another(self) -> None:
        def uses(split: int) -> str | None:
            module = Uses(lambda x, m: x.tensor_split(m.places, 1)[0] * 2)
            module.register_buffer("places", torch.tensor([split]))
            answered = answer(bind_call(module.eval(), (X,), {}))
            return None if answered is None else answered.operations

        with torch.no_grad():
            assert uses(1) == uses(1) is not None
            assert uses(1) != uses(2)

    def test_sizes_that_vary_have_none(self) -> None:
        with torch.no_grad():
            assert trace_example(bind_call(Uses(FOLLOWED[0]).eval(), (X,), {}), fix_sizes=False).operations is None


class TestRefresh:
    @pytest.mark.parametrize("function", HELD)
    def test_makes_no_trace_where_the_functions_are_the_same(
        self, function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        npu_persist.persist(Uses(function), "m", (X,), precision="fp32")
        module = Uses(function, 1.7)

        def fail(*_: object, **__: object) -> None:
            raise AssertionError

        monkeypatch.setattr(refreshing, "trace_example", fail)
        refreshed = npu_persist.refresh("m", module)
        monkeypatch.undo()
        assert refreshed.manifest == npu_persist.persist(module, "m", (X,), precision="fp32", force=True).manifest

    @pytest.mark.parametrize(("before", "after"), CHANGED[:4])
    def test_refuses_what_the_tolerance_would_let_through(
        self, before: Callable[..., Any], after: Callable[..., Any]
    ) -> None:
        npu_persist.persist(Uses(before), "m", (X,))
        with pytest.raises(RefreshError, match="does not compute what m:1 was persisted from"):
            npu_persist.refresh("m", Uses(after, 1.7), tolerance=1e9)
        assert npu_persist.open("m").version == 1
