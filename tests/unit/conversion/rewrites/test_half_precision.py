"""What half precision would ruin, although no example shows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import npu_persist
from npu_persist.bundle.weights import read_header


class Rotary(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", 1 / 10000 ** (torch.arange(0, 64, 2) / 64), persistent=False)

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return (position.float()[:, None] * self.frequencies).cos() * x


def test_rotary_frequencies_are_right_at_positions_that_no_example_reached() -> None:
    module = Rotary()
    npu_persist.persist(module, "rotary", (torch.ones(8, 32), torch.arange(8)))
    model = npu_persist.load("rotary", device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
    position = torch.arange(4000, 4008)
    np.testing.assert_allclose(model(torch.ones(8, 32), position), module(torch.ones(8, 32), position), atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_beyond_half_precision_keep_their_values(dtype: torch.dtype) -> None:
    module = torch.nn.Embedding(4, 4).to(dtype)
    module.weight.data[3] = 131072.0
    bundle = npu_persist.persist(module, "embedding", (torch.tensor([0]),))
    assert read_header(bundle.path / "weights.safetensors").tensors["weight"].dtype == "F32"
    assert npu_persist.load("embedding", device="CPU")(np.array([3])).tolist() == [[131072.0] * 4]


def test_vectors_that_differ_less_than_a_half_does_stay_two() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.full((8,), 1.0))
            self.other = torch.nn.Parameter(torch.full((8,), 1.00001))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + self.one, x * self.other

    bundle = npu_persist.persist(Two(), "two", (torch.zeros(8),))
    assert {"one", "other"} <= set(read_header(bundle.path / "weights.safetensors").tensors)


def test_matrices_are_halves_and_vectors_are_not() -> None:
    bundle = npu_persist.persist(torch.nn.Linear(8, 8), "linear", (torch.zeros(1, 8),))
    tensors = read_header(bundle.path / "weights.safetensors").tensors
    assert (tensors["weight"].dtype, tensors["bias"].dtype) == ("F16", "F32")
