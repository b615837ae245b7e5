"""Small, seeded instances of the architectures that people persist, each with a call as its users write it.

Promise: building one touches no network, takes a second or two on two cores, and gives the same weights every time.
"""

from __future__ import annotations

from tests.models.architectures import (
    audio,
    backbones,
    causal,
    decoders,
    detectors,
    diffusion,
    encoder_decoder,
    experts,
    image_text,
    long_text,
    multi_input,
    sequences,
    speech,
    text,
    time_series,
    video_diffusion,
    vision,
)
from tests.models.architectures.architecture import Architecture

__all__ = ["ARCHITECTURES", "Architecture"]

ARCHITECTURES: tuple[Architecture, ...] = (
    *vision.ARCHITECTURES,
    *text.ARCHITECTURES,
    *audio.ARCHITECTURES,
    *diffusion.ARCHITECTURES,
    *multi_input.ARCHITECTURES,
    *encoder_decoder.ARCHITECTURES,
    *causal.ARCHITECTURES,
    *long_text.ARCHITECTURES,
    *decoders.ARCHITECTURES,
    *experts.ARCHITECTURES,
    *sequences.ARCHITECTURES,
    *backbones.ARCHITECTURES,
    *detectors.ARCHITECTURES,
    *speech.ARCHITECTURES,
    *time_series.ARCHITECTURES,
    *image_text.ARCHITECTURES,
    *video_diffusion.ARCHITECTURES,
)
"""Every architecture of the table in the closing note, by domain."""
