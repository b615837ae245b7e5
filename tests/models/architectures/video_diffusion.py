"""Diffusion beyond Stable Diffusion: video, audio, linear attention, adapters and decoders."""

from __future__ import annotations

import diffusers
import torch

from tests.models.architectures.architecture import Architecture, Call

KIND = "diffusion"


def ltx_transformer() -> Call:
    """LTX-Video."""
    return (
        diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=16,
        ),
        (),
        {
            "hidden_states": torch.randn(1, 16, 8),
            "encoder_hidden_states": torch.randn(1, 6, 16),
            "timestep": torch.tensor([5.0]),
            "encoder_attention_mask": torch.ones(1, 6),
            "num_frames": 2,
            "height": 2,
            "width": 4,
            "return_dict": False,
        },
    )


def wan_transformer() -> Call:
    """Wan."""
    return (
        diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=32,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
        ),
        (),
        {
            "hidden_states": torch.randn(1, 4, 2, 8, 8),
            "timestep": torch.tensor([5]),
            "encoder_hidden_states": torch.randn(1, 6, 16),
            "return_dict": False,
        },
    )


def sana_transformer() -> Call:
    """Sana: linear attention."""
    return (
        diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=1,
            caption_channels=16,
            sample_size=8,
        ),
        (),
        {
            "hidden_states": torch.randn(1, 4, 8, 8),
            "encoder_hidden_states": torch.randn(1, 6, 16),
            "timestep": torch.tensor([5]),
            "return_dict": False,
        },
    )


def cogvideox_transformer() -> Call:
    """CogVideoX."""
    return (
        diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=16,
            num_layers=1,
            sample_width=8,
            sample_height=8,
            sample_frames=5,
            patch_size=2,
            max_text_seq_length=6,
        ),
        (),
        {
            "hidden_states": torch.randn(1, 2, 4, 8, 8),
            "encoder_hidden_states": torch.randn(1, 6, 16),
            "timestep": torch.tensor([5]),
            "return_dict": False,
        },
    )


def aura_flow() -> Call:
    """AuraFlow."""
    return (
        diffusers.AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            caption_projection_dim=16,
            out_channels=4,
            pos_embed_max_size=64,
        ),
        (),
        {
            "hidden_states": torch.randn(1, 4, 8, 8),
            "encoder_hidden_states": torch.randn(1, 6, 16),
            "timestep": torch.tensor([0.5]),
            "return_dict": False,
        },
    )


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        ltx_transformer,
        wan_transformer,
        sana_transformer,
        cogvideox_transformer,
        aura_flow,
    )
)
