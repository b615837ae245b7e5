"""Encoder-decoder models, by the name of their class in transformers, with what makes their config small."""

from __future__ import annotations

from typing import Any

from tests.models.generation.decoders import VOCABULARY

_BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "init_std": 0.3,
    "tie_word_embeddings": False,  # random models with tied embeddings repeat themselves
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "initializer_factor": 3.0,
    "tie_word_embeddings": False,
}

ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "whisper": (
        "Whisper",
        {**_BART, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 128, "suppress_tokens": None,
         "begin_suppress_tokens": None},
    ),
    "t5": ("T5", {**_T5, "tie_word_embeddings": True}),
    "t5-gated": ("T5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5", _T5),
    "umt5": ("UMT5", _T5),
    "longt5": ("LongT5", _T5),
    "bart": ("Bart", _BART),
    "mbart": ("MBart", _BART),
    "marian": ("Marian", _BART),
    "pegasus": ("Pegasus", _BART),
    "m2m100": ("M2M100", _BART),
    "blenderbot": ("Blenderbot", _BART),
    "blenderbot-small": ("BlenderbotSmall", _BART),
    "plbart": ("PLBart", _BART),
}  # fmt: skip
"""Name → the class without `ForConditionalGeneration` and `Config`, and the config's arguments."""


def make_encoder_decoder(name: str) -> Any:
    """Return a model in evaluation mode whose answers vary with the prompt."""
    import torch
    import transformers

    kind, arguments = ENCODER_DECODERS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**arguments)
    suffix = "MTModel" if kind == "Marian" else "ForConditionalGeneration"
    return getattr(transformers, f"{kind}{suffix}")(config).eval()
