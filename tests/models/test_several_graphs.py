"""Models of several graphs, persisted as one bundle: each answers as torch does, and what they share is stored once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="persisting needs torch")
pytest.importorskip("transformers", reason="the models are those of transformers and diffusers")
pytest.importorskip("diffusers", reason="the models are those of transformers and diffusers")

import torch
import transformers

import npu_persist
from npu_persist import Example

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties' deprecations, and what a trace froze

WHISPER: dict[str, Any] = {
    "vocab_size": 51865, "num_mel_bins": 80, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
    "max_source_positions": 100, "max_target_positions": 32,
}  # fmt: skip
SLACK = 1.02
"""How much larger a bundle may be than its tensors at half precision: headers, graphs, golden samples excepted."""


class WhisperDecoder(torch.nn.Module):
    """The decoder and its output, which is tied to the embedding."""

    def __init__(self, model: transformers.WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.decoder, self.proj_out = model.model.decoder, model.proj_out

    def forward(self, input_ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        found = self.decoder(input_ids=input_ids, encoder_hidden_states=states, use_cache=False)
        logits: torch.Tensor = self.proj_out(found.last_hidden_state)
        return logits


class First(torch.nn.Module):
    """A method of a module, of which the first result is taken."""

    def __init__(self, module: torch.nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = getattr(self.module, self.method)(x)
        return result


def half_precision_bytes(*modules: torch.nn.Module) -> int:
    unique = {tensor.data_ptr(): tensor.numel() for module in modules for tensor in module.parameters()}
    return 2 * sum(unique.values())


def weights_of(bundle: Bundle) -> int:
    return bundle.manifest.files[bundle.manifest.weights.path].size


def assert_close(found: Any, expected: torch.Tensor) -> None:
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=0.02 * scale)


@torch.no_grad()
def test_whisper(store: Store) -> None:
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**WHISPER)).eval()
    encoder, decoder = model.model.encoder, WhisperDecoder(model)
    states = torch.randn(1, 100, 64)
    length = torch.export.Dim("length", min=1, max=32)
    bundle = npu_persist.persist(
        {
            "encoder": Example(encoder, (torch.randn(1, 80, 200),)),
            "decoder": Example(decoder, (torch.randint(0, 51865, (1, 8)), states), dynamic_shapes=({1: length}, None)),
        },
        "whisper",
        store=store,
    )
    assert weights_of(bundle) <= SLACK * half_precision_bytes(model)
    weights = npu_persist.weights("whisper", store=store)
    assert np.array_equal(weights["proj_out.weight"], weights["decoder.embed_tokens.weight"])
    with npu_persist.load("whisper", "CPU", store=store) as loaded:
        mel, ids = torch.randn(1, 80, 200), torch.randint(0, 51865, (1, 19))
        audio = loaded.graphs["encoder"](mel).last_hidden_state
        assert_close(audio, encoder(mel).last_hidden_state)
        expected = model(input_features=mel, decoder_input_ids=ids, use_cache=False).logits
        assert_close(loaded.graphs["decoder"](ids, audio), expected)


@torch.no_grad()
def test_clip_whose_halves_share_nothing(store: Store) -> None:
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(**size, vocab_size=500, max_position_embeddings=20, projection_dim=32)
    ).eval()
    image = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**size, image_size=32, patch_size=8, projection_dim=32)
    ).eval()
    bundle = npu_persist.persist(
        {
            "text": Example(text, kwargs={"input_ids": torch.randint(0, 500, (1, 20))}),
            "image": Example(image, (torch.randn(1, 3, 32, 32),)),
        },
        "clip",
        store=store,
    )
    assert 0.9 * half_precision_bytes(text, image) <= weights_of(bundle)
    with npu_persist.load("clip", "CPU", store=store) as loaded:
        ids, pixels = torch.randint(0, 500, (1, 20)), torch.randn(1, 3, 32, 32)
        assert_close(loaded.graphs["text"](input_ids=ids).text_embeds, text(input_ids=ids).text_embeds)
        assert_close(loaded.graphs["image"](pixels).image_embeds, image(pixels).image_embeds)


@torch.no_grad()
def test_both_ways_of_an_autoencoder(store: Store) -> None:
    from diffusers import AutoencoderTiny

    autoencoder = AutoencoderTiny(
        encoder_block_out_channels=(16, 16), decoder_block_out_channels=(16, 16), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    ).eval()  # fmt: skip
    encode, decode = First(autoencoder.encoder, "forward"), First(autoencoder.decoder, "forward")
    bundle = npu_persist.persist(
        {
            "encoder": Example(encode, (torch.rand(1, 3, 32, 32),)),
            "decoder": Example(decode, (torch.randn(1, 4, 16, 16),)),
        },
        "vae",
        precision="fp32",
        store=store,
    )
    assert {graph.precision for graph in bundle.manifest.graphs} == {"fp32"}
    with npu_persist.load("vae", "CPU", store=store) as loaded:
        picture, latents = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 16, 16)
        assert_close(loaded.graphs["encoder"](picture), encode(picture))
        assert_close(loaded.graphs["decoder"](latents), decode(latents))
