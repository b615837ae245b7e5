"""Where the trace's graph is wrong, does not compile or does not run, torch.export's is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import npu_persist
from npu_persist.conversion import check
from npu_persist.errors import ConversionError, ParityError
from tests.support.as_torch import assert_as_torch

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.linspace(-3, 3, 64).reshape(2, 4, 8)


class Apply(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(torch.nn.Softplus(2, 3), id="softplus whose graph is its own output"),
        pytest.param(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Softplus(2, 3)), id="softplus in a module"),
        pytest.param(Apply(lambda x: x.narrow(1, -2, 2)), id="negative start of narrow"),
        pytest.param(Apply(lambda x: torch.nn.functional.pad(x, (-1, 2), mode="circular")), id="negative circular pad"),
    ],
)
def test_a_graph_that_differs(module: torch.nn.Module) -> None:
    assert_as_torch(module, (X,), (X.flip(0) * 2,))


@pytest.mark.parametrize("fails", ["compile_model", "infer"])
def test_a_graph_that_does_not_compile_or_run(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_for_check, calls = check.compile_for_check, []

    class Broken:
        def create_infer_request(self) -> Broken:
            return self

        def infer(self, _: object) -> None:
            raise RuntimeError("the node cannot run")

    def fail_once(*args: Any) -> object:
        calls.append(args)
        if len(calls) == 1 and fails == "infer":
            return Broken()
        if len(calls) == 1:
            raise npu_persist.errors.CompilationError("the node cannot be compiled")
        return compile_for_check(*args)

    monkeypatch.setattr(check, "compile_for_check", fail_once)
    bundle = npu_persist.persist(torch.nn.Linear(8, 2), "broken", (X,))
    assert bundle.graph().conversion == "export"


def test_both_differ() -> None:
    with pytest.raises(ParityError, match=r"by up to .* of the largest value.* tried next, differs too\.$") as caught:
        npu_persist.persist(torch.nn.Linear(64, 64), "strict", (torch.randn(4, 64),), tolerance=1e-7)
    assert caught.value.differences


def test_what_cannot_run_is_no_bare_runtime_error() -> None:
    module = Apply(lambda x: torch.view_as_real(torch.fft.rfft(x, n=8)))
    try:
        assert_as_torch(module, (torch.randn(2, 6),), (torch.randn(2, 6),))
    except ConversionError as error:
        assert "at most 6 elements of axis -1 in layer RDFT" in str(error)  # noqa: PT017 - or a rewrite may be right


class TestTheFirstLayerThatDiffers:
    def test_advice_fits_the_precision(self) -> None:
        module = Apply(lambda x: x.exp().log1p().tanh() @ x.T)
        with pytest.raises(ParityError, match=r'Try precision="fp32", or a wider tolerance='):
            npu_persist.persist(module, "half", (torch.randn(64, 64),), tolerance=1e-12)
        with pytest.raises(ParityError, match=r"Try a wider tolerance=, if this difference is acceptable\."):
            npu_persist.persist(module, "full", (torch.randn(64, 64),), precision="fp32", tolerance=1e-12)

    def test_what_was_fused_or_is_called_twice_is_not_blamed(self) -> None:
        convolution, norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
        torch.nn.init.uniform_(norm.bias, 2, 3)
        torch.nn.init.uniform_(norm.weight, 2, 3)

        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem = torch.nn.Sequential(convolution, norm, torch.nn.Sigmoid())
                self.twice = torch.nn.Linear(8, 8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                result: torch.Tensor = self.twice(self.twice(self.stem(x)))
                return result.exp()

        with pytest.raises(ParityError) as caught:
            npu_persist.persist(Model(), "fused", (torch.randn(1, 3, 8, 8),), precision="fp32", tolerance=1e-9)
        assert not str(caught.value.layer).startswith(("stem.0 ", "twice"))
