"""Interpolating to one row or column takes the middle."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls


def test_one_row_or_column() -> None:
    sizes = [(1, 3), (4, 1), (1, 1), (12, 14)]
    modes = ["bilinear", "bicubic"]
    module = Calls(lambda x: tuple(F.interpolate(x, size=size, mode=mode) for size in sizes for mode in modes))
    assert_as_torch(module, (torch.randn(1, 2, 6, 7),), (torch.randn(1, 2, 6, 7) * 5,))


def test_one_and_three_axes() -> None:
    linear = Calls(lambda x: F.interpolate(x, size=1, mode="linear"))
    assert_as_torch(linear, (torch.randn(1, 2, 9),), (torch.randn(1, 2, 9),))
    trilinear = Calls(lambda x: F.interpolate(x, size=(1, 2, 1), mode="trilinear"))
    assert_as_torch(trilinear, (torch.randn(1, 2, 5, 4, 6),), (torch.randn(1, 2, 5, 4, 6),))
