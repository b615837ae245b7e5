"""What `persist` decides about the example by itself, and says so."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import transformers

import npu_persist
from npu_persist.errors import ConversionError, ExampleWarning, InputError

IDS = torch.arange(16).reshape(2, 8) % 40
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def encoder() -> torch.nn.Module:
    module: torch.nn.Module = transformers.BertModel(transformers.BertConfig(**SIZES))
    return module.eval()


def decoder() -> torch.nn.Module:
    module: torch.nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    return module.eval()


def test_a_guessed_example_is_announced_with_its_shapes_and_kept_in_the_manifest() -> None:
    with pytest.warns(ExampleWarning, match=r"BertModel: no example was given; .* input_ids \[3, 5\]\. .*buckets="):
        bundle = npu_persist.persist(encoder(), "guess")
    assert "input_ids [3, 5]" in bundle.manifest.warnings[0]


def test_a_call_of_another_shape_is_told_the_way() -> None:
    module = encoder()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        npu_persist.persist(module, "given", (IDS,))
    model = npu_persist.load("given", device="CPU")
    with pytest.raises(
        InputError, match=r"expected size 2 on axis 0; got 1: .*persist with buckets= or dynamic_shapes="
    ):
        model(np.zeros((1, 9), np.int64))


def test_axes_that_vary_are_not_said_to_be_fixed() -> None:
    with pytest.warns(ExampleWarning) as caught:
        npu_persist.persist(encoder(), "open", dynamic_shapes={"input_ids": {1: torch.export.Dim("n", min=2, max=16)}})
    assert "only these shapes" not in str(caught[0].message)


def test_a_cache_that_no_loaded_model_can_give_is_left_out() -> None:
    module = decoder()
    with pytest.warns(ExampleWarning, match="called with use_cache=False"):
        bundle = npu_persist.persist(module, "decoder", (IDS,), precision="fp32")
    with torch.no_grad():
        expected = module(IDS, use_cache=False)
    result = npu_persist.load("decoder", device="CPU")(IDS.numpy())
    np.testing.assert_allclose(result.logits, expected.logits, atol=1e-4)
    assert result.past_key_values is None
    assert "use_cache=False" in bundle.manifest.warnings[0]


def test_a_cache_that_was_asked_for_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"past_key_values is a .*Cache.*call it with use_cache=False"):
        npu_persist.persist(decoder(), "cache", kwargs={"input_ids": IDS, "use_cache": True})
