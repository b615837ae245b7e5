"""Grouped attention adds its mask, and answers as torch does."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from npu_persist.conversion.call import bind_call
from npu_persist.conversion.capture import trace
from npu_persist.conversion.convert import convert
from npu_persist.conversion.dynamic import read_dynamic_shapes
from tests.support.as_torch import assert_as_torch


class Grouped(torch.nn.Module):
    """Two layers of attention with four heads for queries and `heads` for keys, as transformers repeats them."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def repeat(self, x: torch.Tensor) -> torch.Tensor:
        batch, _, tokens, size = x.shape
        times = 4 // self.heads
        return x[:, :, None].expand(batch, self.heads, times, tokens, size).reshape(batch, 4, tokens, size)

    def forward(self, q: torch.Tensor, kv: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kv = self.repeat(kv) if self.heads < 4 else kv
        for _ in range(2):
            q = functional.scaled_dot_product_attention(q, kv, kv, attn_mask=mask)
        return q.transpose(1, 2).flatten(2)


def example(heads: int, tokens: int = 6) -> tuple[torch.Tensor, ...]:
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()
    return torch.randn(1, 4, tokens, 8), torch.randn(1, heads, tokens, 8), mask


def test_answers_are_torchs_also_where_rows_have_no_key() -> None:
    torch.manual_seed(0)
    other = example(2)
    other[2][..., :2, :] = False
    assert_as_torch(Grouped(2), example(2), other)


@pytest.mark.parametrize(("heads", "kinds"), [(1, {"f32"}), (2, {"f32"}), (4, {"boolean"})])
def test_only_masks_of_repeated_keys_become_numbers(heads: int, kinds: set[str]) -> None:
    call = bind_call(Grouped(heads).eval(), example(heads), {})
    model = convert(trace(call, fix_sizes=True), read_dynamic_shapes(None, call))
    masks = [
        operation.input_value(3)
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "ScaledDotProductAttention"
    ]
    assert {mask.get_element_type().to_string() for mask in masks} == kinds
    assert len({mask.get_node().get_name() for mask in masks}) == 1
