"""A small constant that is added for safety is not lost in a larger one."""

from __future__ import annotations

import openvino as ov
import torch
from openvino import opset13 as ops

from npu_persist.conversion.rewrites.small_constants import keep_small_constants
from tests.support.as_torch import assert_as_torch
from tests.support.modules import Calls


def test_small_constants_are_added_last() -> None:
    def guarded(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            *(torch.log(1 - x + 1e-9), torch.log(1e-9 + (1 - x)), torch.log((1 - x) / 3 + 1e-9)),
            *(torch.sqrt(1 - x * x + 1e-12), 1 / ((x - 1) * 2 + 1e-10), torch.log((1 - x) * 0.5 - -1e-9)),
        )

    assert_as_torch(Calls(guarded), (torch.rand(5) * 0.9,), (torch.tensor([0.0, 1, 0.5, 1 - 1e-7, 1]),))


def test_others_are_left_to_openvino() -> None:
    x = ops.parameter([4], ov.Type.f32)
    shifted = ops.add(ops.add(x, ops.constant(1.0, ov.Type.f32)), ops.constant(0.5, ov.Type.f32))
    model = ov.Model([ops.add(shifted, ops.constant([1e-9] * 4, ov.Type.f32))], [x])
    keep_small_constants(model)
    assert "Maximum" not in {operation.get_type_name() for operation in model.get_ops()}
