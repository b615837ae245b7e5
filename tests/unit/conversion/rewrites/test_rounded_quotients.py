"""Quotients of floats are exact where they are rounded or compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

from npu_persist.conversion.rewrites.rounded_quotients import make_rounded_quotients_exact
from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls

if TYPE_CHECKING:
    from collections.abc import Callable

X = torch.arange(-999.0, 1000)
Y = torch.arange(-999.0, 1000).remainder(49) + 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: torch.stack([torch.floor(x / y), torch.ceil(x / y), torch.round(x / y), torch.floor(x / y + 0.5)]),
        lambda x, y: (x / y).long() + (x / 41).reshape(-1, 1).long(),
        lambda x, y: torch.stack([x // y, torch.div(x, y, rounding_mode="trunc"), x / y - torch.floor(x / y)]),
        lambda x, y: torch.stack([x / y == torch.round(x / y), x / y >= 1, x / 41 > 3]),
        lambda x, _: ((x.long() / 41).floor(), torch.ceil(x / 41)),
    ],
    ids=["floor-ceil-round", "to-integers", "div", "comparisons", "constants"],
)
def test_quotients_are_rounded_as_torch_rounds_them(function: Callable[..., torch.Tensor]) -> None:
    assert_as_torch(Calls(function), (X, Y), (X * 41, Y), (X * Y, Y), (X * Y / 2, Y), atol=2e-3)


def test_infinite_quotients_stay() -> None:
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 1, -1, 0, 3e38])
    y = torch.tensor([41.0, 1, 1, 0, 0, 0, 1])
    assert_as_torch(Calls(lambda x, y: torch.floor(x / y)), (torch.ones(7), torch.ones(7)), (x, y))


def test_other_quotients_stay_as_they_are() -> None:
    x = ops.parameter([4], ov.Type.f32)
    mean = ops.divide(ops.reduce_sum(x, ops.constant([0]), keep_dims=True), ops.constant([4.0], ov.Type.f32))
    halves = ops.divide(ops.convert(ops.shape_of(x), "f32"), ops.constant([2.0], ov.Type.f32))
    model = ov.Model([ops.subtract(x, mean), ops.floor(halves)], [x])
    before = len(model.get_ops())
    make_rounded_quotients_exact(model)
    assert len(model.get_ops()) == before
