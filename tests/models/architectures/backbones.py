"""Image and video backbones, depth and super resolution."""

from __future__ import annotations

import torch
import transformers

from tests.models.architectures.architecture import Architecture, Call, image

KIND = "vision"


def convnextv2() -> Call:
    """ConvNeXt V2: global response normalisation."""
    return (
        transformers.ConvNextV2ForImageClassification(
            transformers.ConvNextV2Config(hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1])
        ),
        (image(),),
        {},
    )


def pvt() -> Call:
    """PVT: spatial reduction."""
    return (
        transformers.PvtForImageClassification(
            transformers.PvtConfig(
                image_size=64, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 4]
            )
        ),
        (image(),),
        {},
    )


def pvt_v2() -> Call:
    """PVT v2."""
    return (
        transformers.PvtV2ForImageClassification(
            transformers.PvtV2Config(
                image_size=64, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 4]
            )
        ),
        (image(),),
        {},
    )


def mobilenet_v1() -> Call:
    """MobileNet v1."""
    return (
        transformers.MobileNetV1ForImageClassification(transformers.MobileNetV1Config(depth_multiplier=0.25)),
        (image(),),
        {},
    )


def mobilevitv2() -> Call:
    """MobileViT v2: unfolds into patches."""
    return (
        transformers.MobileViTV2ForImageClassification(
            transformers.MobileViTV2Config(image_size=64, width_multiplier=0.5)
        ),
        (image(),),
        {},
    )


def levit() -> Call:
    """LeViT: biases by index."""
    return (
        transformers.LevitForImageClassification(
            transformers.LevitConfig(
                image_size=64,
                hidden_sizes=[32, 48, 64],
                num_attention_heads=[2, 3, 4],
                depths=[1, 1, 1],
                key_dim=[8, 8, 8],
            )
        ),
        (image(),),
        {},
    )


def poolformer() -> Call:
    """PoolFormer: pooling in the attention's place."""
    return (
        transformers.PoolFormerForImageClassification(
            transformers.PoolFormerConfig(hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1])
        ),
        (image(),),
        {},
    )


def focalnet() -> Call:
    """FocalNet: focal modulation."""
    return (
        transformers.FocalNetForImageClassification(
            transformers.FocalNetConfig(
                image_size=64, embed_dim=16, depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 128]
            )
        ),
        (image(),),
        {},
    )


def dinov2_with_registers() -> Call:
    """DINOv2 with registers, at another size than it was trained at."""
    return (
        transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(
                hidden_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
            )
        ),
        (image(70),),
        {},
    )


def dinov3_vit() -> Call:
    """DINOv3."""
    return (
        transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(
                hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=64
            )
        ),
        (image(),),
        {},
    )


def bit() -> Call:
    """BiT: weight standardisation."""
    return (
        transformers.BitModel(
            transformers.BitConfig(hidden_sizes=[32, 32, 64, 64], embedding_size=32, depths=[1, 1, 1, 1], num_groups=8)
        ),
        (image(),),
        {},
    )


def swiftformer() -> Call:
    """SwiftFormer: additive attention."""
    return (
        transformers.SwiftFormerForImageClassification(
            transformers.SwiftFormerConfig(depths=[1, 1, 1, 1], embed_dims=[16, 32, 48, 64])
        ),
        (image(),),
        {},
    )


def hiera() -> Call:
    """Hiera."""
    return (
        transformers.HieraForImageClassification(
            transformers.HieraConfig(image_size=[64, 64], embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8])
        ),
        (image(),),
        {},
    )


def depth_anything() -> Call:
    """Depth Anything: DPT's head on DINOv2."""
    bb = transformers.Dinov2Config(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    return (
        transformers.DepthAnythingForDepthEstimation(
            transformers.DepthAnythingConfig(
                backbone_config=bb,
                reassemble_hidden_size=64,
                neck_hidden_sizes=[16, 32, 48, 64],
                fusion_hidden_size=16,
                head_hidden_size=8,
                patch_size=14,
            )
        ),
        (image(56),),
        {},
    )


def zoedepth() -> Call:
    """ZoeDepth: metric bins."""
    bb = transformers.BeitConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=64,
        patch_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    return (
        transformers.ZoeDepthForDepthEstimation(
            transformers.ZoeDepthConfig(
                backbone_config=bb,
                neck_hidden_sizes=[16, 16, 32, 32],
                fusion_hidden_size=16,
                bottleneck_features=16,
                num_relative_features=8,
                bin_configurations=[{"n_bins": 16, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
                bin_embedding_dim=16,
                num_attractors=[4, 2, 2, 1],
            )
        ),
        (image(64),),
        {},
    )


def upernet() -> Call:
    """UPerNet on ConvNeXt."""
    bb = transformers.ConvNextConfig(
        hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    return (
        transformers.UperNetForSemanticSegmentation(
            transformers.UperNetConfig(
                backbone_config=bb,
                hidden_size=32,
                pool_scales=[1, 2],
                auxiliary_in_channels=64,
                auxiliary_channels=16,
                num_labels=5,
            )
        ),
        (image(),),
        {},
    )


def swin2sr() -> Call:
    """Swin2SR: super resolution."""
    return (
        transformers.Swin2SRForImageSuperResolution(
            transformers.Swin2SRConfig(
                image_size=32,
                embed_dim=16,
                depths=[1, 1],
                num_heads=[2, 2],
                window_size=4,
                upscale=2,
                upsampler="pixelshuffledirect",
            )
        ),
        (image(32),),
        {},
    )


def timesformer() -> Call:
    """TimeSformer: divided attention in space and time."""
    return (
        transformers.TimesformerModel(
            transformers.TimesformerConfig(
                image_size=32,
                patch_size=8,
                num_frames=4,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
            )
        ),
        (torch.randn(1, 4, 3, 32, 32),),
        {},
    )


def vivit() -> Call:
    """ViViT: tubes."""
    return (
        transformers.VivitModel(
            transformers.VivitConfig(
                image_size=32,
                num_frames=4,
                tubelet_size=[2, 8, 8],
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
            )
        ),
        (torch.randn(1, 4, 3, 32, 32),),
        {},
    )


def videomae() -> Call:
    """VideoMAE's classifier."""
    return (
        transformers.VideoMAEForVideoClassification(
            transformers.VideoMAEConfig(
                image_size=32,
                patch_size=8,
                num_frames=4,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
            )
        ),
        (torch.randn(1, 4, 3, 32, 32),),
        {},
    )


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        convnextv2,
        pvt,
        pvt_v2,
        mobilenet_v1,
        mobilevitv2,
        levit,
        poolformer,
        focalnet,
        dinov2_with_registers,
        dinov3_vit,
        bit,
        swiftformer,
        hiera,
        depth_anything,
        zoedepth,
        upernet,
        swin2sr,
        timesformer,
        vivit,
        videomae,
    )
)
