"""Functions of weights alone are computed in torch, and become constants of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.utils import parametrizations

import npu_persist
from tests.support.as_torch import assert_as_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

linalg = torch.linalg


class OfWeights(torch.nn.Module):
    """Multiplies by a function of its weight, which is symmetric and positive."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        weight = torch.randn(6, 6) * 0.3
        self.weight = torch.nn.Parameter(weight @ weight.T + torch.eye(6))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.function(self.weight)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(torch.matrix_exp, id="matrix_exp"),
        pytest.param(lambda w: torch.matrix_exp(w.triu(1) - w.triu(1).T), id="matrix_exp of what is traced"),
        pytest.param(linalg.cholesky, id="cholesky"),
        pytest.param(linalg.pinv, id="pinv"),
        pytest.param(lambda w: w * torch.slogdet(w)[1], id="slogdet"),
        pytest.param(lambda w: w.det() * w, id="det"),
        pytest.param(lambda w: linalg.svd(w).U, id="svd"),
        pytest.param(lambda w: linalg.qr(w).Q, id="qr"),
        pytest.param(lambda w: linalg.eigh(w).eigenvectors, id="eigh"),
        pytest.param(lambda w: linalg.solve(w, torch.eye(6)), id="solve"),
        pytest.param(lambda w: w / linalg.matrix_norm(w, 2), id="spectral norm"),
        pytest.param(torch.special.bessel_j0, id="a special function"),
        pytest.param(lambda w: w[torch.tril_indices(6, 6)[0][:6]], id="made from numbers"),
    ],
)
def test_what_openvino_lacks(function: Callable[[Tensor], Tensor]) -> None:
    assert_as_torch(OfWeights(function), (torch.randn(2, 6),), (torch.randn(2, 6),))


@pytest.mark.parametrize(
    "parametrize",
    [
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        lambda layer: parametrizations.orthogonal(layer, orthogonal_map="householder"),
    ],
)
def test_parametrizations(parametrize: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    layer = parametrize(torch.nn.Linear(6, 6)).eval()
    names = [*layer.state_dict()]
    model = assert_as_torch(torch.nn.Sequential(layer, torch.nn.ReLU()), (torch.randn(2, 6),), (torch.randn(2, 6),))
    assert model.bundle.graph().conversion == "trace"
    assert [*layer.state_dict()] == names
    assert not any("forward" in part.__dict__ for part in layer.modules())


def test_what_depends_on_an_input_stays_in_the_graph() -> None:
    class Writes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.buffer: Tensor
            self.register_buffer("buffer", torch.eye(3))

        def forward(self, x: Tensor) -> Tensor:
            self.buffer.copy_(x)
            result: Tensor = linalg.matrix_power(self.buffer, 2) + linalg.vector_norm(self.buffer)
            return result

    assert_as_torch(Writes(), (torch.randn(3, 3),), (torch.randn(3, 3),))


def test_a_function_of_the_input_without_conversion_is_still_refused() -> None:
    with pytest.raises(npu_persist.errors.ConversionError, match="linalg_eigh"):
        npu_persist.persist(_Eigh(), "eigh", (torch.eye(6),))


class _Eigh(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        vectors: Tensor = linalg.eigh(x).eigenvectors
        return vectors
