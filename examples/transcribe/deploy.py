"""Transcribe recordings with the persisted Whisper: the half without PyTorch, with OpenVINO GenAI (extra `genai`)."""

from __future__ import annotations

import argparse
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np

import npu_persist as npup

RATE = 16_000

Array = np.ndarray[Any, np.dtype[Any]]


def read_wav(path: Path) -> Array:
    """Return the samples of a 16-bit mono WAV file at 16 kHz, between -1 and 1."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise SystemExit(f"{path}: expected 16-bit mono at {RATE} Hz; `ffmpeg -ar 16000 -ac 1` makes one.")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def main() -> None:
    """Print the text; without a file, use a chirp, which contains no speech."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("audio", nargs="*", type=Path, help="16-bit mono WAV at 16 kHz")
    parser.add_argument("--device", default="CPU", help="NPU, GPU, CPU")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    pipe = npup.pipeline("transcribe", device=options.device, store=options.store)
    print(pipe.report)
    seconds = np.arange(2 * RATE) / RATE
    recordings = [read_wav(path) for path in options.audio] or [
        0.1 * np.sin(2 * np.pi * (200 + 400 * seconds) * seconds)
    ]
    for samples in recordings:
        began = time.perf_counter()
        text = str(pipe.generate(samples.astype(np.float32), max_new_tokens=200)).strip()
        print(f"{len(samples) / RATE:.1f} s of audio in {time.perf_counter() - began:.1f} s: {text}")


if __name__ == "__main__":
    main()
