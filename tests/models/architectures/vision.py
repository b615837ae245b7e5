"""Image models: classifiers, backbones, a segmenter, detectors and a depth estimator."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tests.models.architectures.architecture import Architecture, Call, image

KIND = "vision"
TRANSFORMER: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
}


def vit() -> Call:
    """ViT classifier, the image by keyword."""
    config = transformers.ViTConfig(**TRANSFORMER, num_labels=10)
    return transformers.ViTForImageClassification(config), (), {"pixel_values": image()}


def deit() -> Call:
    """DeiT with its distillation token and two heads."""
    config = transformers.DeiTConfig(**TRANSFORMER, num_labels=10)
    return transformers.DeiTForImageClassificationWithTeacher(config), (image(),), {}


def beit() -> Call:
    """BEiT with relative position bias."""
    config = transformers.BeitConfig(**TRANSFORMER, use_relative_position_bias=True, num_labels=10)
    return transformers.BeitForImageClassification(config), (), {"pixel_values": image()}


def dinov2() -> Call:
    """DINOv2 at another resolution than it was trained at: position embeddings are interpolated in the graph."""
    config = transformers.Dinov2Config(**{**TRANSFORMER, "patch_size": 14, "image_size": 70})
    return transformers.Dinov2Model(config), (image(98),), {"output_hidden_states": True}


def swin() -> Call:
    """Swin: shifted windows, masks made from the input's size."""
    config = transformers.SwinConfig(
        image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10
    )
    return transformers.SwinForImageClassification(config), (image(),), {}


def swin_v2() -> Call:
    """Swin v2: cosine attention, continuous position bias."""
    config = transformers.Swinv2Config(image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return transformers.Swinv2Model(config), (image(),), {}


def convnext() -> Call:
    """ConvNeXt classifier."""
    config = transformers.ConvNextConfig(hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 2, 1], num_labels=10)
    return transformers.ConvNextForImageClassification(config), (image(),), {}


def resnet() -> Call:
    """ResNet with bottleneck layers."""
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1, 2, 2, 1], num_labels=10
    )
    return transformers.ResNetForImageClassification(config), (image(batch=2),), {}


def regnet() -> Call:
    """RegNet: grouped convolutions, squeeze and excitation; all stages' outputs."""
    config = transformers.RegNetConfig(
        embedding_size=16, hidden_sizes=[32, 64, 64, 96], depths=[1, 1, 1, 1], groups_width=16
    )
    return transformers.RegNetModel(config), (image(),), {"output_hidden_states": True}


def mobilenet_v2() -> Call:
    """MobileNet v2: depthwise convolutions, the padding of TensorFlow."""
    config = transformers.MobileNetV2Config(image_size=64, depth_multiplier=0.35, num_labels=10)
    return transformers.MobileNetV2ForImageClassification(config), (image(),), {}


def mobilevit() -> Call:
    """MobileViT: folding of feature maps into patches."""
    config = transformers.MobileViTConfig(
        image_size=64, hidden_sizes=[32, 48, 64], neck_hidden_sizes=[16, 16, 24, 32, 32, 48, 64], num_labels=10
    )
    return transformers.MobileViTForImageClassification(config), (image(),), {}


def efficientnet() -> Call:
    """EfficientNet b0 at a third of its depth."""
    config = transformers.EfficientNetConfig(image_size=64, depth_coefficient=0.35, hidden_dim=2560, num_labels=10)
    return transformers.EfficientNetForImageClassification(config), (image(),), {}


def segformer() -> Call:
    """SegFormer: semantic segmentation."""
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], decoder_hidden_size=48, num_labels=7
    )
    return transformers.SegformerForSemanticSegmentation(config), (), {"pixel_values": image()}


def detr() -> Call:
    """DETR with a ResNet backbone and a mask of the padded pixels."""
    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        num_queries=12,
        num_labels=5,
    )
    pixels = image(96)
    mask = torch.ones(1, 96, 96, dtype=torch.int64)
    mask[:, :, 80:] = 0
    return transformers.DetrForObjectDetection(config), (pixels,), {"pixel_mask": mask}


def yolos() -> Call:
    """YOLOS: detection out of a plain ViT."""
    config = transformers.YolosConfig(**{**TRANSFORMER, "image_size": [64, 64]}, num_detection_tokens=8, num_labels=5)
    return transformers.YolosForObjectDetection(config), (), {"pixel_values": image()}


def dpt() -> Call:
    """DPT: depth from a ViT, with up-sampling in the head."""
    config = transformers.DPTConfig(
        **{**TRANSFORMER, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 32, 48, 64],
        fusion_hidden_size=32,
    )
    return transformers.DPTForDepthEstimation(config), (), {"pixel_values": image()}


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        vit,
        deit,
        beit,
        dinov2,
        swin,
        swin_v2,
        convnext,
        resnet,
        regnet,
        mobilenet_v2,
        mobilevit,
        efficientnet,
        segformer,
        detr,
        yolos,
        dpt,
    )
)
