"""Text encoders, called with what a tokenizer gives: ids, mask, sometimes token types, the last row padded."""

from __future__ import annotations

import torch
import transformers

from tests.models.architectures.architecture import SMALL, Architecture, Call, padded_text, tokens

KIND = "text"


def bert() -> Call:
    """BERT with token types: hidden states and the pooled output."""
    inputs = padded_text()
    inputs["token_type_ids"] = (torch.arange(16) > 8).long().expand(2, 16).clone()
    return transformers.BertModel(transformers.BertConfig(**SMALL)), (), inputs


def roberta() -> Call:
    """RoBERTa: positions counted from the ids that are no padding."""
    config = transformers.RobertaConfig(**SMALL, pad_token_id=1, num_labels=3)
    return transformers.RobertaForSequenceClassification(config), (), padded_text(pad=1)


def xlm_roberta() -> Call:
    """XLM-RoBERTa, token classification, every hidden state asked for."""
    config = transformers.XLMRobertaConfig(**SMALL, pad_token_id=1, num_labels=5)
    kwargs = {**padded_text(pad=1), "output_hidden_states": True}
    return transformers.XLMRobertaForTokenClassification(config), (), kwargs


def distilbert() -> Call:
    """DistilBERT, masked language model."""
    config = transformers.DistilBertConfig(vocab_size=200, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
    return transformers.DistilBertForMaskedLM(config), (), padded_text()


def albert() -> Call:
    """ALBERT: one layer's weights used by every layer."""
    config = transformers.AlbertConfig(**{**SMALL, "num_hidden_layers": 4}, embedding_size=32)
    return transformers.AlbertModel(config), (), padded_text()


def electra() -> Call:
    """ELECTRA's discriminator: one number a token."""
    config = transformers.ElectraConfig(**SMALL, embedding_size=32)
    return transformers.ElectraForPreTraining(config), (), padded_text()


def mpnet() -> Call:
    """MPNet: relative position buckets."""
    return transformers.MPNetModel(transformers.MPNetConfig(**SMALL)), (), padded_text(pad=1)


def deberta_v2() -> Call:
    """DeBERTa v2 as v3 sets it up: disentangled attention with log buckets."""
    config = transformers.DebertaV2Config(
        **SMALL,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
    )
    return transformers.DebertaV2Model(config), (), padded_text()


def modernbert() -> Call:
    """ModernBERT: rotary positions, local and global layers by turns."""
    config = transformers.ModernBertConfig(
        **{**SMALL, "num_hidden_layers": 4},
        global_attn_every_n_layers=2,
        local_attention=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    )
    return transformers.ModernBertForMaskedLM(config), (), padded_text()


def mobilebert() -> Call:
    """MobileBERT: bottlenecks and stacked feed-forward layers; attentions asked for."""
    config = transformers.MobileBertConfig(**SMALL, embedding_size=32, intra_bottleneck_size=32)
    model = transformers.MobileBertModel(config)
    model.set_attn_implementation("eager")
    return model, (), {**padded_text(), "output_attentions": True}


def xlnet() -> Call:
    """XLNet: relative positions through Transformer-XL's shift."""
    config = transformers.XLNetConfig(vocab_size=200, d_model=64, n_layer=2, n_head=4, d_inner=128)
    return transformers.XLNetModel(config), (), {**padded_text(), "use_mems": False}


def fnet() -> Call:
    """FNet: a Fourier transform in the attention's place; it takes no mask."""
    config = transformers.FNetConfig(vocab_size=200, hidden_size=64, num_hidden_layers=2, intermediate_size=128)
    return transformers.FNetModel(config), (tokens(),), {}


def longformer() -> Call:
    """Longformer: sliding windows, global attention on the first token."""
    config = transformers.LongformerConfig(**SMALL, attention_window=8, pad_token_id=1)
    inputs = padded_text(length=32, pad=1)
    inputs["global_attention_mask"] = torch.zeros(2, 32, dtype=torch.int64).index_fill(1, torch.tensor([0]), 1)
    return transformers.LongformerModel(config), (), inputs


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        bert,
        roberta,
        xlm_roberta,
        distilbert,
        albert,
        electra,
        mpnet,
        deberta_v2,
        modernbert,
        mobilebert,
        xlnet,
        fnet,
        longformer,
    )
)
