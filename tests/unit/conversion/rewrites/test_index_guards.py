"""Indices are torch's: negative ones count from the end, and none reaches memory outside of the tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops

import npu_persist
from npu_persist import Padding
from npu_persist.conversion.rewrites.index_guards import guard_indices
from npu_persist.errors import InputError, UsageError
from tests.support.as_torch import assert_as_torch
from tests.support.indexing import CASES, FREE, Case, Indexing, data, indices, split
from tests.support.processes import run_python

if TYPE_CHECKING:
    from npu_persist import Model

PLACES = [(name, number) for name, case in CASES.items() for number in range(len(case.high))]
"""Each index of each case: an input of the model, in this order."""


def middle(low: int, high: int) -> list[int]:
    return [0, high, max(low, -1)]


@pytest.fixture(scope="module")
def models() -> list[Model]:
    return [_persist(cases) for cases in split(CASES)]


def _persist(cases: dict[str, Case]) -> Model:
    lowest = indices(cases, lambda low, high: [low, high, 0])
    highest = indices(cases, lambda low, high: [high, low + (high - low) // 2, low])
    return assert_as_torch(
        Indexing(cases), (data(), *indices(cases, middle)), (data() + 1, *lowest), (data() * 2, *highest)
    )


@pytest.mark.parametrize("place", range(len(PLACES)), ids=[f"{name}-{number}" for name, number in PLACES])
def test_an_index_out_of_range_is_refused_as_by_torch(models: list[Model], place: int) -> None:
    name, number = PLACES[place]
    case = CASES[name]
    low, high = case.low[number], case.high[number]
    for value in (low - 1, high + 1, -(2**31), 2**31 - 1, 2**40):
        model, cases = next(pair for pair in zip(models, split(CASES), strict=True) if name in pair[1])
        call = indices(cases, middle)
        call[[one for one, _ in PLACES if one in cases].index(name) + number] = torch.tensor([0, value, 0])
        with pytest.raises(InputError, match=f"values from {low} to {high}, since .* index; got {value}"):
            model(data().numpy(), *[index.numpy() for index in call])
        own = torch.tensor([0, value, 0]), indices({name: case}, middle)
        with pytest.raises((IndexError, RuntimeError)):
            case.function(Indexing({}), data(), *[own[0] if at == number else one for at, one in enumerate(own[1])])


def test_no_index_reaches_other_memory() -> None:
    finished = run_python("-c", "from tests.support.indexing import run_out_of_range; run_out_of_range()")
    assert finished.returncode == 0, finished.stderr[-2000:]


def look_up_nan() -> None:
    """Run what torchvision's deform_conv2d is made of with offsets that are NaN."""
    x, offsets = ops.parameter([1, 1, 5, 5], np.float32), ops.parameter([1, 8, 4, 4], np.float32)
    kernel = ops.constant(np.ones((1, 1, 2, 2), np.float32))
    result = ops.deformable_convolution(x, offsets, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    model = ov.Model([result], [x, offsets], "deformable")
    guard_indices(model)
    request = ov.Core().compile_model(model, "CPU").create_infer_request()
    picture = np.ones((1, 1, 5, 5), np.float32)
    found = [request.infer([picture, np.full((1, 8, 4, 4), value, np.float32)])[0].copy() for value in (0, np.nan)]
    np.testing.assert_array_equal(found[0], np.full((1, 1, 4, 4), 4))
    np.testing.assert_array_equal(found[1], np.zeros((1, 1, 4, 4)))


def test_an_offset_that_is_nan_reaches_no_memory() -> None:
    finished = run_python("-c", f"from {__name__} import look_up_nan; look_up_nan()")
    assert finished.returncode == 0, finished.stderr[-2000:]


def test_a_value_for_padding_is_one_that_the_input_may_have() -> None:
    module = torch.nn.Embedding(5, 3)
    options: dict[str, Any] = {"buckets": [{"input": (1, 4)}, {"input": (1, 8)}]}
    example = (torch.tensor([[0, 1, 4]]),)
    with pytest.raises(UsageError, match=r"padding of input: expected a value from 0 to 4, .*; got 5\. .*Padding\(0\)"):
        npu_persist.persist(module, "padded", example, padding={"input": Padding(5)}, **options)
    npu_persist.persist(module, "padded", example, padding={"input": Padding(4)}, **options)
    model = npu_persist.load("padded", "CPU")
    assert model(np.array([[4, 0]])).shape == (1, 2, 3)
    with pytest.raises(InputError, match="values from 0 to 4"):
        model(np.array([[5]]))
    assert npu_persist.load("padded", "CPU", check_values=False)(np.array([[5]])).shape == (1, 1, 3)


def test_computed_indices_are_torchs() -> None:
    cases = {name: FREE[name] for name in ("take_along_dim", "computed", "floats", "element of an input")}
    example = indices(cases, lambda _low, _high: [0, 1, 1])
    assert_as_torch(
        Indexing(cases),
        (data(), *example),
        (data(), *[torch.tensor([-1, 1, -1])] * len(example)),
        (data(), torch.tensor([-7, 12, 5]), *example[1:]),  # take_along_dim takes every index
        dynamic_shapes=({0: torch.export.Dim("rows", min=4, max=9)}, (None,) * len(example)),
    )


def test_negative_indices_with_open_sizes() -> None:
    cases = {name: CASES[name] for name in ("x[i, j]", "x[i, j, k]", "x[:, j, k]", "x[i, j] = v", "index_put one")}
    rows = torch.export.Dim("rows", min=3, max=9)
    example = indices(cases, lambda low, _high: [0, low + 1, -1])
    more = indices(cases, lambda low, high: [-1, high, low])
    model = assert_as_torch(
        Indexing(cases),
        (data(), *example),
        (torch.cat([data(), data() + 60])[:9], *more),
        dynamic_shapes=({0: rows}, (None,) * len(example)),
    )
    assert [port.bounds is None for port in model.inputs[1:4]] == [True, False, True]
    assert np.isfinite(model(data().numpy(), *[np.full(3, -1)] * len(example))["x[i, j]"]).all()
