"""Modules that a persist rarely meets: each works, or is refused by an error of ours."""

from __future__ import annotations

import sys
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.export import Dim

import npu_persist
from npu_persist.errors import ConversionError, UsageError
from tests.support.as_torch import assert_as_torch
from tests.support.processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.linspace(-2, 2, 32).reshape(4, 8)


class WithTensor(torch.nn.Module):
    """Has a tensor of an unusual kind in its state_dict, used or not."""

    def __init__(self, tensor: torch.Tensor, *, used: bool) -> None:
        super().__init__()
        self.tensor: torch.Tensor
        self.register_buffer("tensor", tensor)
        self.used = used

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.tensor).abs() if self.used else x * 2


@pytest.mark.parametrize(
    ("tensor", "used"),
    [
        pytest.param(lambda: torch.randn(8, dtype=torch.complex64), True, id="complex"),
        pytest.param(lambda: torch.eye(8).to_sparse(), False, id="sparse"),
        pytest.param(lambda: torch.eye(8).to(torch.float8_e4m3fn), False, id="float8"),
        pytest.param(lambda: torch.quantize_per_tensor(torch.eye(8), 0.1, 0, torch.qint8), False, id="quantized"),
        pytest.param(lambda: torch.ones(8, dtype=torch.uint16), False, id="uint16"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_numpy_or_openvino_lack(tensor: Callable[[], torch.Tensor], used: bool) -> None:  # noqa: FBT001
    assert_as_torch(WithTensor(tensor(), used=used), (X,), (X.flip(0),))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_statically_quantized_convolution() -> None:
    quantization: Any = torch.ao.quantization
    module: Any = torch.nn.Sequential(quantization.QuantStub(), torch.nn.Conv2d(3, 4, 3), quantization.DeQuantStub())
    module.eval().qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(module)
    prepared(torch.randn(1, 3, 8, 8))
    assert_as_torch(quantization.convert(prepared), (torch.randn(1, 3, 8, 8),), (torch.randn(1, 3, 8, 8),), atol=1e-2)


def test_a_size_that_varies_is_an_output() -> None:
    class WithSize(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x * 2, x.shape[0]

    assert_as_torch(WithSize(), (X,), (torch.randn(7, 8),), dynamic_shapes={"x": {0: Dim("batch", min=1, max=8)}})


def test_outputs_that_are_views_of_each_other_and_of_inputs() -> None:
    class Views(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = x * 2
            return x, x.view(-1), x[:1].expand(3, 8), y, y.T, y[1:], torch.ones(2)

    assert_as_torch(Views(), (X,), (X.flip(0),))


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of a file")
@pytest.mark.parametrize("limit", [100, 30_000])
def test_a_full_disk_is_a_store_error(limit: int) -> None:
    code = f"""
        import resource, torch, npu_persist
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            npu_persist.persist(torch.nn.Linear(100, 100), "full", (torch.ones(1, 100),), precision="fp32")
        except npu_persist.errors.StoreError as error:
            print(error)
    """
    assert "could not write" in run_python("-c", textwrap.dedent(code)).stdout


def test_a_lazy_module_that_was_never_run() -> None:
    with pytest.raises(UsageError, match="run the lazy module once"):
        npu_persist.persist(torch.nn.LazyLinear(4), "lazy", (X,))


def test_a_compiled_submodule_runs_as_it_was_written() -> None:
    compiled: Any = torch.compile(torch.nn.Linear(8, 8))
    module = torch.nn.Sequential(compiled, torch.nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle = npu_persist.persist(module, "compiled", (X,))
    with torch.no_grad():
        expected = torch.nn.Sequential(compiled._orig_mod, torch.nn.ReLU())(X)
    np.testing.assert_allclose(npu_persist.load(bundle.path, device="CPU")(X.numpy()), expected, atol=1e-2)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_without_values_or_shape_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
    with pytest.raises(ConversionError, match="input is a nested tensor"):
        npu_persist.persist(torch.nn.ReLU(), "nested", (nested,))
    with FakeTensorMode():
        fake = torch.ones(2)
    with pytest.raises(ConversionError, match="input is a FakeTensor"):
        npu_persist.persist(torch.nn.ReLU(), "fake", (fake,))
