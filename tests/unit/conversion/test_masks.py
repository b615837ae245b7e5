"""Masks are found among a graph's inputs, and a persist tries rows without a key."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import npu_persist
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import trace
from npu_persist.conversion.convert import convert
from npu_persist.conversion.dynamic import read_dynamic_shapes
from npu_persist.conversion.masks import find_masks, masked_calls
from npu_persist.conversion.rewrites import MODEL_REWRITES
from npu_persist.conversion.rewrites.masked_attention import zero_rows_without_key
from npu_persist.errors import ConversionError

X, KEYS = torch.randn(2, 2, 4, 8), torch.ones(2, 4, dtype=torch.bool)


class Fused(nn.Module):
    def forward(self, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x, attn_mask=keys[:, None, None].expand(2, 1, 4, 4) > 0)


class Eager(nn.Module):
    def forward(self, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        scores = x @ x.transpose(2, 3) + (1 - keys[:, None, None].float()) * -1e9
        return scores.softmax(-1) @ x


class Plain(nn.Module):
    def forward(self, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return (x @ x.transpose(2, 3)).softmax(-1) @ x * keys[:, None, :, None]


def masks_of(module: nn.Module, *args: Any) -> set[int]:
    call = bind_call(module.eval(), args, {})
    return find_masks(convert(trace(call, fix_sizes=True), read_dynamic_shapes(None, call)))


@pytest.mark.parametrize(("module", "places"), [(Fused(), {1}), (Eager(), {1}), (Plain(), set())])
def test_masks_are_inputs_that_reach_a_softmax(module: nn.Module, places: set[int]) -> None:
    assert masks_of(module, X, KEYS) == places


@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (torch.ones(4, 3, dtype=torch.int64), [[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]]),
        (torch.zeros(1, 3), [[-1e5, -1e5, 0]]),
        (torch.full((2, 2), float("-inf")).triu(1), [[float("-inf")] * 2, [float("-inf"), 0]]),
    ],
)
def test_rows_are_masked_out(mask: torch.Tensor, values: list[list[float]]) -> None:
    ((unchanged, masked),) = masked_calls([X, mask], {1})
    assert unchanged is X
    assert masked.tolist() == values


def test_a_boolean_mask_may_mean_either() -> None:
    first, second = masked_calls([KEYS], {0})
    assert (int(first[0].sum()), int(second[0].sum())) == (1, 8)


@pytest.mark.parametrize("tensor", [torch.tensor(1), torch.tensor([[3, 1]]), torch.randn(2, 3), torch.ones(1, 1)])
def test_other_values_are_no_masks(tensor: torch.Tensor) -> None:
    assert not [*masked_calls([tensor], {0})]


def test_a_graph_that_answers_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rewrites = tuple(rewrite for rewrite in MODEL_REWRITES if rewrite is not zero_rows_without_key)
    monkeypatch.setattr("npu_persist.conversion.build.MODEL_REWRITES", rewrites)
    with pytest.raises(ConversionError, match=r"not with keys that mask every key of some attention rows.*eager"):
        npu_persist.persist(Fused(), "refused", (X, KEYS))
    npu_persist.persist(Fused(), "unchecked", (X, KEYS), check=False)


def test_what_torch_has_no_answer_for_is_not_compared() -> None:
    class Open(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (x @ x.transpose(2, 3) + mask).softmax(-1) @ x

    mask = torch.full((4, 4), float("-inf")).triu(1)
    npu_persist.persist(Open(), "open", (X, mask))
