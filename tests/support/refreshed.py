"""Modules for `refresh`, and a training of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


M = TypeVar("M", bound=torch.nn.Module)
WIDE = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


class Uses(torch.nn.Module):
    """A function of an input and a parameter."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 2, 4))
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


class Wide(torch.nn.Module):
    """Linear layers that int4 has groups for, and an embedding's table."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(64, 64)
        self.second = torch.nn.Linear(64, 32)
        self.last = torch.nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.last(self.second(self.first(x)))
        return answer


def train(module: M, seed: int = 1) -> M:
    """Change all weights as a training may, buffers of floats included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return module
