"""Denoise latents with the persisted UNet: the half without PyTorch.

A whole pipeline also needs bundles of the text encoder and the image decoder. To keep this example small, the prompt
is random numbers, and the result is latents.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import npu_persist as npup

Array = np.ndarray[Any, np.dtype[np.float32]]
GUIDANCE = 7.5


def denoise(unet: npup.Model, prompt: Array, latents: Array, steps: int) -> Array:
    """Run the DDIM sampler (Song et al. 2021, equation 12 with sigma 0) with classifier-free guidance.

    Args:
        unet: the loaded bundle.
        prompt: embeddings of the empty prompt and of the prompt, (2, tokens, width).
        latents: the noise to begin with, (1, channels, height, width).
        steps: how many of the training steps to visit.

    """
    schedule = unet.bundle.manifest.metadata["schedule"]
    train_steps = schedule["train_steps"]
    betas = np.linspace(schedule["beta_start"] ** 0.5, schedule["beta_end"] ** 0.5, train_steps) ** 2
    signal = np.cumprod(1 - betas)
    stride = train_steps // steps
    for timestep in range((steps - 1) * stride, -1, -stride):
        started = time.perf_counter()
        # The module's own signature: the same keywords, and the result has the same fields.
        noise = unet(
            sample=np.concatenate([latents, latents]),
            timestep=np.array(timestep),
            encoder_hidden_states=prompt,
        ).sample
        guided = noise[:1] + GUIDANCE * (noise[1:] - noise[:1])
        now, before = signal[timestep], signal[max(timestep - stride, 0)]
        clean = (latents - np.sqrt(1 - now) * guided) / np.sqrt(now)
        latents = (np.sqrt(before) * clean + np.sqrt(1 - before) * guided).astype(np.float32)
        print(f"timestep {timestep:4d}: {time.perf_counter() - started:.2f} s")
    return latents


def main() -> None:
    """Load the UNet, start from noise, and report the latents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="AUTO", help="NPU, GPU, CPU or AUTO")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    started = time.perf_counter()
    unet = npup.load("sd-unet", device=options.device, store=options.store)
    print(f"{unet.bundle.reference} on {options.device} in {time.perf_counter() - started:.1f} s")

    settings = unet.bundle.manifest.metadata
    random = np.random.default_rng(0)
    prompt = random.standard_normal(settings["prompt"], dtype=np.float32)
    noise = random.standard_normal(settings["latents"], dtype=np.float32)
    latents = denoise(unet, np.concatenate([np.zeros_like(prompt), prompt]), noise, options.steps)
    assert latents.shape == noise.shape
    assert np.isfinite(latents).all()
    print(f"latents {latents.shape}, mean {latents.mean():.3f}, deviation {latents.std():.3f}")


if __name__ == "__main__":
    main()
