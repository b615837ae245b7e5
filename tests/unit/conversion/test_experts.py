"""Mixtures of experts: the kernel that OpenVINO cannot hold is exchanged while a module is persisted."""

from __future__ import annotations

import pytest
import torch

from tests.support.as_torch import assert_as_torch

transformers = pytest.importorskip("transformers", reason="the mixtures of experts are those of transformers")


class Logits(torch.nn.Module):
    """A mixture of experts inside of a module that is not transformers'."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.MixtralConfig(vocab_size=50, num_key_value_heads=2, num_local_experts=4, **sizes)
        self.model = transformers.MixtralForCausalLM(config)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids, use_cache=False).logits
        return logits


def test_the_default_kernel_is_exchanged_and_comes_back() -> None:
    module = Logits()
    before = module.model.get_experts_implementation()
    assert "grouped_mm" in before.values()
    first, second = torch.randint(5, 50, (2, 2, 7), generator=torch.Generator().manual_seed(0))
    assert_as_torch(module, (first,), (second,))
    assert module.model.get_experts_implementation() == before


def test_a_chosen_kernel_stays() -> None:
    module = Logits()
    module.model.set_experts_implementation("batched_mm")
    assert_as_torch(module, (torch.arange(5, 12).reshape(1, 7),))
    assert set(module.model.get_experts_implementation().values()) == {"batched_mm"}
