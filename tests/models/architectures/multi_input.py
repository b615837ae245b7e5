"""Models of pictures and text together."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tests.models.architectures.architecture import Architecture, Call, image, padded_text

KIND = "multi-input"
LAYERS: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
VISION: dict[str, Any] = {**LAYERS, "image_size": 64, "patch_size": 16}
TEXT: dict[str, Any] = {**LAYERS, "vocab_size": 200, "max_position_embeddings": 32}


def clip() -> Call:
    """CLIP: logits, embeddings, and both towers' outputs nested in one answer."""
    config = transformers.CLIPConfig(
        text_config={**TEXT, "eos_token_id": 2, "bos_token_id": 1}, vision_config=VISION, projection_dim=32
    )
    return transformers.CLIPModel(config), (), {**padded_text(), "pixel_values": image(batch=2)}


def clip_text() -> Call:
    """CLIP's text tower as Stable Diffusion uses it: ids only, by position."""
    config = transformers.CLIPTextConfig(**TEXT, eos_token_id=2, bos_token_id=1)
    return transformers.CLIPTextModel(config), (padded_text()["input_ids"],), {}


def siglip() -> Call:
    """SigLIP: pooling by attention, sigmoid scale and bias."""
    config = transformers.SiglipConfig(text_config={**TEXT, "bos_token_id": 1, "eos_token_id": 2}, vision_config=VISION)
    return transformers.SiglipModel(config), (), {**padded_text(), "pixel_values": image(batch=2)}


def blip() -> Call:
    """BLIP, retrieval: text attends to the picture."""
    config = transformers.BlipConfig(
        text_config={**TEXT, "encoder_hidden_size": 64, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2},
        vision_config=VISION,
        projection_dim=32,
        image_text_hidden_size=32,
    )
    return transformers.BlipForImageTextRetrieval(config), (), {**padded_text(), "pixel_values": image(batch=2)}


def vilt() -> Call:
    """ViLT: one transformer over words and patches."""
    config = transformers.ViltConfig(**VISION, vocab_size=200, max_position_embeddings=32)
    return transformers.ViltModel(config), (), {**padded_text(batch=1), "pixel_values": image()}


def owl_vit() -> Call:
    """OWL-ViT: detection by queries in words."""
    config = transformers.OwlViTConfig(
        text_config={**TEXT, "max_position_embeddings": 16}, vision_config=VISION, projection_dim=64
    )
    return transformers.OwlViTForObjectDetection(config), (), {**padded_text(), "pixel_values": image()}


def clipseg() -> Call:
    """CLIPSeg: a mask for a phrase."""
    config = transformers.CLIPSegConfig(
        text_config={**TEXT, "eos_token_id": 2, "bos_token_id": 1},
        vision_config={**VISION, "num_hidden_layers": 3},
        projection_dim=32,
        reduce_dim=16,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    )
    model = transformers.CLIPSegForImageSegmentation(config)
    return model, (), {**padded_text(), "pixel_values": image(batch=2)}


def layoutlm() -> Call:
    """LayoutLM: words with the boxes that they stand in."""
    config = transformers.LayoutLMConfig(**TEXT, num_labels=4)
    corner = torch.randint(0, 500, (2, 16, 2))
    inputs = {**padded_text(), "bbox": torch.cat([corner, corner + torch.randint(1, 400, (2, 16, 2))], dim=-1)}
    return transformers.LayoutLMForTokenClassification(config), (), inputs


def llava() -> Call:
    """LLaVA: image features put where the image tokens stand among the words."""
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT, num_key_value_heads=2, use_cache=False),
        vision_config=transformers.CLIPVisionConfig(**VISION),
        image_token_index=199,
        vision_feature_layer=-1,
    )
    ids = torch.randint(5, 198, (1, 24))
    ids[:, 2:18] = 199
    kwargs = {"input_ids": ids, "pixel_values": image(), "attention_mask": torch.ones_like(ids), "use_cache": False}
    return transformers.LlavaForConditionalGeneration(config), (), kwargs


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (clip, clip_text, siglip, blip, vilt, owl_vit, clipseg, layoutlm, llava)
)
