"""Persist Stable Diffusion 1.5 as one bundle: the half that needs PyTorch, transformers and diffusers."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import npu_persist as npup

TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
SMALL: dict[str, dict[str, Any]] = {
    "text": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "unet": {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    },
    "vae": {
        "block_out_channels": (16, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 16,
    },
}
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def make_tokenizer(length: int) -> Any:
    """Return a tokenizer that knows bytes and no words: CLIP's own vocabulary comes with a checkpoint."""
    symbols = sorted(ByteLevel.alphabet())
    words = ["<|startoftext|>", *symbols, *(f"{symbol}</w>" for symbol in symbols), "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)


def make_pipeline(*, small: bool) -> Any:
    """Return the pipeline with random weights."""
    torch.manual_seed(0)
    text, unet, vae = (
        {**full, **(SMALL[name] if small else {})} for name, full in (("text", TEXT), ("unet", UNET), ("vae", VAE))
    )
    tokenizer = make_tokenizer(text["max_position_embeddings"])
    end = tokenizer.eos_token_id
    special = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": end, "pad_token_id": end}
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**vae),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text, **special)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**unet),
        scheduler=PNDMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    """Build or load the pipeline, and persist it: the bundle is all that is needed to make images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="a local Stable Diffusion folder; else random weights")
    parser.add_argument("--small", action="store_true", help="a tiny config of the same shape")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    if options.checkpoint:
        pipeline: Any = StableDiffusionPipeline.from_pretrained(options.checkpoint, local_files_only=True)
    else:
        pipeline = make_pipeline(small=options.small)
    bundle = npup.persist(pipeline, "text-to-image", store=options.store)
    print(f"{bundle.reference} at {bundle.path}, {bundle.size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
