"""Detectors and what segments by prompts."""

from __future__ import annotations

from typing import Any

import transformers

from tests.models.architectures.architecture import Architecture, Call, image

KIND = "vision"
RESNET: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
DETR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 10,
    "num_labels": 5,
}


def conditional_detr() -> Call:
    """Conditional DETR on a ResNet."""
    return (
        transformers.ConditionalDetrForObjectDetection(
            transformers.ConditionalDetrConfig(**DETR, backbone_config=transformers.ResNetConfig(**RESNET))
        ),
        (image(),),
        {},
    )


def deformable_detr() -> Call:
    """Deformable DETR: sampling at several scales."""
    return (
        transformers.DeformableDetrForObjectDetection(
            transformers.DeformableDetrConfig(
                **DETR,
                backbone_config=transformers.ResNetConfig(**{**RESNET, "out_features": ["stage2", "stage3", "stage4"]}),
                num_feature_levels=3,
            )
        ),
        (image(),),
        {},
    )


def dab_detr() -> Call:
    """DAB-DETR: boxes as anchors."""
    return (
        transformers.DabDetrForObjectDetection(
            transformers.DabDetrConfig(
                hidden_size=32,
                encoder_layers=1,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                num_queries=10,
                num_labels=5,
                backbone_config=transformers.ResNetConfig(**RESNET),
            )
        ),
        (image(),),
        {},
    )


def table_transformer() -> Call:
    """Table Transformer."""
    return (
        transformers.TableTransformerForObjectDetection(
            transformers.TableTransformerConfig(**DETR, backbone_config=transformers.ResNetConfig(**RESNET))
        ),
        (image(),),
        {},
    )


def vitmatte() -> Call:
    """ViTMatte."""
    bb = transformers.VitDetConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
        num_channels=4,
        out_features=["stage2"],
        residual_block_indices=[],
        window_block_indices=[0],
        window_size=2,
    )
    return (
        transformers.VitMatteForImageMatting(
            transformers.VitMatteConfig(
                backbone_config=bb,
                hidden_size=32,
                convstream_hidden_sizes=[8, 16, 32],
                fusion_hidden_sizes=[32, 16, 8, 8],
            )
        ),
        (image(channels=4),),
        {},
    )


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        conditional_detr,
        deformable_detr,
        dab_detr,
        table_transformer,
        vitmatte,
    )
)
