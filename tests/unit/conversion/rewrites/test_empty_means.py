"""The mean of nothing is NaN."""

from __future__ import annotations

import pytest
import torch

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
def test_the_mean_of_nothing() -> None:
    def means(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = x[x[:, 0] > 0]
        return kept.mean(0), kept.mean(), kept.std(0), kept.var(0, unbiased=False), kept.sum(0), kept.prod(0)

    assert_as_torch(Calls(means), (torch.rand(4, 3) + 1,), (-torch.rand(4, 3),), (torch.tensor([[1.0, 2, 3]] * 4),))


def test_the_mean_over_a_dynamic_axis() -> None:
    shapes = {"inputs": ({0: torch.export.Dim("n", min=0)},)}
    module = Calls(lambda x: (x.mean(0), x.mean(1)))
    assert_as_torch(module, (torch.rand(4, 3),), (torch.rand(1, 3),), (torch.rand(0, 3),), dynamic_shapes=shapes)
