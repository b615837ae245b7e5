"""Running sums and products of integers are int64, as in torch."""

from __future__ import annotations

import pytest
import torch

from tests.support.captures import assert_equal_to_torch


def _function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        x.cumsum(1),
        x.cumsum(0) * 3,
        x.cumsum(-1, dtype=torch.float32),
        y.cumsum(-1, dtype=torch.int32),
        x[:, :2].prod(1),
        x[:2, :1].prod(),
        x[:, :2].prod(0, keepdim=True),
        y.prod(1, dtype=torch.float32),
        y.float().cumsum(0),
        y.float().prod(),
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_cumsum_and_prod(dtype: torch.dtype) -> None:
    x = (torch.arange(24).view(3, 8) * 9).to(dtype)
    assert_equal_to_torch(_function, (x, torch.ones(3, 8)), (x.flip(1), torch.full((3, 8), 0.5)))
