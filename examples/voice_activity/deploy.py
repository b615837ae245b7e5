"""Find speech in several recordings in parallel, each in a session of one model: the half without PyTorch."""

from __future__ import annotations

import argparse
import wave
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import npu_persist as npup

Samples = np.ndarray[Any, np.dtype[np.float32]]


def find_speech(model: npup.Model, samples: Samples) -> Samples:
    """Return the probability of speech in each chunk; the session carries what the network keeps between them."""
    size = model.bundle.manifest.metadata["samples"]
    chunks = samples[: len(samples) // size * size].reshape(-1, 1, size)
    with model.session() as session:
        return np.array([session(chunk)[0, 0] for chunk in chunks], np.float32)


def read(path: str, rate: int) -> Samples:
    """Return the samples of a WAV file of one channel and 16 bits."""
    with wave.open(path) as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, rate):
            raise SystemExit(f"{path}: expected one channel of 16 bits at {rate} Hz; sox makes one")
        return (np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768).astype(np.float32)


VOWELS = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (660, 1720, 2410)]
"""The first three formants of a, i, u, e, ä, in Hz."""


def speak(rate: int, syllables: int) -> Samples:
    """Return something like a voice: the harmonics of a wavering pitch, as loud as the vowels' formants make them."""
    time = np.arange(syllables * rate // 5) / rate
    pitch = 120 + 25 * np.sin(4.4 * time) + 8 * np.sin(31 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = np.zeros_like(time)
    for number, part in enumerate(np.array_split(np.arange(len(time)), syllables)):
        for harmonic in range(1, 40):
            frequency = harmonic * pitch[part]
            formants = zip(VOWELS[number % len(VOWELS)], (80, 100, 140), (1, 0.5, 0.25), strict=True)
            loudness = sum(peak / (1 + ((frequency - middle) / width) ** 2) for middle, width, peak in formants)
            sound[part] += loudness / harmonic**0.3 * np.sin(harmonic * phase[part])
        sound[part] *= np.sqrt(np.hanning(len(part)))
    sound /= 2 * np.abs(sound).max()
    return np.asarray(sound, np.float32)


def main() -> None:
    """Print where there is speech; without recordings, use two with an artificial voice between noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", nargs="*", metavar="WAV", help="16 kHz, one channel, 16 bits")
    parser.add_argument("--device", default="AUTO", help="NPU, GPU, CPU or AUTO")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    with npup.load("voice-activity", device=options.device, store=options.store) as model:
        rate, size = (model.bundle.manifest.metadata[name] for name in ("rate", "samples"))
        noise = np.random.default_rng(0).normal(0, 0.003, 4 * rate).astype(np.float32)
        made = {"early": noise.copy(), "late": noise.copy()}
        voice = speak(rate, 7)
        made["early"][rate // 2 :][: len(voice)] += voice
        made["late"][2 * rate :][: len(voice)] += voice
        recordings = {path: read(path, rate) for path in options.recordings} or made
        with ThreadPoolExecutor() as pool:
            found = [*pool.map(lambda samples: find_speech(model, samples), recordings.values())]

    for name, speech in zip(recordings, found, strict=True):
        marks = "".join("#" if chunk > 0.5 else "." for chunk in speech)  # noqa: PLR2004
        print(f"{name:>8} {marks}  {(speech > 0.5).sum() * size / rate:.1f} s of speech")  # noqa: PLR2004
    if not options.recordings:
        middles = [float(np.average(np.arange(len(speech)), weights=speech)) * size / rate for speech in found]
        assert 0.5 < middles[0] < 2 < middles[1] < 3.5, f"speech should be around 1.2 s and 2.7 s; got {middles}"  # noqa: PLR2004
        print("both voices were found where they are")


if __name__ == "__main__":
    main()
