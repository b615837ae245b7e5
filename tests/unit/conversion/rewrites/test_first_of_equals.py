"""The index of a maximum or minimum is that of the first of equal values."""

from __future__ import annotations

import torch

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls


def test_the_first_of_equal_values() -> None:
    def extremes(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*x.max(1), *x.min(1, keepdim=True), *x.max(-1), x.argmax(1), x.argmin(1))

    example, other = torch.randn(2, 300, 3), torch.randint(0, 4, (2, 300, 3)).float()
    assert_as_torch(Calls(extremes), (example,), (other,), (other.flip(1),), (torch.zeros(2, 300, 3),))
    assert_as_torch(Calls(extremes), (other.long() * 5,), (other.long(),), (other.flip(1).long(),))
