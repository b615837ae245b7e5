"""NaN stays where keeping it costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from openvino import opset13 as ops

from npu_persist.conversion.rewrites.nan import keep_nan
from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = torch.linspace(-2, 2, 15).reshape(3, 5)
X = torch.tensor([[1, torch.nan, -1, 0, 0.5], [torch.nan] * 5, [torch.inf, -torch.inf, -0.0, 3, -torch.nan]])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.stack([x.clamp(min=0), x.clamp(min=-0.5) * 2, x.clamp(max=0.5), torch.minimum(x, X[0, 0])]),
        lambda x: F.normalize(x, dim=1),
        lambda x: (x.bool(), torch.logical_not(x), x.any(1), torch.logical_and(x, x.flip(1)), x.bool().float() + 1),
        lambda x: torch.stack([x > 0, x >= 0, x < 0, x <= 0, x == x, x != x, ~(x > 0), x * 2 + 1 > x, x.isnan()]),  # noqa: PLR0124
        lambda x: (torch.where(x > 0, x, -x), torch.where(x.isnan(), 0, x), (x > 0) * x, x.masked_fill(x.isnan(), 1)),
    ],
    ids=["one bound", "normalize", "booleans", "comparisons", "selections"],
)
def test_nan_is_torchs(function: Callable[..., torch.Tensor]) -> None:
    assert_as_torch(Calls(function), (EXAMPLE,), (X,))


def test_comparisons_are_made_by_less_alone() -> None:
    """Greater is True of NaN on a CPU with AVX-512, which the machine of this test may not have."""
    x, y = ops.parameter([4], ov.Type.f32), ops.parameter([4], ov.Type.f32)
    model = ov.Model([ops.greater(x, y), ops.greater_equal(x, ops.constant(1.0, ov.Type.f32))], [x, y])
    keep_nan(model)
    less, less_equal = (result.input_value(0).get_node() for result in model.get_results())
    assert (less.get_type_name(), less_equal.get_type_name()) == ("Less", "LessEqual")
    assert [value.get_node() for value in less.input_values()] == [y, x]


def test_integers_and_two_tensors_stay_as_they_are() -> None:
    x, y = ops.parameter([4], ov.Type.f32), ops.parameter([4], ov.Type.i64)
    bounded = ops.maximum(y, ops.constant([1]))
    model = ov.Model([ops.maximum(x, ops.sqrt(x)), bounded, ops.convert(y, "boolean")], [x, y])
    keep_nan(model)
    assert bounded.input_value(0).get_node().get_type_name() == "Parameter"
    assert "NotEqual" not in {operation.get_type_name() for operation in model.get_ops()}
