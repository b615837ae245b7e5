"""Audio models: on waveforms at 16 kHz and on mel spectrograms."""

from __future__ import annotations

import torch
import transformers

from tests.models.architectures.architecture import WAVEFORM, Architecture, Call

KIND = "audio"


def whisper_config() -> transformers.WhisperConfig:
    """Whisper in small: 80 mel bins, a window of 200 frames in the place of 3000."""
    return transformers.WhisperConfig(
        vocab_size=200,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=100,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        use_cache=False,
    )


def waveform(samples: int = 4000, *, batch: int = 1) -> torch.Tensor:
    """Noise as (batch, samples)."""
    return torch.randn(batch, samples)


def whisper_encoder() -> Call:
    """Whisper's encoder alone, as speech recognition bundles it."""
    return transformers.WhisperModel(whisper_config()).encoder, (torch.randn(1, 80, 200),), {}


def whisper_decoder() -> Call:
    """Whisper's decoder alone, without cache, on the encoder's output."""
    decoder = transformers.WhisperModel(whisper_config()).decoder
    kwargs = {
        "input_ids": torch.randint(4, 200, (1, 8)),
        "encoder_hidden_states": torch.randn(1, 100, 64),
        "use_cache": False,
    }
    return decoder, (), kwargs


def whisper() -> Call:
    """Whisper, both halves, logits over the vocabulary."""
    model = transformers.WhisperForConditionalGeneration(whisper_config())
    kwargs = {"input_features": torch.randn(1, 80, 200), "decoder_input_ids": torch.randint(4, 200, (1, 8))}
    return model, (), kwargs


def wav2vec2() -> Call:
    """Wav2Vec2 with its CTC head; the second waveform is shorter than the first."""
    config = transformers.Wav2Vec2Config(**WAVEFORM, feat_extract_norm="layer", do_stable_layer_norm=True)
    mask = torch.ones(2, 4000, dtype=torch.int64)
    mask[1, 3000:] = 0
    return transformers.Wav2Vec2ForCTC(config), (), {"input_values": waveform(batch=2), "attention_mask": mask}


def hubert() -> Call:
    """HuBERT, group norm over time."""
    return transformers.HubertModel(transformers.HubertConfig(**WAVEFORM)), (waveform(),), {}


def wavlm() -> Call:
    """WavLM: gated relative position bias."""
    return transformers.WavLMModel(transformers.WavLMConfig(**WAVEFORM)), (), {"input_values": waveform()}


def audio_spectrogram_transformer() -> Call:
    """AST: a ViT over a spectrogram, classes out."""
    config = transformers.ASTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_length=128,
        num_mel_bins=64,
        num_labels=10,
    )
    return transformers.ASTForAudioClassification(config), (), {"input_values": torch.randn(1, 128, 64)}


def encodec() -> Call:
    """EnCodec's codec of waveforms, through its quantizer and back."""
    config = transformers.EncodecConfig(num_filters=8, hidden_size=32, codebook_size=64, codebook_dim=32)
    return transformers.EncodecModel(config), (), {"input_values": torch.randn(1, 1, 3200), "bandwidth": 6.0}


def speech_to_text() -> Call:
    """Speech2Text: an encoder over filter banks, a text decoder."""
    config = transformers.Speech2TextConfig(
        vocab_size=200,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        conv_channels=64,
        max_source_positions=200,
        use_cache=False,
    )
    kwargs = {
        "input_features": torch.randn(1, 64, 80),
        "attention_mask": torch.ones(1, 64, dtype=torch.int64),
        "decoder_input_ids": torch.randint(4, 200, (1, 8)),
    }
    return transformers.Speech2TextForConditionalGeneration(config), (), kwargs


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        whisper_encoder,
        whisper_decoder,
        whisper,
        wav2vec2,
        hubert,
        wavlm,
        audio_spectrogram_transformer,
        encodec,
        speech_to_text,
    )
)
