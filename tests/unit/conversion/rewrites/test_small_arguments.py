"""log1p, expm1, softplus and log_sigmoid are right where their results are small, and at both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = torch.logspace(-12, 1.9, 60)
OTHERS = torch.cat([-SMALL, SMALL, torch.tensor([0.0, -0.0, -1, 90, torch.inf, -torch.inf, torch.nan])])


@pytest.mark.parametrize(
    "function",
    [
        torch.log1p,
        torch.expm1,
        F.softplus,
        lambda x: F.softplus(x, beta=2.0, threshold=3.0),
        lambda x: F.softplus(x, beta=0.5, threshold=30.0),
        F.logsigmoid,
        lambda x: torch.log(F.softplus(x)),
        lambda x: torch.log1p(torch.where(x > 0, x, 1.0).clamp(0, 60).long()),
    ],
    ids=["log1p", "expm1", "softplus", "softplus-beta", "softplus-threshold", "logsigmoid", "log-softplus", "integers"],
)
def test_small_results_are_torchs(function: Callable[..., torch.Tensor]) -> None:
    example = torch.linspace(-0.5, 20, len(OTHERS))
    assert_as_torch(Calls(function), (example,), (OTHERS,), rtol=5e-6, atol=1e-38)


def test_log1p_of_exp_is_exact_where_it_is_small() -> None:
    assert_as_torch(Calls(lambda x: torch.log1p(torch.exp(x))), (torch.linspace(-80, 80, 99),), rtol=5e-6, atol=1e-38)
