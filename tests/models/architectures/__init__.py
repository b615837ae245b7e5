"""Small, seeded instances of the architectures that people persist, each with a call as its users write it.

Promise: building one touches no network, takes a second or two on two cores, and gives the same weights every time.
"""

from __future__ import annotations

from tests.models.architectures import audio, causal, diffusion, encoder_decoder, multi_input, text, vision
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
)
"""Every architecture of the table in the closing note, by domain."""
