"""Recurrent cells in scripted modules, where branches on ranks and optional states are folded as a trace folds them."""

from __future__ import annotations

import pytest
import torch

from tests.support.as_torch import assert_as_torch


class Step(torch.nn.Module):
    """One step of an LSTM on a stacked state, as voice activity detectors keep it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = torch.nn.LSTMCell(6, 5)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        if len(state):
            hidden, cell = self.cell(x, (state[0], state[1]))
        else:
            hidden, cell = self.cell(x)
        return torch.stack([hidden, cell])


class Recurrent(torch.nn.Module):
    """One step of a network with one state."""

    def __init__(self, cell: torch.nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.cell(x, hidden))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_of_an_lstm() -> None:
    module = torch.jit.script(Step())
    assert_as_torch(module, (numbers(4, 6), numbers(2, 4, 5)), (numbers(4, 6, seed=1), numbers(2, 4, 5, seed=1)))


@pytest.mark.parametrize(
    "cell", [torch.nn.GRUCell(6, 5), torch.nn.RNNCell(6, 5), torch.nn.RNNCell(6, 5, nonlinearity="relu")]
)
def test_of_networks_with_one_state(cell: torch.nn.Module) -> None:
    module = torch.jit.script(Recurrent(cell))
    assert_as_torch(module, (numbers(4, 6), numbers(4, 5)), (numbers(4, 6, seed=1), numbers(4, 5, seed=1)))
