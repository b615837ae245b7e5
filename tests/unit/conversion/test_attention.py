"""Attention behind masks: models of transformers and torch's own layers, with padding that the example did not show."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.as_torch import assert_as_torch

transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32, "pad_token_id": 0, "use_cache": False,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
WINDOW = {**GROUPED, "sliding_window": 4}
MODELS: dict[str, dict[str, Any]] = {
    "GPT2": {},
    "Llama": GROUPED,
    "Qwen3": GROUPED,
    "Mistral": WINDOW,
    "Gemma3Text": {**WINDOW, "sliding_window_pattern": 2},
    "ModernBert": {"local_attention": 4, "global_attn_every_n_layers": 2},
    "Bert": {},
    "CLIPText": {},
}


class States(torch.nn.Module):
    """The last hidden states of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states


@pytest.mark.parametrize(("name", "attention"), [*((name, "sdpa") for name in MODELS), ("Llama", "eager")])
def test_padding_on_either_side(name: str, attention: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**TINY, **MODELS[name])
    model = getattr(transformers, f"{name}Model")._from_config(config, attn_implementation=attention)
    ids, all_tokens = torch.randint(1, 50, (2, 12)), torch.ones(2, 12, dtype=torch.int64)
    masks = [all_tokens.clone() for _ in range(4)]
    masks[0][1, :1] = masks[1][0, :9] = masks[2][1, -7:] = masks[3][0] = 0
    assert_as_torch(States(model), (ids, all_tokens), *((ids.flip(0), mask) for mask in masks))
