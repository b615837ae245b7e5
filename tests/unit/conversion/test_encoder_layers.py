"""torch's own encoders, decoders and attention answer as in inference, for masks that the example did not show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from npu_persist.conversion.encoder_layers import as_in_inference
from tests.support.as_torch import assert_as_torch

if TYPE_CHECKING:
    from collections.abc import Callable

CAUSAL = nn.Transformer.generate_square_subsequent_mask(4)


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)


def padding(*rows: int, left: bool = False, length: int = 6) -> torch.Tensor:
    """Return a mask that is true where a row of so many tokens is padded."""
    mask = torch.arange(length) >= torch.tensor(rows)[:, None]
    return mask.flip(1) if left else mask


class Padded(nn.Module):
    """An encoder, or a layer of one, given padding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor, is_padding: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.encoder(x, src_key_padding_mask=is_padding)
        return states


class Sequences(nn.Module):
    """A transformer with a mask for its targets."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
        self.options = options

    def forward(self, source: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.transformer(source, target, tgt_mask=mask, **self.options)
        return states


@pytest.mark.filterwarnings("ignore:.*nested tensors")
@pytest.mark.parametrize("norm", [None, nn.LayerNorm(8)])
def test_an_encoder_answers_zeros_at_padding_on_the_right(norm: nn.Module | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 8)
    module = Padded(nn.TransformerEncoder(layer(), 2, norm=norm))
    others = [padding(2, 6), padding(1, 5), padding(6, 0), padding(6, 4, left=True), padding(3, 6).roll(1, 1)]
    assert_as_torch(module, (x, padding(6, 6)), *((x + 1, mask) for mask in others))


@pytest.mark.filterwarnings("ignore:.*enable_nested_tensor")
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(layer, id="a layer alone"),
        pytest.param(lambda: nn.TransformerEncoder(layer(norm_first=True), 2), id="norm first"),
        pytest.param(lambda: nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False), id="no nested tensors"),
    ],
)
def test_other_encoders_answer_what_layers_make_of_padding(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    encoder = make()
    x = torch.randn(2, 6, 8)
    assert_as_torch(Padded(encoder), (x, padding(6, 6)), (x, padding(2, 6)), (x, padding(2, 6, left=True)))


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_zeros_are_where_torch_writes_them() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(layer(), 1).eval()
    for seed in range(20):
        torch.manual_seed(seed)
        mask = torch.rand(2, 4) < 0.4 if seed % 2 else padding(*torch.randint(0, 5, (2,)).tolist(), length=4)
        x = torch.randn(2, 4, 8)
        with torch.no_grad():
            expected = encoder(x, src_key_padding_mask=mask)
        with as_in_inference(encoder):
            got = encoder(x, src_key_padding_mask=mask)  # with autograd: torch's other path
        is_number = ~expected.isnan()  # torch's fused layer answers NaN where nothing is left of a row
        torch.testing.assert_close(got[is_number], expected[is_number])
    assert not encoder._forward_pre_hooks
    assert not encoder.layers[-1]._forward_hooks


@pytest.mark.parametrize("options", [{}, {"tgt_is_causal": False}])
def test_a_mask_for_targets_may_be_causal_or_not(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    source, target = torch.randn(2, 6, 8), torch.randn(2, 4, 8)
    open_mask, other = torch.zeros(4, 4), torch.randn(4, 4)
    assert_as_torch(
        Sequences(**options), (source, target, CAUSAL), (source, target, open_mask), (source, target, other)
    )


def test_a_causal_mask_that_is_declared() -> None:
    torch.manual_seed(0)
    source, target = torch.randn(2, 6, 8), torch.randn(2, 4, 8)
    assert_as_torch(Sequences(tgt_is_causal=True), (source, target, CAUSAL), (source + 1, target - 1, CAUSAL))


class Heads(nn.Module):
    """`nn.MultiheadAttention` with both masks."""

    def __init__(self, *, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=False)
        self.need_weights = need_weights

    def forward(self, x: torch.Tensor, is_padding: torch.Tensor, mask: torch.Tensor) -> Any:
        result = self.attention(x, x, x, key_padding_mask=is_padding, attn_mask=mask, need_weights=self.need_weights)
        return result if self.need_weights else result[0]


@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention(*, need_weights: bool) -> None:
    torch.manual_seed(0)
    x, mask, none = torch.randn(6, 2, 8), torch.ones(6, 6).triu(1) > 0, torch.zeros(6, 6) > 0
    masks = [(padding(6, 3), mask), (padding(1, 4, left=True), mask), (padding(0, 4), none), (padding(6, 6), ~none)]
    assert_as_torch(Heads(need_weights=need_weights), (x, padding(6, 6), mask), *((x, *both) for both in masks))
