"""Group normalizations that meet another value: OpenVINO's CPU plugin ends the process for each of these as it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from tests.support.as_torch import assert_as_torch

if TYPE_CHECKING:
    from collections.abc import Callable

JOINS: dict[str, Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "the same input": lambda norm, x, _y: norm(x) + (x - 1),
    "another input": lambda norm, x, y: torch.relu(y) * norm(x),
    "scale and shift": lambda norm, x, y: norm(x) * (1 + y[:, :, :1]) + y[:, :, 1:2],
    "a comparison": lambda norm, x, y: norm(x) >= torch.fmod(x, y),
    "a choice": lambda norm, x, y: torch.where(y > 0, norm(x), x),
    "a power": lambda norm, x, y: torch.abs(y) ** norm(x),
    "through a reshape": lambda norm, x, y: norm(x).reshape(y.shape) + torch.relu(y),
    "two normalizations": lambda norm, x, y: norm(x) + (norm(y) + 1),
}


class Joined(nn.Module):
    """A group normalization and what its result meets."""

    def __init__(self, join: Callable[..., torch.Tensor], norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.join = join

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.join(self.norm, x, y)


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
@pytest.mark.parametrize("affine", [True, False])
def test_a_joined_normalization(join: Callable[..., torch.Tensor], *, affine: bool) -> None:
    module = Joined(join, nn.GroupNorm(2, 4, affine=affine))
    example, other = ((torch.randn(3, 4, 5), torch.randn(3, 4, 5)) for _ in range(2))
    assert_as_torch(module, example, other)


def test_what_is_not_finite_stays() -> None:
    x = torch.randn(3, 4, 5)
    x[0, 1, 2], x[1, 3, 0] = math.nan, math.inf
    module = Joined(JOINS["another input"], nn.GroupNorm(2, 4))
    assert_as_torch(module, (torch.randn(3, 4, 5), torch.rand(3, 4, 5)), (x, torch.rand(3, 4, 5)))
