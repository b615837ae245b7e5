"""What persist says of integers that OpenVINO does not compute as torch does."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import npu_persist
from npu_persist.errors import PersistWarning, PrecisionWarning
from tests.support.as_torch import assert_as_torch


class _Table(nn.Module):
    """A sum of products of integers by way of einsum, which OpenVINO computes in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.einsum("ij,kj->ik", x, x)
        return result


class _Hours(nn.Module):
    """Features of unix times: the hour and the day of the week, looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.hours, self.days = nn.Embedding(24, 8), nn.Embedding(7, 8)

    def forward(self, time: torch.Tensor) -> torch.Tensor:
        hour, day = (time % 86400) // 3600, (time // 86400 + 4) % 7
        result: torch.Tensor = self.hours(hour) + self.days(day)
        return result


class _Milliseconds(nn.Module):
    def forward(self, seconds: torch.Tensor) -> torch.Tensor:
        return (seconds * 1000) // 7


class _Positions(nn.Module):
    """What transformers do with an attention mask and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(50, 8), nn.Embedding(40, 8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        places = (attention_mask.cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
        masked = (1 - attention_mask) * -10000
        result: torch.Tensor = self.tokens(input_ids) + self.positions(places) + masked[..., None]
        return result


def test_an_operation_that_rounds_is_named_with_its_module_and_line() -> None:
    module = nn.Sequential(nn.Identity(), _Table())
    with pytest.warns(PrecisionWarning, match=r"1: aten::einsum, at test_large_integers.py:\d+: .*torch.einsum"):
        bundle = npu_persist.persist(module, "table", (torch.arange(12).view(3, 4),))
    assert "aten::einsum" in bundle.manifest.warnings[0]


def test_integers_that_leave_int32_are_warned_of() -> None:
    with pytest.warns(PrecisionWarning, match=r"output output: with integers from 16777216 .* in seconds"):
        npu_persist.persist(_Milliseconds(), "milliseconds", (torch.arange(9),))


def test_hours_of_unix_times() -> None:
    generator = torch.Generator().manual_seed(0)
    times = torch.randint(1_600_000_000, 1_800_000_000, (2, 30), generator=generator)
    assert_as_torch(_Hours(), (times % 10000,), (times,), (-times,), (torch.full_like(times, 2**31 - 1),))


def test_masks_and_tokens_are_not_tried() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PersistWarning)
        example = {"input_ids": torch.arange(8).view(2, 4), "attention_mask": torch.ones(2, 4, dtype=torch.int64)}
        npu_persist.persist(_Positions(), "positions", kwargs=example)
