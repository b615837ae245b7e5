"""Floats are truncated as floats."""

from __future__ import annotations

import torch

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls


def test_floats_beyond_integers() -> None:
    module = Calls(lambda x, y: (torch.div(x, 3, rounding_mode="trunc"), torch.div(x, y, rounding_mode="trunc")))
    x = torch.tensor([3e10, -7.9, 2.5, -0.5, 1e38, torch.nan, torch.inf])
    assert_as_torch(module, (torch.randn(7) * 9, torch.rand(7) + 1), (x, torch.rand(7) + 0.5))


def test_integers() -> None:
    module = Calls(lambda x, y: (torch.div(x, y, rounding_mode="trunc"), x.int().float() / 2))
    assert_as_torch(
        module,
        (torch.tensor([7, -7, 9]), torch.tensor([2, 2, -4])),
        (torch.tensor([9, -8, 0]), torch.tensor([-4, 3, 5])),
    )
