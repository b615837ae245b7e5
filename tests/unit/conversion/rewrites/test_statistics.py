"""Variances have torch's correction, and distances any norm."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls

X = torch.randn(3, 4, 5)


def test_variances() -> None:
    def variances(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            *(
                x.var(),
                x.std(),
                x.std(unbiased=False),
                x.var(1),
                x.var((0, -1), keepdim=True),
                x.std(-1, unbiased=True),
            ),
            *(x.std(1, correction=2), x.std(correction=3), x.std(2, correction=0.5), x.var(1, correction=0)),
            *(*torch.var_mean(x, 1), *torch.std_mean(x), *torch.var_mean(x, correction=0, keepdim=True)),
        )

    assert_as_torch(Calls(variances), (X,), (X * 3 + 1,))


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")
def test_the_variance_of_one_number() -> None:
    assert_as_torch(Calls(lambda x: x[..., :1].var(-1)), (X,), (X + 1,), check=False)


def test_distances() -> None:
    norms = [0.0, 0.5, 1.0, 2.0, 3.0, math.inf]
    module = Calls(lambda x, y: tuple(torch.cdist(x, y, p=p) for p in norms))
    assert_as_torch(module, (X, X.flip(1) + 0.5), (X * 2, X.flip(1) - 0.5))
