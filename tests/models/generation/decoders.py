"""Decoder-only models, by the name of their class in transformers, with what makes their config small."""

from __future__ import annotations

from typing import Any

VOCABULARY = 96

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,  # random models with tied embeddings repeat themselves
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,  # random models with tied embeddings repeat themselves
}
_EXPERTS = {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 64}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _GROUPED),
    "llama-yarn": ("Llama", {**_GROUPED, "rope_parameters": _YARN}),
    "llama-3": ("Llama", {**_GROUPED, "rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {**_GROUPED, "sliding_window": 8}),
    "ministral": ("Ministral", {**_GROUPED, "sliding_window": 8, "head_dim": 16}),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen3": ("Qwen3", {**_GROUPED, "head_dim": 32}),
    "gemma": ("Gemma", {**_GROUPED, "head_dim": 32}),
    "gemma2": ("Gemma2", {**_GROUPED, "head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32}),
    "gemma3": (
        "Gemma3",
        {**_GROUPED, "head_dim": 32, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi": ("Phi", {**_SIZES, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", {**_GROUPED, "sliding_window": 8}),
    "phi3-long": (
        "Phi3",
        {
            **_GROUPED,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "gpt2": ("GPT2LMHead", _GPT),
    "gpt-neo": (
        "GPTNeo",
        {
            **_SIZES,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
        },
    ),
    "gptj": ("GPTJ", {**_GPT, "rotary_dim": 8}),
    "gpt-neox": ("GPTNeoX", _SIZES),
    "gpt-bigcode": ("GPTBigCode", _GPT),
    "opt": ("OPT", {**_SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.3}),
    "bloom": ("Bloom", {**_SIZES, "n_layer": 2, "n_head": 4}),
    "falcon": ("Falcon", {**_SIZES, "multi_query": True, "alibi": False}),
    "falcon-alibi": ("Falcon", {**_SIZES, "alibi": True, "multi_query": False, "new_decoder_architecture": False}),
    "stablelm": ("StableLm", {**_GROUPED, "partial_rotary_factor": 0.25}),
    "starcoder2": ("Starcoder2", {**_GROUPED, "sliding_window": 8}),
    "olmo": ("Olmo", _GROUPED),
    "olmo2": ("Olmo2", _GROUPED),
    "olmo3": ("Olmo3", {**_GROUPED, "sliding_window": 8}),
    "cohere": ("Cohere", _GROUPED),
    "cohere2": ("Cohere2", {**_GROUPED, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    "granite": ("Granite", {**_GROUPED, "attention_multiplier": 0.25, "embedding_multiplier": 2.0}),
    "smollm3": ("SmolLM3", {**_GROUPED, "num_hidden_layers": 4}),
    "mpt": (
        "Mpt",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 128,
            "expansion_ratio": 2,
        },
    ),
    "codegen": ("CodeGen", {**_GPT, "rotary_dim": 8}),
    "xglm": ("XGLM", {**_SIZES, "d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96, "init_std": 0.3}),
    "biogpt": ("BioGpt", _SIZES),
    "mixtral": ("Mixtral", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": ("Qwen2Moe", {**_EXPERTS, "shared_expert_intermediate_size": 48}),
    "qwen3-moe": ("Qwen3Moe", {**_EXPERTS, "head_dim": 16}),
    "olmoe": ("Olmoe", _EXPERTS),
    "glm": ("Glm", {**_GROUPED, "head_dim": 16}),
    "glm4": ("Glm4", {**_GROUPED, "head_dim": 16}),
    "exaone4": ("Exaone4", {**_GROUPED, "sliding_window": 8, "sliding_window_pattern": 2}),
    "nemotron": ("Nemotron", {**_GROUPED, "head_dim": 16}),
    "persimmon": ("Persimmon", _SIZES),
    "helium": ("Helium", {**_GROUPED, "head_dim": 16}),
    "deepseek-v3": (
        "DeepseekV3",
        {
            **_SIZES,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "first_k_dense_replace": 1,
        },
    ),
    "gpt-oss": (
        "GptOss",
        {**_GROUPED, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "ernie4.5": ("Ernie4_5", {**_GROUPED, "head_dim": 16}),
    "hunyuan": ("HunYuanDenseV1", {**_GROUPED, "head_dim": 16}),
    "seed-oss": ("SeedOss", {**_GROUPED, "head_dim": 16}),
    "arcee": ("Arcee", _GROUPED),
    "apertus": ("Apertus", _GROUPED),
}
"""Name → the class without `ForCausalLM` and `Config`, and the config's arguments."""


def make_decoder(name: str) -> Any:
    """Return a model in evaluation mode whose answers vary with the prompt."""
    import torch
    import transformers

    kind, arguments = DECODERS[name]
    suffix = "Model" if kind.endswith("LMHead") else "ForCausalLM"
    config_name = {"Gemma3": "Gemma3Text"}.get(kind, kind.removesuffix("LMHead"))
    torch.manual_seed(0)
    config = getattr(transformers, f"{config_name}Config")(**arguments)
    return getattr(transformers, f"{kind}{suffix}")(config).eval()
