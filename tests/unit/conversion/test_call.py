"""How the example call is read and the forward is called: messages that help, and no warnings but the user's own."""

from __future__ import annotations

import collections
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import npu_persist
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import export
from npu_persist.errors import ConversionError, UsageError
from tests.support.as_torch import assert_as_torch
from tests.support.modules import Affine

X = torch.arange(12.0).reshape(3, 4)


class Returns(torch.nn.Module):
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: torch.Tensor) -> Any:
        del x
        return self.result


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        ({"x": X}, r"got dict\. Write kwargs=dict\(x\)"),
        (collections.UserDict(x=X), r"got UserDict\. Write kwargs=dict\(x\)"),  # what a tokenizer gives is one
        (X, r"got Tensor\. Write args=\(x,\)"),
    ],
)
def test_arguments_in_the_wrong_place(args: Any, advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        bind_call(Affine(), args, {})


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"loss": 3}, "returned a dict without any tensor"),
        (None, "returned None"),
        ({"y": np.zeros(3)}, r"result\.y is a numpy\.ndarray, .* use only torch"),
    ],
)
def test_results_that_no_graph_can_give(result: Any, message: str) -> None:
    call = bind_call(Returns(result), (X,), {})
    with pytest.raises(ConversionError, match=message):
        call.run(call.tensors)


def test_an_array_as_an_argument() -> None:
    with pytest.raises(ConversionError, match=r"x is a numpy\.ndarray, .* torch\.from_numpy makes one"):
        bind_call(Affine(), (X.numpy(),), {})


def test_vmap_over_a_layer() -> None:
    class PerRow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = torch.vmap(lambda row: self.layer(row) * row.sum())(x)
            return result

    assert_as_torch(PerRow(), (X,), (-X,))


@pytest.mark.parametrize("dense", [torch.Tensor.to_sparse, lambda t: t.to_sparse_csr()])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_sparse_buffer_that_is_not_used(dense: Any) -> None:
    module = Affine()
    module.register_buffer("adjacency", dense(torch.eye(3)))
    assert_as_torch(module, (X,), (-X,))


def test_a_sparse_product_is_a_typed_error() -> None:
    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adjacency = torch.eye(3).to_sparse()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = torch.sparse.mm(self.adjacency, x)
            return result

    with pytest.raises(ConversionError, match=r"torch\.jit\.trace could not follow Graph"):
        npu_persist.persist(Graph(), "sparse", (X,))


@pytest.mark.parametrize("kind", [torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU])
def test_our_own_wrapper_does_not_warn(kind: Any) -> None:
    call = bind_call(kind(4, 4).eval(), (X,), {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(call, call.run(call.tensors), None)


def test_a_size_as_a_tensor_does_not_warn() -> None:
    class Scales(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.tensor(x.shape[0])

    assert_as_torch(Scales(), (X,))


class _Counts(torch.nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count


class _Grows(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


def test_what_a_forward_writes_is_undone_when_it_runs_again() -> None:
    """A forward that writes into the module is watched each time; one that does not, gets copies of its inputs."""
    counts = _Counts()
    call = bind_call(counts, (X,), {})
    with torch.no_grad():
        first = call.run(call.tensors)
        again = call.run_again(call.tensors, first)
    assert torch.equal(again.tensors[0], X)
    assert not counts.count
    call = bind_call(_Grows(), (X,), {})
    first = call.run(call.tensors)
    assert torch.equal(call.run_again(call.tensors, first).tensors[0], X + 1)
    assert torch.equal(call.tensors[0], X)


def test_a_forward_that_fails_when_it_runs_again_is_named() -> None:
    """The error is that of a forward that is watched."""
    call = bind_call(torch.nn.Sequential(torch.nn.Linear(4, 2)), (X,), {})
    first = call.run(call.tensors)
    with pytest.raises(ConversionError, match=r"the forward of Sequential\.0 raised RuntimeError"):
        call.run_again((X[:, :3],), first)
