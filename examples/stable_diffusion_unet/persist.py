"""Persist the UNet of Stable Diffusion 1.5: the half that needs PyTorch and diffusers."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from diffusers import UNet2DConditionModel

import npu_persist as npup

SD15: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "act_fn": "silu",
}
"""The config of the published model: 860 million parameters."""

SMALL: dict[str, Any] = {
    **SD15,
    "sample_size": 16,
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "norm_num_groups": 8,
}

SCHEDULE = {"train_steps": 1000, "beta_start": 0.00085, "beta_end": 0.012}
"""How noise was added in training. It travels in the bundle's metadata, where the deploy half reads it."""

PROMPT_TOKENS = 77


def main() -> None:
    """Build the UNet and persist it with one example call: the prompt and the empty prompt side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", metavar="DIR", help="a local Stable Diffusion 1.x folder; else random weights")
    parser.add_argument("--small", action="store_true", help="a tiny config of the same shape")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    torch.manual_seed(0)
    if options.checkpoint:
        unet = UNet2DConditionModel.from_pretrained(options.checkpoint, subfolder="unet", local_files_only=True)
    else:
        unet = UNet2DConditionModel(**(SMALL if options.small else SD15))
    config = unet.config
    print(f"{sum(weight.numel() for weight in unet.parameters()) / 1e6:.0f}M parameters")

    latents = (1, config.in_channels, config.sample_size, config.sample_size)
    prompt = (1, PROMPT_TOKENS, config.cross_attention_dim)
    bundle = npup.persist(
        unet,
        "sd-unet",
        kwargs={
            "sample": torch.randn(2, *latents[1:]),
            "timestep": torch.tensor(500),
            "encoder_hidden_states": torch.randn(2, *prompt[1:]),
        },
        metadata={"schedule": SCHEDULE, "latents": latents, "prompt": prompt},
        store=options.store,
    )
    print(f"{bundle.reference} at {bundle.path}")


if __name__ == "__main__":
    main()
