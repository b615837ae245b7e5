"""Images with text, and other inputs of several kinds."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tests.models.architectures.architecture import (
    NO_CACHE,
    SMALL,
    Architecture,
    Call,
    image,
    padded_text,
    padding_mask,
    tokens,
)

KIND = "multi-input"
TEXT: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def altclip() -> Call:
    """AltCLIP."""
    return (
        transformers.AltCLIPModel(
            transformers.AltCLIPConfig(
                text_config={**TEXT, "project_dim": 32, "pad_token_id": 1}, vision_config=VISION, projection_dim=32
            )
        ),
        (),
        {**padded_text(pad=1), "pixel_values": image(32, batch=2)},
    )


def chinese_clip() -> Call:
    """Chinese CLIP."""
    return (
        transformers.ChineseCLIPModel(
            transformers.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=32)
        ),
        (),
        {**padded_text(), "pixel_values": image(32, batch=2)},
    )


def groupvit() -> Call:
    """GroupViT: groups by attention."""
    return (
        transformers.GroupViTModel(
            transformers.GroupViTConfig(
                text_config=TEXT,
                vision_config={
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "depths": [1, 1, 1],
                    "num_group_tokens": [8, 4, 0],
                    "num_output_groups": [8, 4, 4],
                    "num_attention_heads": 4,
                    "image_size": 32,
                    "patch_size": 8,
                },
                projection_dim=32,
                projection_intermediate_dim=64,
            )
        ),
        (),
        {**padded_text(pad=1), "pixel_values": image(32, batch=2)},
    )


def flava() -> Call:
    """FLAVA."""
    return (
        transformers.FlavaModel(
            transformers.FlavaConfig(
                text_config=TEXT,
                image_config=VISION,
                multimodal_config={k: v for k, v in TEXT.items() if k != "vocab_size"},
                projection_dim=32,
                hidden_size=32,
            )
        ),
        (),
        {**padded_text(), "pixel_values": image(32, batch=2)},
    )


def git() -> Call:
    """GIT: captions."""
    return (
        transformers.GitForCausalLM(transformers.GitConfig(**TEXT, vision_config=VISION, use_cache=False)),
        (),
        {**padded_text(), "pixel_values": image(32, batch=2), "use_cache": False},
    )


def align() -> Call:
    """ALIGN's text tower."""
    return (transformers.AlignTextModel(transformers.AlignTextConfig(**TEXT)), (), padded_text())


def owlv2() -> Call:
    """OWLv2."""
    return (
        transformers.Owlv2ForObjectDetection(
            transformers.Owlv2Config(
                text_config={**TEXT, "max_position_embeddings": 16}, vision_config=VISION, projection_dim=32
            )
        ),
        (),
        {"input_ids": tokens(batch=2), "attention_mask": padding_mask(), "pixel_values": image(32)},
    )


def visual_bert() -> Call:
    """VisualBERT."""
    return (
        transformers.VisualBertModel(transformers.VisualBertConfig(**SMALL, visual_embedding_dim=32)),
        (),
        {**padded_text(), "visual_embeds": torch.randn(2, 5, 32)},
    )


def lxmert() -> Call:
    """LXMERT."""
    return (
        transformers.LxmertModel(
            transformers.LxmertConfig(
                vocab_size=200,
                hidden_size=64,
                num_attention_heads=4,
                intermediate_size=128,
                l_layers=1,
                x_layers=1,
                r_layers=1,
                visual_feat_dim=32,
            )
        ),
        (),
        {**padded_text(), "visual_feats": torch.randn(2, 5, 32), "visual_pos": torch.rand(2, 5, 4)},
    )


def perceiver() -> Call:
    """Perceiver."""
    return (
        transformers.PerceiverModel(
            transformers.PerceiverConfig(
                d_model=32,
                d_latents=32,
                num_latents=8,
                num_blocks=1,
                num_self_attends_per_block=2,
                num_self_attention_heads=4,
                num_cross_attention_heads=4,
            )
        ),
        (torch.randn(2, 20, 32),),
        {},
    )


def mgp_str() -> Call:
    """MGP-STR: reads text at three granularities."""
    return (
        transformers.MgpstrForSceneTextRecognition(
            transformers.MgpstrConfig(
                image_size=[16, 32],
                patch_size=4,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_token_length=8,
            )
        ),
        (torch.randn(1, 3, 16, 32),),
        {},
    )


def blip2_qformer() -> Call:
    """BLIP-2's querying transformer."""
    return (
        transformers.Blip2QFormerModel(transformers.Blip2QFormerConfig(**TEXT, encoder_hidden_size=24)),
        (),
        {"query_embeds": torch.randn(1, 8, 32), "encoder_hidden_states": torch.randn(1, 10, 24)},
    )


def paligemma() -> Call:
    """PaliGemma."""
    return (
        transformers.PaliGemmaForConditionalGeneration(
            transformers.PaliGemmaConfig(
                text_config=dict(model_type="gemma", **{**TEXT, "num_key_value_heads": 2, "head_dim": 8}),
                vision_config=dict(model_type="siglip_vision_model", **VISION),
                projection_dim=32,
                image_token_index=199,
                hidden_size=32,
                vocab_size=200,
            )
        ),
        (),
        {
            "input_ids": torch.cat([torch.full((1, 16), 199), tokens(batch=1, length=6, vocabulary=190)], 1),
            "attention_mask": torch.ones(1, 22, dtype=torch.int64),
            "pixel_values": image(32),
            "token_type_ids": torch.zeros(1, 22, dtype=torch.int64),
            **NO_CACHE,
        },
    )


def decision_transformer() -> Call:
    """Decision transformer."""
    return (
        transformers.DecisionTransformerModel(
            transformers.DecisionTransformerConfig(
                state_dim=5, act_dim=3, hidden_size=32, n_layer=2, n_head=2, max_ep_len=64
            )
        ),
        (),
        {
            "states": torch.randn(1, 6, 5),
            "actions": torch.randn(1, 6, 3),
            "rewards": torch.randn(1, 6, 1),
            "returns_to_go": torch.randn(1, 6, 1),
            "timesteps": torch.arange(6)[None],
            "attention_mask": torch.ones(1, 6, dtype=torch.int64),
        },
    )


def trocr() -> Call:
    """TrOCR's decoder."""
    return (
        transformers.TrOCRForCausalLM(
            transformers.TrOCRConfig(
                vocab_size=200,
                d_model=32,
                decoder_layers=2,
                decoder_attention_heads=4,
                decoder_ffn_dim=64,
                use_cache=False,
            )
        ),
        (),
        {"input_ids": tokens(batch=1), "encoder_hidden_states": torch.randn(1, 9, 32), **NO_CACHE},
    )


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        altclip,
        chinese_clip,
        groupvit,
        flava,
        git,
        align,
        owlv2,
        visual_bert,
        lxmert,
        perceiver,
        mgp_str,
        blip2_qformer,
        paligemma,
        decision_transformer,
        trocr,
    )
)
