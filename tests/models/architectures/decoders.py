"""Causal language models beyond the best known: recurrent ones, ALiBi, parallel layers."""

from __future__ import annotations

import transformers

from tests.models.architectures.architecture import NO_CACHE, Architecture, Call, causal, padded_text, tokens

KIND = "causal"


def falcon() -> Call:
    """Falcon: one key for all heads."""
    return causal("Falcon", intermediate_size=None, num_key_value_heads=None)


def olmo() -> Call:
    """OLMo: norms without parameters."""
    return causal("Olmo")


def olmo2() -> Call:
    """OLMo 2: norms after the layers."""
    return causal("Olmo2")


def stablelm() -> Call:
    """StableLM: rotary on a part of each head."""
    return causal("StableLm")


def starcoder2() -> Call:
    """StarCoder 2."""
    return causal("Starcoder2")


def cohere() -> Call:
    """Command R: parallel layers."""
    return causal("Cohere")


def granite() -> Call:
    """Granite: multipliers everywhere."""
    return causal("Granite")


def glm() -> Call:
    """GLM: interleaved rotary positions."""
    return causal("Glm", head_dim=16, pad_token_id=0)


def persimmon() -> Call:
    """Persimmon: squared ReLU."""
    return causal("Persimmon", num_key_value_heads=None)


def gpt_bigcode() -> Call:
    """GPT-BigCode: one key for all heads."""
    return (
        transformers.GPTBigCodeForCausalLM(
            transformers.GPTBigCodeConfig(vocab_size=200, n_embd=64, n_layer=2, n_head=4, n_inner=128)
        ),
        (),
        {**padded_text(), **NO_CACHE},
    )


def gptj() -> Call:
    """GPT-J: rotary positions."""
    return (
        transformers.GPTJForCausalLM(
            transformers.GPTJConfig(vocab_size=200, n_embd=64, n_layer=2, n_head=4, rotary_dim=8)
        ),
        (),
        {**padded_text(), **NO_CACHE},
    )


def codegen() -> Call:
    """CodeGen."""
    return (
        transformers.CodeGenForCausalLM(
            transformers.CodeGenConfig(vocab_size=200, n_embd=64, n_layer=2, n_head=4, rotary_dim=8)
        ),
        (),
        {**padded_text(), **NO_CACHE},
    )


def mpt() -> Call:
    """MPT: ALiBi."""
    return (
        transformers.MptForCausalLM(
            transformers.MptConfig(vocab_size=200, d_model=64, n_layers=2, n_heads=4, expansion_ratio=2)
        ),
        (),
        {**padded_text(), **NO_CACHE},
    )


def rwkv() -> Call:
    """RWKV: a recurrence over time."""
    return (
        transformers.RwkvForCausalLM(
            transformers.RwkvConfig(vocab_size=200, hidden_size=64, num_hidden_layers=2, context_length=32)
        ),
        (tokens(),),
        NO_CACHE,
    )


def mamba2() -> Call:
    """Mamba 2: a state space in chunks."""
    return (
        transformers.Mamba2ForCausalLM(
            transformers.Mamba2Config(
                vocab_size=200,
                hidden_size=32,
                num_hidden_layers=2,
                num_heads=8,
                head_dim=8,
                state_size=8,
                n_groups=2,
                chunk_size=8,
            )
        ),
        (tokens(),),
        NO_CACHE,
    )


def falcon_mamba() -> Call:
    """Falcon-Mamba."""
    return (
        transformers.FalconMambaForCausalLM(
            transformers.FalconMambaConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, state_size=8)
        ),
        (tokens(length=8),),
        NO_CACHE,
    )


def recurrent_gemma() -> Call:
    """RecurrentGemma: linear recurrences and local attention."""
    return causal("RecurrentGemma", num_key_value_heads=1, lru_width=64, attention_window_size=32, num_hidden_layers=3)


def xglm() -> Call:
    """XGLM."""
    return (
        transformers.XGLMForCausalLM(
            transformers.XGLMConfig(vocab_size=200, d_model=64, num_layers=2, attention_heads=4, ffn_dim=128)
        ),
        (),
        {**padded_text(pad=1), **NO_CACHE},
    )


def biogpt() -> Call:
    """BioGPT."""
    return causal("BioGpt", num_key_value_heads=None)


def ctrl() -> Call:
    """CTRL."""
    return (
        transformers.CTRLLMHeadModel(transformers.CTRLConfig(vocab_size=200, n_embd=64, n_layer=2, n_head=4, dff=128)),
        (tokens(),),
        NO_CACHE,
    )


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        falcon,
        olmo,
        olmo2,
        stablelm,
        starcoder2,
        cohere,
        granite,
        glm,
        persimmon,
        gpt_bigcode,
        gptj,
        codegen,
        mpt,
        rwkv,
        mamba2,
        falcon_mamba,
        recurrent_gemma,
        xglm,
        biogpt,
        ctrl,
    )
)
