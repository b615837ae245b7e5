"""Encoders with decoders: translation and summaries of long texts."""

from __future__ import annotations

from typing import Any

import transformers

from tests.models.architectures.architecture import NO_CACHE, Architecture, Call, padded_text, tokens

KIND = "encoder-decoder"
SEQUENCES: dict[str, Any] = {
    "vocab_size": 200,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}
T5_SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


def both() -> dict[str, Any]:
    """A padded batch for the encoder, and ids for the decoder."""
    return {**padded_text(), "decoder_input_ids": tokens(length=6), **NO_CACHE}


def mbart() -> Call:
    """mBART."""
    return (transformers.MBartForConditionalGeneration(transformers.MBartConfig(**SEQUENCES)), (), both())


def blenderbot() -> Call:
    """Blenderbot."""
    return (transformers.BlenderbotForConditionalGeneration(transformers.BlenderbotConfig(**SEQUENCES)), (), both())


def led() -> Call:
    """LED: Longformer's encoder with a decoder."""
    return (
        transformers.LEDForConditionalGeneration(transformers.LEDConfig(**SEQUENCES, attention_window=8)),
        (),
        both(),
    )


def bigbird_pegasus() -> Call:
    """BigBird-Pegasus, full attention."""
    return (
        transformers.BigBirdPegasusForConditionalGeneration(
            transformers.BigBirdPegasusConfig(**SEQUENCES, attention_type="original_full")
        ),
        (),
        both(),
    )


def longt5() -> Call:
    """LongT5: transient global attention."""
    return (
        transformers.LongT5ForConditionalGeneration(
            transformers.LongT5Config(
                **T5_SIZES, local_radius=3, encoder_attention_type="transient-global", global_block_size=4
            )
        ),
        (),
        both(),
    )


def umt5() -> Call:
    """UMT5: position biases in each layer."""
    return (transformers.UMT5ForConditionalGeneration(transformers.UMT5Config(**T5_SIZES)), (), both())


def prophetnet() -> Call:
    """ProphetNet: two streams."""
    return (
        transformers.ProphetNetModel(
            transformers.ProphetNetConfig(
                vocab_size=200,
                hidden_size=64,
                encoder_ffn_dim=128,
                num_encoder_layers=2,
                num_encoder_attention_heads=4,
                decoder_ffn_dim=128,
                num_decoder_layers=2,
                num_decoder_attention_heads=4,
            )
        ),
        (),
        both(),
    )


def fsmt() -> Call:
    """FSMT."""
    return (
        transformers.FSMTForConditionalGeneration(
            transformers.FSMTConfig(
                langs=["a", "b"],
                src_vocab_size=200,
                tgt_vocab_size=200,
                **{k: v for k, v in SEQUENCES.items() if k != "vocab_size"},
            )
        ),
        (),
        both(),
    )


def nllb_moe() -> Call:
    """NLLB-MoE."""
    return (
        transformers.NllbMoeForConditionalGeneration(
            transformers.NllbMoeConfig(**SEQUENCES, num_experts=4, encoder_sparse_step=2, decoder_sparse_step=2)
        ),
        (),
        both(),
    )


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        mbart,
        blenderbot,
        led,
        bigbird_pegasus,
        longt5,
        umt5,
        prophetnet,
        fsmt,
        nllb_moe,
    )
)
