"""Operations that OpenVINO's frontend lacks, through both ways of capturing, against torch on other inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import npu_persist
from npu_persist.conversion import build
from npu_persist.errors import ConversionError
from tests.support.as_torch import assert_as_torch

if TYPE_CHECKING:
    from collections.abc import Callable

NAN, INF = float("nan"), float("inf")


class Function(torch.nn.Module):
    """A module around a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(*shape: int, low: int = -3, high: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def complexes(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(x.contiguous())


WITH_NAN = torch.tensor([[1.0, NAN, -2.0], [INF, -INF, 0.0]])
FLOATS: dict[str, Callable[..., Any]] = {
    "cumprod": lambda x: x.cumprod(0),
    "cumprod-negative": lambda x: torch.cumprod(x, -1),
    "cumprod-in-place": lambda x: x.clone().cumprod_(1),
    "cummax": lambda x: torch.cummax(x, -1),
    "cummin": lambda x: torch.cummin(x, 0),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "histc": lambda x: torch.histc(x, bins=5, min=-1, max=1),
    "histc-of-data": lambda x: x.histc(4),
    "diagonal": lambda x: (x[:, :3].diagonal(), x.diagonal(1), x.diagonal(-2), torch.trace(x)),
    "diagonal-scatter": lambda x: torch.diagonal_scatter(x, x[0, :4] * 2),
    "diag": lambda x: (torch.diag(x[0]), torch.diag(x[0], -1), torch.diag_embed(x)),
    "median": lambda x: (x.median(), *x.median(0), *x.median(-1, keepdim=True)),
    "quantile": lambda x: (torch.quantile(x, 0.3), x.quantile(torch.tensor([0.1, 0.9]), dim=1)),
    "mT": lambda x: (x.mT, x.mH, x.adjoint(), x.H),
    "copysign": lambda x: torch.copysign(x, -x.flip(0)),
    "trunc": lambda x: (torch.trunc(x * 3), torch.frac(x * 3), torch.fix(x * 3)),
    "hypot": lambda x: torch.hypot(x, x.flip(1)),
    "exp2": torch.exp2,
    "cov": lambda x: (torch.cov(x), torch.corrcoef(x)),
    "dist": lambda x: (torch.dist(x, x.flip(0)), torch.pdist(x)),
    "trapezoid": lambda x: (torch.trapezoid(x), torch.cumulative_trapezoid(x, dim=0)),
    "kron": lambda x: (torch.kron(x[:2], x[2:]), torch.inner(x, x), torch.tensordot(x, x, dims=([1], [1]))),
    "take": lambda x: torch.take(x, torch.tensor([0, 7, -1])),
    "index-fill": lambda x: x.index_fill(1, torch.tensor([0, 2]), 7.0),
    "activations": lambda x: torch.nn.functional.hardshrink(x) + torch.nn.functional.softshrink(x),
    "threshold": lambda x: torch.nn.functional.threshold(x, 0.1, 20.0),
    "xlogy": lambda x: (torch.xlogy(x.abs(), x.abs() + 1), torch.sinc(x), torch.logit(x.sigmoid())),
    "renorm": lambda x: torch.renorm(x, 2, 0, 1.0),
    "select-scatter": lambda x: torch.select_scatter(x, x[0] * 3, 0, 2),
    "block-diag": lambda x: (torch.block_diag(x, x[:2]), torch.cartesian_prod(x[0], x[1])),  # type: ignore[no-untyped-call]
    "addbmm": lambda x: (torch.addbmm(x[:4, :4], x[None, :4, :4], x[None, :4, :4]), torch.addmv(x[:, 0], x, x[0])),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.mT + 4 * torch.eye(4)),
    "solve": lambda x: torch.linalg.solve(x @ x.mT + 4 * torch.eye(4), x),
    "solve-triangular": lambda x: torch.linalg.solve_triangular(x[:, :4].tril() + 3 * torch.eye(4), x, upper=False),
    "unfold": lambda x: (x.unfold(-1, 3, 2), x.unfold(-2, 2, 1)),
    "unfold-of-images": lambda x: torch.nn.functional.unfold(x[None, None], (2, 3), dilation=1),
    "by-keyword": lambda x: (
        torch.max(input=x, dim=1).values,
        torch.div(input=x, other=2.0),
        torch.cat(tensors=[x, x]),
    ),
    "logaddexp2": lambda x: torch.logaddexp2(x, x.flip(0)),
    "cat-with-empty": lambda x: torch.cat([torch.zeros(0), x, x[:1]]),
    "triangle-indices": lambda x: (x[tuple(torch.tril_indices(4, 6))], x[tuple(torch.triu_indices(4, 6, 1))]),
    "masked-rows": lambda x: _set(x, lambda y: y.__setitem__(x[:, 0] > 0, 0.0)),
    "masked-columns": lambda x: _set(x, lambda y: y.__setitem__((slice(None), x[0] > 0), -1.0)),
    "masked-rows-by-row": lambda x: _set(x, lambda y: y.__setitem__(x[:, 0] > 0, x[1] * 2)),
    "fftshift": lambda x: (torch.fft.fftshift(x), torch.fft.ifftshift(x, dim=1)),
    "max-of-booleans": lambda x: ((x > 0).max(), (x > 1).max(1).values, (x > 0).amin(0), (x > 9).min()),
}


def _set(x: torch.Tensor, change: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    y = x.clone()
    change(y)
    return y


@pytest.mark.parametrize("name", FLOATS)
def test_of_numbers(name: str) -> None:
    assert_as_torch(Function(FLOATS[name]), (numbers(4, 6),), (numbers(4, 6, seed=1),), (-numbers(4, 6, seed=2),))


EXPORTED = ("cumprod", "cummax", "histc", "diagonal", "median", "masked-rows", "unfold", "triangle-indices")


@pytest.mark.parametrize("name", EXPORTED)
def test_through_export(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ConversionError("by torch.export alone")

    monkeypatch.setattr(build, "trace_example", refuse)
    module = Function(FLOATS[name])
    model = assert_as_torch(module, (numbers(4, 6),), (numbers(4, 6, seed=1),), (-numbers(4, 6, seed=2),))
    assert model.bundle.graph().conversion == "export"


WITH_SPECIALS: dict[str, Callable[..., Any]] = {
    "nan-to-num": lambda x: (x.nan_to_num(), torch.nan_to_num(x, nan=2.0, posinf=5.0, neginf=-5.0)),
    "cummax": lambda x: torch.cummax(x, 1),
    "median": lambda x: (x.nanmedian(), x.median(1), x.nanmedian(0)),
    "nansum": lambda x: (x.nansum(), x[:1].nanmean(1)),
    "fmax": lambda x: (torch.fmax(x, x.flip(1)), torch.fmin(x, x.flip(1))),
    "heaviside": lambda x: torch.heaviside(x, torch.tensor(0.5)),
    "signbit": lambda x: torch.signbit(x.sign().nan_to_num(0.0) * -0.0),
}


@pytest.mark.parametrize("name", WITH_SPECIALS)
def test_of_nan_and_infinities(name: str) -> None:
    assert_as_torch(Function(WITH_SPECIALS[name]), (numbers(2, 3),), (WITH_NAN,), (WITH_NAN.flip(1),))


INTEGERS: dict[str, Callable[..., Any]] = {
    "cumprod": lambda x: x.cumprod(1),
    "cummax": lambda x: x.cummax(0),
    "histc": lambda x: torch.histc(x.to(torch.int32).float(), bins=4, min=-3, max=3),
    "unique-consecutive": lambda x: torch.unique_consecutive(x, return_inverse=True, return_counts=True),
    "unique-consecutive-rows": lambda x: torch.unique_consecutive(x[:, :1], return_counts=True, dim=0),
    "bincount": lambda x: torch.bincount((x + 3).flatten(), minlength=7),
    "shifts": lambda x: (x << 2, x >> 1, torch.bitwise_right_shift(x, x.abs())),
    "mode": lambda x: x.mode(1),
    "isin": lambda x: torch.isin(x, torch.tensor([1, 3])),
    "count-nonzero": lambda x: (torch.count_nonzero(x), torch.count_nonzero(x, dim=0)),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_of_integers(name: str) -> None:
    others = [(integers(4, 6, seed=seed),) for seed in (1, 2)]
    overflows = name in {"cumprod", "shifts"}  # for the large integers that persist tries
    assert_as_torch(Function(INTEGERS[name]), (integers(4, 6),), *others, warn=overflows)


def _parts(z: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(z.resolve_conj())


COMPLEX: dict[str, Callable[..., Any]] = {
    "conjugate": lambda z: _parts(z.conj()),
    "adjoint": lambda z: _parts(z.mH),
    "divided": lambda z: _parts(z / (z.flip(0) + 3)),
    "divided-by-real": lambda z: _parts(z / (z.abs() + 1)),
    "real-divided": lambda z: _parts(1.0 / (z + 4)),
    "magnitude-and-angle": lambda z: (z.abs(), z.angle()),
    "polar": lambda z: _parts(torch.polar(z.abs(), z.angle())),
    "padded": lambda z: _parts(torch.nn.functional.pad(z, (1, 2, 0, 1))),
    "exponential": lambda z: _parts(torch.exp(z) * torch.log(z + 5)),
    "product": lambda z: _parts(z @ z.mT + torch.einsum("ij,kj->ik", z, z.conj())),
    "sum": lambda z: _parts(z.sum(0) + z.mean(0)),
    "power": lambda z: (z.abs() ** 2, _parts(z**2)),
    "cast": lambda z: _parts(z.real.to(torch.complex64) * z),
    "indexed": lambda z: _parts(z[1] + z[:, 1:2].T[0, 0]),
    "stacked": lambda z: _parts(torch.stack([z, z.conj()]).flip(0)),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_of_complex_numbers(name: str) -> None:
    function = COMPLEX[name]
    assert_as_torch(
        Function(lambda x: function(complexes(x))), (numbers(3, 4, 2),), (numbers(3, 4, 2, seed=1),), atol=1e-4
    )


DYNAMIC = ("cumprod", "cummax", "histc", "median", "unfold", "masked-rows", "logcumsumexp", "mT", "cat-with-empty")


@pytest.mark.parametrize("name", DYNAMIC)
def test_where_sizes_vary(name: str) -> None:
    shapes = {"tensors": ({0: torch.export.Dim("rows", min=3, max=40)},)}
    others = [(numbers(rows, 6, seed=rows),) for rows in (3, 11, 40)]
    assert_as_torch(Function(FLOATS[name]), (numbers(5, 6),), *others, dynamic_shapes=shapes)


@pytest.mark.parametrize("cell", [torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell])
def test_recurrent_cells(cell: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    assert_as_torch(cell(6, 5), (numbers(4, 6),), (numbers(4, 6, seed=1),))


def test_the_users_own_traces_are_left_alone() -> None:
    assert_as_torch(Function(FLOATS["cumprod"]), (numbers(2, 3),))
    graph = torch.jit.trace(  # type: ignore[no-untyped-call]
        lambda x: x.cumprod(1), (numbers(2, 3),)
    ).inlined_graph
    assert "aten::cumprod" in str(graph)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_of_half_precision_without_an_epsilon(dtype: torch.dtype) -> None:
    module = torch.nn.RMSNorm(4).to(dtype)
    small = torch.tensor([[1e-3, 2e-3, -1e-3, 3e-3]], dtype=dtype)
    bundle = npu_persist.persist(module.eval(), "norm", (torch.ones(1, 4, dtype=dtype),), precision="fp32")
    with npu_persist.load(bundle.path, device="CPU") as model, torch.no_grad():
        given = small.numpy() if dtype is torch.float16 else small.float().numpy()
        np.testing.assert_allclose(model(given).astype(np.float32), module(small).float().numpy(), rtol=0.02)
