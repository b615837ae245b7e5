"""Text to text: an encoder and a decoder that attends to it, one step without cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import transformers

from tests.models.architectures.architecture import Architecture, Call, image, padded_text, tokens

if TYPE_CHECKING:
    import torch

KIND = "encoder-decoder"
BART: dict[str, Any] = {
    "vocab_size": 200,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
}
T5: dict[str, Any] = {"vocab_size": 200, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}


def both_texts(pad: int = 0) -> dict[str, torch.Tensor]:
    """What generation passes at one step: the source with its mask, and the target so far."""
    return {**padded_text(pad=pad), "decoder_input_ids": tokens(length=6)}


def t5() -> Call:
    """T5: relative position bias shared by the layers."""
    config = transformers.T5Config(**T5, use_cache=False)
    return transformers.T5ForConditionalGeneration(config), (), both_texts()


def t5_encoder() -> Call:
    """T5's encoder as SD3 and Flux use it: gated activations as in v1.1."""
    config = transformers.T5Config(**T5, feed_forward_proj="gated-gelu")
    return transformers.T5EncoderModel(config), (tokens(),), {}


def bart() -> Call:
    """BART, logits over the vocabulary."""
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**BART)), (), both_texts(pad=1)


def marian() -> Call:
    """Marian, translation: sinusoidal positions."""
    config = transformers.MarianConfig(**BART, pad_token_id=199, decoder_start_token_id=199)
    return transformers.MarianMTModel(config), (), both_texts(pad=199)


def pegasus() -> Call:
    """Pegasus, summaries, every attention asked for."""
    model = transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(**BART))
    model.set_attn_implementation("eager")
    return model, (), {**both_texts(), "output_attentions": True}


def m2m_100() -> Call:
    """M2M-100: positions counted from the ids that are no padding."""
    config = transformers.M2M100Config(**BART, pad_token_id=1)
    return transformers.M2M100ForConditionalGeneration(config), (), both_texts(pad=1)


def vision_encoder_decoder() -> Call:
    """TrOCR's shape: a ViT read by a causal decoder."""
    encoder = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=64
    )
    decoder = transformers.TrOCRConfig(
        vocab_size=200, d_model=64, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=128, use_cache=False
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    kwargs = {"pixel_values": image(), "decoder_input_ids": tokens(batch=1, length=6), "use_cache": False}
    return transformers.VisionEncoderDecoderModel(config=config), (), kwargs


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (t5, t5_encoder, bart, marian, pegasus, m2m_100, vision_encoder_decoder)
)
