"""Single steps of recurrent networks: nn.LSTMCell, nn.GRUCell, nn.RNNCell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Optional = torch.Tensor | None


def lstm_cell(
    input: torch.Tensor,
    hx: Sequence[torch.Tensor],
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: Optional = None,
    b_hh: Optional = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the next hidden state and the next cell state."""
    hidden, cell = hx
    enter, forget, change, leave = (linear(input, w_ih, b_ih) + linear(hidden, w_hh, b_hh)).chunk(4, 1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(change)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


def gru_cell(
    input: torch.Tensor,
    hx: torch.Tensor,
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: Optional = None,
    b_hh: Optional = None,
) -> torch.Tensor:
    """Return the next hidden state."""
    reset, update, change = linear(input, w_ih, b_ih).chunk(3, 1)
    reset_hidden, update_hidden, change_hidden = linear(hx, w_hh, b_hh).chunk(3, 1)
    update = torch.sigmoid(update + update_hidden)
    change = torch.tanh(change + torch.sigmoid(reset + reset_hidden) * change_hidden)
    return change + update * (hx - change)


def rnn_tanh_cell(
    input: torch.Tensor,
    hx: torch.Tensor,
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: Optional = None,
    b_hh: Optional = None,
) -> torch.Tensor:
    """Return the next hidden state."""
    return torch.tanh(linear(input, w_ih, b_ih) + linear(hx, w_hh, b_hh))


def rnn_relu_cell(
    input: torch.Tensor,
    hx: torch.Tensor,
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: Optional = None,
    b_hh: Optional = None,
) -> torch.Tensor:
    """Return the next hidden state."""
    return torch.relu(linear(input, w_ih, b_ih) + linear(hx, w_hh, b_hh))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "rnn_tanh_cell": rnn_tanh_cell,
    "rnn_relu_cell": rnn_relu_cell,
}
