"""Small pipelines of diffusers with random weights, of which images are 16 by 16 pixels by default."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers

VOCABULARY = {
    "<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "c": 3, "a": 4, "t</w>": 5, "at</w>": 6, "cat</w>": 7,
    "d": 8, "o": 9, "g</w>": 10, "og</w>": 11, "dog</w>": 12,
}  # fmt: skip
MERGES = [("a", "t</w>"), ("c", "at</w>"), ("o", "g</w>"), ("d", "og</w>")]
PROMPT = "a cat"
_TEXT: dict[str, Any] = {
    "vocab_size": 13, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 12, "projection_dim": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
_UNET: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 16, "attention_head_dim": 2,
}  # fmt: skip
_XL: dict[str, Any] = {
    "cross_attention_dim": 32, "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 16 + 6 * 4, "use_linear_projection": True,
}  # fmt: skip
_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip


def make_pipeline(kind: str = "StableDiffusionPipeline", scheduler: str = "DDIMScheduler", **schedule: Any) -> Any:
    """Return a pipeline of one of diffusers' classes with one of its schedulers."""
    torch.manual_seed(0)
    is_xl, is_lcm = kind == "StableDiffusionXLPipeline", kind == "LatentConsistencyModelPipeline"
    text = transformers.CLIPTextConfig(**_TEXT)
    tokenizer = transformers.CLIPTokenizer(vocab=VOCABULARY, merges=MERGES, model_max_length=12)
    if scheduler == "DDIMScheduler":
        schedule = {"clip_sample": False, "set_alpha_to_one": False, **schedule}
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4, sample_size=16,
            up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4,
        ),
        "text_encoder": transformers.CLIPTextModel(text),
        "tokenizer": tokenizer,
        "unet": diffusers.UNet2DConditionModel(
            **{**_UNET, **(_XL if is_xl else {})}, time_cond_proj_dim=8 if is_lcm else None
        ),
        "scheduler": getattr(diffusers, scheduler)(**_SCHEDULE, **schedule),
    }  # fmt: skip
    if is_xl:
        encoder = transformers.CLIPTextModelWithProjection(text)
        parts |= {"text_encoder_2": encoder, "tokenizer_2": tokenizer, "add_watermarker": False}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = getattr(diffusers, kind)(**parts)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_latents(height: int, width: int, count: int = 1) -> torch.Tensor:
    """Return noise to begin with, for images of a size."""
    generator = torch.Generator().manual_seed(height)
    return torch.randn(count, 4, height // 2, width // 2, generator=generator)
