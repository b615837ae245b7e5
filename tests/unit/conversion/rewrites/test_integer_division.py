"""Integers divide exactly on the CPU plugin."""

from __future__ import annotations

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops

import npu_persist
from npu_persist.conversion.rewrites.integer_division import make_integer_divisions_exact
from tests.support.modules import IntegerDivision


def test_integers_divide_exactly() -> None:
    module = IntegerDivision()
    bundle = npu_persist.persist(module, "division", (torch.tensor([63, 64, 31, 7, 8, -7]),))
    assert bundle.graph().conversion == "trace"
    model = npu_persist.load("division", device="CPU")
    other = torch.tensor([16, -3, 5, 11, -12, 0])
    for got, expected in zip(model(other), module(other), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_divisions_of_shapes_stay_as_they_are() -> None:
    x = ops.parameter(ov.PartialShape([-1]), np.float32)
    half = ops.divide(ops.shape_of(x), ops.constant(np.array([2], np.int64)))
    model = ov.Model([ops.broadcast(ops.constant(np.float32(1)), half)], [x])
    before = len(model.get_ops())
    make_integer_divisions_exact(model)
    assert len(model.get_ops()) == before
