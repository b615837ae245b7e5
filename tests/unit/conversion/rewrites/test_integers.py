"""Integers are computed exactly within int32, whatever their size."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops
from torch.export import Dim

import npu_persist
from npu_persist.conversion.rewrites.integers import make_integer_divisions_exact, make_integers_exact
from tests.support.as_torch import assert_as_torch
from tests.support.captures import assert_equal_to_torch, convert_function
from tests.support.modules import Calls, IntegerDivision

GENERATOR = torch.Generator().manual_seed(0)
SHAPE = (4, 33)


def _random(low: int, high: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.randint(low, high, SHAPE, generator=GENERATOR).to(dtype)


SMALL = _random(-50, 50)
TIMES = _random(1_600_000_000, 1_800_000_000)
FULL, FULL_TOO = (_random(-(2**31), 2**31) for _ in range(2))
NEAR, NEAR_TOO = (_random(2**24 - 4, 2**24 + 5) * (_random(0, 2) * 2 - 1) for _ in range(2))
POSITIVE = _random(1, 5000)
NOT_ZERO = torch.where(SMALL == 0, 7, SMALL)


def _divisions(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    hours = (x % 86400) // 3600
    return (
        x // y,
        x // 3600,
        x // -7,
        x // 1,
        torch.div(x, y, rounding_mode="trunc"),
        torch.div(x, 7, rounding_mode="trunc"),
        torch.div(x, y, rounding_mode="floor"),
        x % y,
        x % 86400,
        x % -7,
        torch.fmod(x, y),
        torch.remainder(x, 60),
        hours,
        (x // 60) * 60 + x % 60 - x,
        (x // 2 + y) // 3,
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_division_and_modulo(dtype: torch.dtype) -> None:
    example, *others = (
        (x.to(dtype), y.to(dtype))
        for x, y in [(TIMES, POSITIVE), (FULL, POSITIVE), (FULL, NOT_ZERO), (NEAR, FULL_TOO), (SMALL, NOT_ZERO)]
    )
    assert_equal_to_torch(_divisions, example, *others)


def _comparisons(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        x == y,
        x != y,
        x < y,
        x <= y,
        x > y,
        x >= y,
        x == 16777217,
        x > 16777216,
        torch.where(x > y, x, y),
        torch.where(x > 500, x, y) // 2 + 3,
        (x // 4).masked_fill(x < 0, 16777217) * 2,
        x - (y > 16777217).long(),
    )


def test_comparisons_and_selections() -> None:
    assert_equal_to_torch(_comparisons, (NEAR, NEAR_TOO), (FULL, FULL_TOO), (FULL, FULL), (TIMES, TIMES + 1))


def _reductions(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        (x // 200).sum(),
        (x // 50).sum(1),
        (x // 8).sum(0, keepdim=True),
        (x // 200).sum((0, 1)),
        (x // 50).cumsum(1),
        x.max(),
        x.amin((0, 1)),
        x.amax(0, keepdim=True),
        x.max(1).values,
        x.min(0).values,
        (y[:, :3] % 1000).prod(1),
        (x // 4).unfold(1, 3, 2).sum(-1),
        (x > 0).sum(),
    )


def test_sums_and_extremes() -> None:
    x, y = Dim("x", min=2, max=99), Dim("y", min=8, max=99)
    assert_equal_to_torch(_reductions, (NEAR, POSITIVE), (FULL, NEAR))
    other = FULL[:3, :20]
    dynamic = {"x": {0: x, 1: y}, "y": {0: x, 1: y}}
    assert_equal_to_torch(_reductions, (NEAR, POSITIVE), (other, other), dynamic_shapes=dynamic)


def _bounds(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        x.clamp(-16777217, 16777219),
        x.clamp(min=16777217),
        x.clamp(max=16777217),
        x.clamp(min=0),
        x.clamp(-5, 2_000_000_001),
        torch.clamp(x, max=y),
        x.clamp(min=-16777217).clamp(max=16777217),
        torch.relu(x),
        x.abs(),
        -x,
        torch.minimum(x, y) + torch.sign(x),
    )


def test_clamps_and_signs() -> None:
    assert_equal_to_torch(_bounds, (NEAR, NEAR_TOO), (FULL // 2, FULL_TOO))


def _products(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    places = torch.arange(33)
    return (
        x**2,
        (x // 40) ** 3,
        x**0 + x**1,
        torch.square(x),
        torch.pow(y % 4, places % 9),
        torch.pow(2, y % 31),
        x @ places,
        (x @ places.view(33, 1)).T,
        x @ (y % 99).T,
        torch.bmm(x[None], (y % 99).T[None]),
        (x * 31 + 7) ^ (x & 1023),
    )


def test_powers_and_matrix_products() -> None:
    x = _random(-40000, 40000)
    assert_equal_to_torch(_products, (x, POSITIVE), (x.flip(0), _random(1, 5000)))
    rows = {"x": {0: Dim("rows", min=2, max=99)}, "y": None}
    assert_equal_to_torch(lambda x, y: (x @ y[0] % 9,), (x, POSITIVE), (x[:3], POSITIVE), dynamic_shapes=rows)


def _wrapping(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (
        x + y,
        x - y,
        x * y,
        -x,
        x + 200,
        (x + y).long() * 3,
        (x * y).float(),
        (x + y) > 3,
        x * 8,
        x**2,
        x.abs(),
        x // 3 + y % 5,
        (x.long() * 1000).to(x.dtype) + y,
        x @ y.T,
        x.sum(1),
        torch.maximum(x, y) & 0x55,
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_narrow_integers_wrap_around(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    x, y, z = (_random(info.min, info.max + 1, dtype) for _ in range(3))
    assert_equal_to_torch(_wrapping, (x, y), (y, z), (x, x))


def test_everything_by_way_of_export() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = (_divisions(x, y), _comparisons(x, y), _reductions(x, y), _bounds(x // 2, y), _products(x % 40000, y))
        narrow = _wrapping(x.to(torch.uint8), y.to(torch.uint8))
        return tuple(result for part in (*parts, narrow) for result in part)

    assert_equal_to_torch(function, (NEAR, POSITIVE), (FULL, POSITIVE), way="export")


def test_integers_divide_exactly_in_a_loaded_model() -> None:
    module = IntegerDivision()
    bundle = npu_persist.persist(module, "division", (torch.tensor([63, 64, 31, 7, 8, -7]),))
    assert bundle.graph().conversion == "trace"
    model = npu_persist.load("division", device="CPU")
    for other in (
        torch.tensor([16, -3, 5, 11, -12, 0]),
        torch.tensor([2**29 - 1, 2**28 + 1, 2**24 + 1, 1 - 2**27, 9, 1]),
    ):
        for got, expected in zip(model(other), module(other), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_constants_of_few_bits_divide_exactly(dtype: torch.dtype) -> None:
    low = 0 if dtype is torch.uint8 else -100
    values = torch.arange(low, low + 200).to(dtype)
    module = Calls(lambda x: (x + (values // 16), x + values % 7, x + (values >> 3)))
    assert_as_torch(module, (torch.zeros(200),), (torch.ones(200),)).close()


def test_what_computes_shapes_stays_as_it_is() -> None:
    x = ops.parameter(ov.PartialShape([-1]), np.float32)
    half = ops.divide(ops.shape_of(x), ops.constant(np.array([2], np.int64)))
    model = ov.Model([ops.broadcast(ops.constant(np.float32(1)), half)], [x])
    before = len(model.get_ops())
    make_integer_divisions_exact(model)
    make_integers_exact(model)
    assert len(model.get_ops()) == before


def _sizes(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    n = x.shape[1]
    places = torch.arange(n) - 5
    return (
        x * (n // 2),
        x * ((n - 1) // 2 + 1),
        x * -(-n // 2),
        x * ((n - 7) // 3),
        x * ((7 - n) // -2),
        x * (n % 2),
        x * (-n % 4),
        x * ((n - 7) % 3),
        x * (x.numel() // 5),
        x[:, : n - n % 2],
        torch.nn.functional.pad(x, (0, -n % 4)),
        places // 3,
        places % 3,
        y[:, : -(-n // 2)],
    )


@pytest.mark.parametrize(("low", "high"), [(2, 64), (2, None), (0, 66)])
def test_arithmetic_on_sizes_is_right_at_all_sizes(low: int, high: int | None) -> None:
    x = torch.arange(32).view(4, 8).float()
    axis = Dim("axis", min=low, max=high)
    others = [(torch.ones(4, size), torch.ones(4, size)) for size in (2, 3, 5, 7, 13, 33, 64)]
    assert_equal_to_torch(_sizes, (x, x), *others, dynamic_shapes={"x": {1: axis}, "y": {1: axis}})


def test_values_of_a_topk_become_flags() -> None:
    """The plugin converts no output but the one of an operation that has one."""
    assert_equal_to_torch(lambda x, y: (x.amax(1, keepdim=True).bool(), y.max(1).values.bool()), (FULL, SMALL))


def test_small_integers_stay_as_they_are() -> None:
    def positions(mask: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What transformers do with an attention mask and with tokens."""
        attends = tokens.ne(1).int()
        return (
            (attends.cumsum(1) * attends).long() + 1,
            mask[:, None, None, :] > 0,
            (tokens == 3).int().argmax(-1),
            tokens.clamp(0, 100),
            (mask > 0).sum(1),
            (torch.arange(tokens.shape[1])[None] < mask.bool().sum(1, keepdim=True)),
        )

    example = (torch.ones(2, 8, dtype=torch.int64), torch.arange(16).view(2, 8))
    model = convert_function(positions, example)
    kinds = {operation.get_type_name() for operation in model.get_ops()}
    assert not kinds & {"Maximum", "Subtract", "BitwiseAnd", "BitwiseNot"}
    assert sum(operation.get_type_name() == "CumSum" for operation in model.get_ops()) == 1
