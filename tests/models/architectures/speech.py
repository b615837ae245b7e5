"""Speech: encoders, synthesis, vocoders and codecs."""

from __future__ import annotations

import torch
import transformers

from tests.models.architectures.architecture import SMALL, WAVEFORM, Architecture, Call, tokens

KIND = "audio"


def wave(samples: int = 4000) -> torch.Tensor:
    """Noise as (1, samples)."""
    return torch.randn(1, samples)


def sew() -> Call:
    """SEW: squeezed wav2vec."""
    return (
        transformers.SEWModel(transformers.SEWConfig(**{**WAVEFORM, "conv_bias": False}, squeeze_factor=2)),
        (wave(),),
        {},
    )


def sew_d() -> Call:
    """SEW-D: disentangled attention."""
    return (transformers.SEWDModel(transformers.SEWDConfig(**WAVEFORM, squeeze_factor=2)), (wave(),), {})


def unispeech_sat() -> Call:
    """UniSpeech-SAT."""
    return (transformers.UniSpeechSatModel(transformers.UniSpeechSatConfig(**WAVEFORM)), (wave(),), {})


def data2vec_audio() -> Call:
    """data2vec on waveforms."""
    return (
        transformers.Data2VecAudioModel(
            transformers.Data2VecAudioConfig(
                **{k: v for k, v in WAVEFORM.items() if "pos_embedding" not in k},
                conv_pos_kernel_size=5,
                num_conv_pos_embeddings=2,
                num_conv_pos_embedding_groups=4,
            )
        ),
        (wave(),),
        {},
    )


def wav2vec2_conformer() -> Call:
    """wav2vec 2.0 with conformers, relative positions."""
    return (
        transformers.Wav2Vec2ConformerModel(
            transformers.Wav2Vec2ConformerConfig(**WAVEFORM, position_embeddings_type="relative")
        ),
        (wave(),),
        {},
    )


def wav2vec2_bert() -> Call:
    """w2v-BERT."""
    return (
        transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**SMALL, feature_projection_input_dim=32)),
        (torch.randn(1, 40, 32),),
        {},
    )


def speecht5_text_to_speech() -> Call:
    """SpeechT5, text to spectrogram."""
    c = transformers.SpeechT5Config(
        vocab_size=81,
        hidden_size=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        speech_decoder_prenet_units=32,
        speech_decoder_prenet_dropout=0.0,
        speech_decoder_postnet_units=32,
        speaker_embedding_dim=16,
        num_mel_bins=20,
        use_cache=False,
    )
    return (
        transformers.SpeechT5ForTextToSpeech(c),
        (),
        {
            "input_ids": tokens(batch=1, vocabulary=80),
            "decoder_input_values": torch.randn(1, 8, 20),
            "speaker_embeddings": torch.randn(1, 16),
            "use_cache": False,
        },
    )


def hifigan() -> Call:
    """HiFi-GAN, as SpeechT5 uses it."""
    return (
        transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(model_in_dim=20, upsample_initial_channel=32)),
        (torch.randn(1, 12, 20),),
        {},
    )


def dac() -> Call:
    """DAC's codec of waveforms."""
    return (
        transformers.DacModel(
            transformers.DacConfig(
                encoder_hidden_size=8,
                downsampling_ratios=[2, 4],
                decoder_hidden_size=32,
                upsampling_ratios=[4, 2],
                n_codebooks=2,
                codebook_size=32,
                codebook_dim=4,
            )
        ),
        (torch.randn(1, 1, 640),),
        {},
    )


def mimi() -> Call:
    """Mimi's codec."""
    return (
        transformers.MimiModel(
            transformers.MimiConfig(
                num_filters=8,
                hidden_size=32,
                codebook_size=32,
                codebook_dim=16,
                vector_quantization_hidden_dimension=16,
                num_quantizers=2,
                upsampling_ratios=[4, 2],
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=16,
                intermediate_size=64,
                upsample_groups=32,
                use_cache=False,
                num_semantic_quantizers=1,
                frame_rate=1500,
                sampling_rate=24000,
            )
        ),
        (torch.randn(1, 1, 640),),
        {},
    )


def univnet() -> Call:
    """UnivNet: a vocoder that predicts its kernels."""
    return (
        transformers.UnivNetModel(
            transformers.UnivNetConfig(
                model_in_channels=16,
                model_hidden_channels=8,
                num_mel_bins=20,
                resblock_kernel_sizes=[3],
                resblock_stride_sizes=[4],
                resblock_dilation_sizes=[[1, 3]],
                kernel_predictor_hidden_channels=16,
            )
        ),
        (torch.randn(1, 10, 20),),
        {"noise_sequence": torch.randn(1, 10, 16)},
    )


def clap_audio() -> Call:
    """CLAP's audio tower."""
    return (
        transformers.ClapAudioModel(
            transformers.ClapAudioConfig(
                spec_size=64,
                window_size=4,
                num_mel_bins=16,
                patch_size=4,
                patch_stride=4,
                patch_embeds_hidden_size=16,
                depths=[1, 1],
                num_attention_heads=[2, 2],
                hidden_size=32,
                num_classes=5,
            )
        ),
        (torch.randn(1, 1, 64, 16),),
        {},
    )


def moonshine() -> Call:
    """Moonshine."""
    return (
        transformers.MoonshineForConditionalGeneration(
            transformers.MoonshineConfig(
                vocab_size=200,
                hidden_size=64,
                intermediate_size=128,
                encoder_num_hidden_layers=2,
                decoder_num_hidden_layers=2,
                encoder_num_attention_heads=4,
                decoder_num_attention_heads=4,
                use_cache=False,
            )
        ),
        (),
        {"input_values": wave(4000), "decoder_input_ids": tokens(batch=1, length=6), "use_cache": False},
    )


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        sew,
        sew_d,
        unispeech_sat,
        data2vec_audio,
        wav2vec2_conformer,
        wav2vec2_bert,
        speecht5_text_to_speech,
        hifigan,
        dac,
        mimi,
        univnet,
        clap_audio,
        moonshine,
    )
)
