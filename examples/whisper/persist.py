"""Persist Whisper as one bundle of two graphs, encoder and decoder: the half that needs PyTorch and transformers."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

import npu_persist as npup

WHISPER_SMALL: dict[str, Any] = {
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "d_model": 768,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "max_source_positions": 1500,
    "max_target_positions": 448,
}
"""The config of the published `whisper-small`: 242 million parameters, windows of 30 seconds."""

TINY: dict[str, Any] = {
    **WHISPER_SMALL,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_source_positions": 150,
}

TOKENS = 64
"""The longest text. Shapes are fixed, as an NPU wants them; the deploy half pads."""

PROMPT = [50258, 50259, 50359, 50363]
"""<|startoftranscript|><|en|><|transcribe|><|notimestamps|>, of the multilingual vocabulary."""

END_OF_TEXT = 50257


class Decoder(torch.nn.Module):
    """The decoder with its output projection, for one step of a greedy search without cache."""

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.decoder = model.model.decoder
        self.proj_out = model.proj_out

    def forward(self, input_ids: torch.Tensor, position: torch.Tensor, audio_states: torch.Tensor) -> torch.Tensor:
        """Return logits (1, vocabulary) of what follows the token at `position`; the decoder never looks past it."""
        states = self.decoder(input_ids=input_ids, encoder_hidden_states=audio_states, use_cache=False)
        logits: torch.Tensor = self.proj_out(states.last_hidden_state.index_select(1, position))
        return logits[:, 0]


def main() -> None:
    """Build Whisper and persist it, with an example call of each half."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="a local Whisper folder; without it, random weights")
    parser.add_argument("--small", action="store_true", help="a tiny config of the same shape, windows of 3 seconds")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    torch.manual_seed(0)
    if options.checkpoint:
        model = WhisperForConditionalGeneration.from_pretrained(options.checkpoint, local_files_only=True)
    else:
        model = WhisperForConditionalGeneration(WhisperConfig(**(TINY if options.small else WHISPER_SMALL)))
    config = model.config
    print(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.0f}M parameters")

    frames = 2 * config.max_source_positions
    step = {
        "input_ids": torch.full((1, TOKENS), END_OF_TEXT),
        "position": torch.tensor([len(PROMPT) - 1]),
        "audio_states": torch.randn(1, config.max_source_positions, config.d_model),
    }
    bundle = npup.persist(
        {
            "encoder": npup.Example(model.model.encoder, (torch.randn(1, config.num_mel_bins, frames),)),
            "decoder": npup.Example(Decoder(model), kwargs=step),
        },
        "whisper",
        metadata={
            "mel_bins": config.num_mel_bins,
            "frames": frames,
            "prompt": PROMPT,
            "end_of_text": END_OF_TEXT,
            "tokens": TOKENS,
        },
        store=options.store,
    )
    print(f"{bundle.reference} at {bundle.path}")


if __name__ == "__main__":
    main()
