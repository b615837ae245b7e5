"""Tensors without elements are as in torch; tested in a process of its own, which OpenVINO would otherwise end."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from tests.support.as_torch import assert_as_torch
from tests.support.processes import run_python


class Empty(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(4, 3)
        self.nothing = torch.nn.Embedding(4, 0)
        self.lstm = torch.nn.LSTM(8, 4, batch_first=True)
        self.gru = torch.nn.GRU(8, 4, batch_first=True)
        self.convolution = torch.nn.Conv1d(5, 3, 3)

    def forward(self, x: torch.Tensor) -> tuple[Any, ...]:
        none, row = x[:0], x[0]
        index = none[:, 0, 0].long()
        return (
            x + 1,
            self.table(index),
            self.nothing(x[:, 0, :4].long() * 0),
            self.lstm(none)[0],
            self.gru(none)[0],
            self.convolution(none),
            row[index, index],
            functional.one_hot(index, 3),
            row.gather(1, row[:, :0].long()),
            row.scatter(1, row[:, :0].long(), 1.0),
            functional.linear(row[:, :0], torch.zeros(4, 0), torch.ones(4)),
            row[:, :0] @ row[:, :0].T,
            functional.scaled_dot_product_attention(x, x[:, :0], x[:, :0]),
            torch.cat([row[:, :0], row], 1),
            row[:, :0].sum(1),
            functional.pad(row[:, :0], (1, 2), value=3.0),
        )


def compare() -> None:
    """Compare with torch, with a fixed and with an open size."""
    torch.manual_seed(0)
    assert_as_torch(Empty(), (torch.randn(2, 5, 8),), (torch.randn(2, 5, 8),))
    rows: dict[str, Any] = {"dynamic_shapes": ({0: torch.export.Dim("rows", min=0, max=9)},)}
    assert_as_torch(Empty(), (torch.randn(2, 5, 8),), (torch.randn(7, 5, 8),), **rows)
    module = torch.nn.LSTM(8, 4, batch_first=True)
    assert_as_torch(
        module, (torch.randn(2, 5, 8),), (torch.randn(0, 5, 8),), (torch.randn(3, 5, 8),), **rows, warn=True
    )


def test_nothing_is_computed_from_nothing() -> None:
    finished = run_python("-c", f"from {__name__} import compare; compare()")
    assert finished.returncode == 0, f"{finished.returncode}: {finished.stderr[-2000:]}"
