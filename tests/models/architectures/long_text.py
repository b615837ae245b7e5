"""Text encoders with attention of their own: sparse, pooled, in chunks, by characters."""

from __future__ import annotations

import torch
import transformers

from tests.models.architectures.architecture import NO_CACHE, SMALL, Architecture, Call, padded_text, tokens

KIND = "text"


def funnel() -> Call:
    """Funnel: the sequence shrinks between blocks, positions are sines of constants."""
    return (
        transformers.FunnelModel(
            transformers.FunnelConfig(
                vocab_size=200, d_model=64, block_sizes=[2, 2], n_head=4, d_head=16, d_inner=128, num_decoder_layers=1
            )
        ),
        (),
        padded_text(),
    )


def big_bird() -> Call:
    """BigBird with full attention."""
    return (
        transformers.BigBirdModel(transformers.BigBirdConfig(**SMALL, attention_type="original_full")),
        (),
        padded_text(),
    )


def big_bird_sparse() -> Call:
    """BigBird with its sparse blocks."""
    return (
        transformers.BigBirdModel(
            transformers.BigBirdConfig(
                **SMALL, attention_type="block_sparse", block_size=4, num_random_blocks=1, max_position_embeddings=128
            )
        ),
        (),
        padded_text(length=64),
    )


def reformer() -> Call:
    """Reformer: local attention in chunks, axial positions."""
    return (
        transformers.ReformerModel(
            transformers.ReformerConfig(
                vocab_size=200,
                hidden_size=64,
                num_attention_heads=4,
                attention_head_size=16,
                attn_layers=["local", "local"],
                feed_forward_size=128,
                axial_pos_shape=(4, 4),
                axial_pos_embds_dim=(32, 32),
                local_attn_chunk_length=8,
                is_decoder=True,
            )
        ),
        (tokens(),),
        NO_CACHE,
    )


def squeezebert() -> Call:
    """SqueezeBERT: grouped convolutions."""
    return (
        transformers.SqueezeBertModel(transformers.SqueezeBertConfig(**SMALL, embedding_size=64)),
        (),
        padded_text(),
    )


def convbert() -> Call:
    """ConvBERT: dynamic convolutions beside attention."""
    return (transformers.ConvBertModel(transformers.ConvBertConfig(**SMALL, embedding_size=64)), (), padded_text())


def roformer() -> Call:
    """RoFormer: rotary positions."""
    return (transformers.RoFormerModel(transformers.RoFormerConfig(**SMALL, embedding_size=64)), (), padded_text())


def esm() -> Call:
    """ESM: proteins, rotary positions."""
    return (
        transformers.EsmModel(transformers.EsmConfig(**SMALL, pad_token_id=1, position_embedding_type="rotary")),
        (),
        padded_text(pad=1),
    )


def canine() -> Call:
    """CANINE: characters, hashed, downsampled and upsampled."""
    return (
        transformers.CanineModel(
            transformers.CanineConfig(
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
                max_position_embeddings=256,
                num_hash_functions=4,
                num_hash_buckets=64,
                downsampling_rate=4,
                local_transformer_stride=8,
            )
        ),
        (),
        padded_text(length=32),
    )


def ibert() -> Call:
    """I-BERT, without its integers."""
    return (transformers.IBertModel(transformers.IBertConfig(**SMALL, quant_mode=False)), (), padded_text(pad=1))


def luke() -> Call:
    """LUKE, words only."""
    return (
        transformers.LukeModel(transformers.LukeConfig(**SMALL, entity_vocab_size=50, entity_emb_size=32)),
        (),
        padded_text(pad=1),
    )


def tapas() -> Call:
    """TAPAS: seven kinds of token types."""
    return (
        transformers.TapasModel(transformers.TapasConfig(**SMALL)),
        (),
        {**padded_text(), "token_type_ids": torch.zeros(2, 16, 7, dtype=torch.int64)},
    )


def mra() -> Call:
    """MRA: attention at several resolutions."""
    return (transformers.MraModel(transformers.MraConfig(**SMALL)), (), padded_text(length=32))


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        funnel,
        big_bird,
        big_bird_sparse,
        reformer,
        squeezebert,
        convbert,
        roformer,
        esm,
        canine,
        ibert,
        luke,
        tapas,
        mra,
    )
)
