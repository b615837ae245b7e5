"""Forecasts of time series."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tests.models.architectures.architecture import Architecture, Call

KIND = "time series"


def forecast(name: str, **sizes: Any) -> Call:
    """A model of past and future values by its name in transformers."""
    config = getattr(transformers, f"{name}Config")(
        prediction_length=6,
        context_length=12,
        lags_sequence=[1, 2, 3],
        num_time_features=2,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        use_cache=False,
        **sizes,
    )
    kwargs = {
        "past_values": torch.randn(2, 15),
        "past_time_features": torch.randn(2, 15, 2),
        "past_observed_mask": torch.ones(2, 15),
        "future_values": torch.randn(2, 6),
        "future_time_features": torch.randn(2, 6, 2),
        "use_cache": False,
    }
    return getattr(transformers, f"{name}Model")(config), (), kwargs


def patchtst() -> Call:
    """PatchTST: patches along the last axis."""
    return (
        transformers.PatchTSTForPrediction(
            transformers.PatchTSTConfig(
                num_input_channels=3,
                context_length=32,
                patch_length=8,
                patch_stride=8,
                d_model=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=64,
                prediction_length=8,
            )
        ),
        (torch.randn(2, 32, 3),),
        {},
    )


def patchtsmixer() -> Call:
    """PatchTSMixer."""
    return (
        transformers.PatchTSMixerForPrediction(
            transformers.PatchTSMixerConfig(
                num_input_channels=3,
                context_length=32,
                patch_length=8,
                patch_stride=8,
                d_model=16,
                num_layers=2,
                prediction_length=8,
            )
        ),
        (torch.randn(2, 32, 3),),
        {},
    )


def time_series_transformer() -> Call:
    """The probabilistic transformer for series, its values."""
    return forecast("TimeSeriesTransformer")


def informer() -> Call:
    """Informer with full attention."""
    return forecast("Informer", attention_type="full")


def informer_sparse() -> Call:
    """Informer."""
    return forecast("Informer")


def autoformer() -> Call:
    """Autoformer: delays by autocorrelation."""
    return forecast("Autoformer", label_length=4, moving_average=3)


ARCHITECTURES = tuple(
    Architecture(make.__name__, KIND, make)
    for make in (
        patchtst,
        patchtsmixer,
        time_series_transformer,
        informer,
        informer_sparse,
        autoformer,
    )
)
