"""Numbers are rounded to as many decimals as torch rounds them to."""

from __future__ import annotations

import torch

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls


def test_decimals() -> None:
    x = torch.randn(300) * 30
    module = Calls(lambda x: tuple(torch.round(x, decimals=decimals) for decimals in (0, 1, 3, -1)))
    assert_as_torch(module, (x,), (x * 10,), (torch.tensor([0.5, 1.5, -2.5, 25, 35, 0.25]).repeat(50),))


def test_integers() -> None:
    assert_as_torch(Calls(lambda x: torch.round(x) + 1), (torch.tensor([1, 2, 3]),), (torch.tensor([-5, 0, 7]),))
