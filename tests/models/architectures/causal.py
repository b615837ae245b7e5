"""Causal language models without cache: the whole text in, logits out."""

from __future__ import annotations

from typing import Any

import transformers

from tests.models.architectures.architecture import Architecture, Call, padded_text, tokens

KIND = "causal LM"
SMALL: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
}


def gpt2() -> Call:
    """GPT-2, ids and mask."""
    config = transformers.GPT2Config(
        vocab_size=200,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
    )
    return transformers.GPT2LMHeadModel(config), (), padded_text()


def gpt_neo() -> Call:
    """GPT-Neo: global and local attention by turns."""
    config = transformers.GPTNeoConfig(
        vocab_size=200,
        hidden_size=64,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=4,
        window_size=8,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
    )
    return transformers.GPTNeoForCausalLM(config), (), padded_text()


def gpt_neox() -> Call:
    """GPT-NeoX: rotary positions over a part of each head, parallel residuals."""
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL)), (), padded_text()


def opt() -> Call:
    """OPT: positions counted from the mask."""
    config = transformers.OPTConfig(
        vocab_size=200,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        max_position_embeddings=64,
        word_embed_proj_dim=64,
        use_cache=False,
    )
    return transformers.OPTForCausalLM(config), (), padded_text(pad=1)


def bloom() -> Call:
    """BLOOM: ALiBi made from the mask."""
    config = transformers.BloomConfig(vocab_size=200, hidden_size=64, n_layer=2, n_head=4, use_cache=False)
    return transformers.BloomForCausalLM(config), (), padded_text()


def llama() -> Call:
    """LLaMA with grouped queries; ids by position, the cache refused in the call."""
    config = transformers.LlamaConfig(**{**SMALL, "use_cache": True}, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config), (tokens(),), {"use_cache": False}


def mistral() -> Call:
    """Mistral: a sliding window shorter than the text."""
    config = transformers.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=8)
    return transformers.MistralForCausalLM(config), (), padded_text()


def mixtral() -> Call:
    """Mixtral: four experts, two for each token, through the grouped kernel that is the default."""
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4)
    return transformers.MixtralForCausalLM(config), (), padded_text()


def mixtral_batched() -> Call:
    """Mixtral with the experts as transformers wants them for an export: one batched product."""
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4)
    model = transformers.MixtralForCausalLM(config)
    model.set_experts_implementation("batched_mm")
    return model, (), padded_text()


def qwen2() -> Call:
    """Qwen2, embeddings and head tied."""
    config = transformers.Qwen2Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=True)
    return transformers.Qwen2ForCausalLM(config), (), padded_text()


def qwen3() -> Call:
    """Qwen3: norms on queries and keys; a padded batch with position ids."""
    config = transformers.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16)
    inputs = padded_text()
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return transformers.Qwen3ForCausalLM(config), (), {**inputs, "position_ids": positions}


def phi() -> Call:
    """Phi: partial rotary positions, attention and feed-forward side by side."""
    return transformers.PhiForCausalLM(transformers.PhiConfig(**SMALL)), (), padded_text()


def phi3() -> Call:
    """Phi-3: queries, keys and values in one projection."""
    config = transformers.Phi3Config(**SMALL, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return transformers.Phi3ForCausalLM(config), (), padded_text()


def gemma() -> Call:
    """Gemma: scaled embeddings, one key head."""
    config = transformers.GemmaConfig(**SMALL, num_key_value_heads=1, head_dim=16)
    return transformers.GemmaForCausalLM(config), (), padded_text()


def gemma2() -> Call:
    """Gemma 2: capped logits, window and global layers by turns; every hidden state asked for."""
    config = transformers.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=16, sliding_window=8)
    return transformers.Gemma2ForCausalLM(config), (), {**padded_text(), "output_hidden_states": True}


def mamba() -> Call:
    """Mamba: a selective scan, no attention."""
    config = transformers.MambaConfig(
        vocab_size=200, hidden_size=64, state_size=8, num_hidden_layers=2, use_cache=False, use_mambapy=False
    )
    return transformers.MambaForCausalLM(config), (tokens(),), {}


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        gpt2,
        gpt_neo,
        gpt_neox,
        opt,
        bloom,
        llama,
        mistral,
        mixtral,
        mixtral_batched,
        qwen2,
        qwen3,
        phi,
        phi3,
        gemma,
        gemma2,
        mamba,
    )
)
