"""Diffusion: denoisers (UNets and transformers), their ControlNet, and the codecs between pixels and latents."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.models.architectures.architecture import Architecture, Call, image

KIND = "diffusion"
CONDITIONED: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}
UP = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}


def unet_condition() -> Call:
    """Stable Diffusion's UNet with the positional call that pipelines use."""
    model = diffusers.UNet2DConditionModel(**CONDITIONED, **UP)
    return model, (image(16, batch=2, channels=4), torch.tensor(10), torch.randn(2, 7, 32)), {}


def unet_condition_tuple() -> Call:
    """The same by keyword, a tuple for an answer."""
    kwargs = {
        "sample": image(16, channels=4),
        "timestep": torch.tensor([10]),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "return_dict": False,
    }
    return diffusers.UNet2DConditionModel(**CONDITIONED, **UP), (), kwargs


def unet_sdxl() -> Call:
    """SDXL's UNet: a dict of further conditions among the inputs."""
    model = diffusers.UNet2DConditionModel(
        **CONDITIONED,
        **UP,
        transformer_layers_per_block=(1, 1),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        use_linear_projection=True,
    )
    conditions = {"text_embeds": torch.randn(1, 32), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
    kwargs = {"encoder_hidden_states": torch.randn(1, 7, 32), "added_cond_kwargs": conditions}
    return model, (image(16, channels=4), torch.tensor(10)), kwargs


def unet_controlled() -> Call:
    """The UNet that takes a ControlNet's residuals: a tuple of tensors among the inputs."""
    model = diffusers.UNet2DConditionModel(**CONDITIONED, **UP)
    down = tuple(torch.randn(1, channels, size, size) for channels, size in ((32, 16), (32, 16), (32, 8), (64, 8)))
    kwargs = {
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "down_block_additional_residuals": down,
        "mid_block_additional_residual": torch.randn(1, 64, 8, 8),
    }
    return model, (image(16, channels=4), torch.tensor(10)), kwargs


def controlnet() -> Call:
    """ControlNet: a list of residuals and one more, out of a latent and a picture of the control."""
    model = diffusers.ControlNetModel(**CONDITIONED_CONTROLNET)
    kwargs = {"encoder_hidden_states": torch.randn(1, 7, 32), "controlnet_cond": image(128)}
    return model, (image(16, channels=4), torch.tensor(10)), kwargs


CONDITIONED_CONTROLNET = {key: value for key, value in CONDITIONED.items() if key != "sample_size"}


def unet_2d() -> Call:
    """DDPM's unconditional UNet."""
    model = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return model, (image(16), torch.tensor(10)), {}


def autoencoder() -> diffusers.AutoencoderKL:
    """Stable Diffusion's codec in small."""
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )


def autoencoder_kl() -> Call:
    """AutoencoderKL, there and back, with the mean in the place of a sample."""
    return autoencoder(), (image(32),), {}


def autoencoder_kl_encoder() -> Call:
    """AutoencoderKL's encoder: the moments of the latents."""
    return autoencoder().encoder, (image(32),), {}


def autoencoder_kl_decoder() -> Call:
    """AutoencoderKL's decoder."""
    return autoencoder().decoder, (image(16, channels=4),), {}


def autoencoder_tiny() -> Call:
    """TAESD, the small codec for previews."""
    model = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16, 16), decoder_block_out_channels=(16, 16, 16, 16)
    )
    return model, (image(64).sigmoid(),), {}


def vq_model() -> Call:
    """VQModel: the nearest code of a book for every latent."""
    model = diffusers.VQModel(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=32,
        norm_num_groups=8,
    )
    return model, (image(32),), {}


def dit() -> Call:
    """DiT: a class label among the inputs."""
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=16
    )
    kwargs = {"timestep": torch.tensor([10, 10]), "class_labels": torch.tensor([1, 207])}
    return model, (image(16, batch=2, channels=4),), kwargs


def pixart() -> Call:
    """PixArt: text tokens with their mask."""
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=64,
        caption_channels=32,
        sample_size=16,
    )
    mask = torch.ones(1, 8, dtype=torch.int64)
    mask[:, 5:] = 0
    kwargs = {
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "encoder_attention_mask": mask,
        "timestep": torch.tensor([10]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return model, (image(16, channels=4),), kwargs


def sd3() -> Call:
    """Stable Diffusion 3's transformer."""
    model = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=32,
    )
    kwargs = {
        "hidden_states": image(16, channels=4),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.tensor([10]),
    }
    return model, (), kwargs


def flux() -> Call:
    """Flux's transformer: rotary positions out of ids, double and single blocks."""
    model = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    kwargs = {
        "hidden_states": torch.randn(1, 16, 16),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.stack([torch.zeros(4, 4), rows, columns], dim=-1).reshape(16, 3),
        "txt_ids": torch.zeros(7, 3),
        "guidance": torch.tensor([3.5]),
    }
    return model, (), kwargs


def unet_spatio_temporal() -> Call:
    """Stable Video Diffusion's UNet over five axes."""
    model = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=4,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=2,
    )
    sample = torch.randn(1, 2, 8, 16, 16)
    kwargs = {"encoder_hidden_states": torch.randn(1, 1, 32), "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]])}
    return model, (sample, torch.tensor(10.0)), kwargs


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        unet_condition,
        unet_condition_tuple,
        unet_sdxl,
        unet_controlled,
        controlnet,
        unet_2d,
        autoencoder_kl,
        autoencoder_kl_encoder,
        autoencoder_kl_decoder,
        autoencoder_tiny,
        vq_model,
        dit,
        pixart,
        sd3,
        flux,
        unet_spatio_temporal,
    )
)
