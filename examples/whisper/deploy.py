"""Transcribe a WAV file with the persisted Whisper: the half without PyTorch, in numpy alone."""

from __future__ import annotations

import argparse
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np

import npu_persist as npup

Array = np.ndarray[Any, np.dtype[Any]]

SAMPLE_RATE = 16_000
WINDOW = 400
HOP = 160


def read_wav(path: Path) -> Array:
    """Return the samples of a 16-bit mono WAV file at 16 kHz, between -1 and 1."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE, 1, 2):
            raise SystemExit(f"{path}: expected 16-bit mono at {SAMPLE_RATE} Hz; `ffmpeg -ar 16000 -ac 1` makes one.")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def mel_filters(bins: int) -> Array:
    """Return the triangular filters of Slaney's mel scale, each of area one, as (bins, WINDOW // 2 + 1)."""
    # Slaney's scale is linear up to the knee, logarithmic above.
    knee, hertz_a_mel, octave = 15, 200 / 3, np.log(6.4) / 27
    top = knee + np.log(SAMPLE_RATE / 2 / (knee * hertz_a_mel)) / octave
    mels = np.linspace(0, top, bins + 2)
    above = knee * hertz_a_mel * np.exp(octave * (np.maximum(mels, knee) - knee))
    edges = np.where(mels < knee, mels * hertz_a_mel, above)
    frequencies = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    filters: Array = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])[:, None]
    return filters


def log_mel(audio: Array, bins: int, frames: int) -> Array:
    """Return Whisper's features, (1, bins, frames), of audio that is cut or padded to that many frames."""
    audio = np.pad(audio[: frames * HOP], (0, max(0, frames * HOP - len(audio))))
    audio = np.pad(audio, WINDOW // 2, mode="reflect")
    pieces = np.lib.stride_tricks.sliding_window_view(audio, WINDOW)[::HOP][:frames]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(pieces * hann)) ** 2
    features = np.log10(np.maximum(mel_filters(bins) @ power.T, 1e-10))
    features = np.maximum(features, features.max() - 8)
    scaled: Array = ((features + 4) / 4).astype(np.float32)
    return scaled[None]


def transcribe(model: npup.Model, audio: Array) -> list[int]:
    """Return the most likely tokens, one after the other, until the text ends or fills the decoder's length."""
    encoder, decoder, config = model.graphs["encoder"], model.graphs["decoder"], model.bundle.manifest.metadata
    states = encoder(log_mel(audio, config["mel_bins"], config["frames"])).last_hidden_state

    length, prompt, end_of_text = config["tokens"], config["prompt"], config["end_of_text"]
    ids = np.full((1, length), end_of_text)
    ids[0, : len(prompt)] = prompt
    for position in range(len(prompt) - 1, length - 1):
        logits = decoder(input_ids=ids, position=np.array([position]), audio_states=states)
        token = int(logits[0].argmax())
        if token == end_of_text:
            break
        ids[0, position + 1] = token
    return [int(token) for token in ids[0, len(prompt) :] if token != end_of_text]


def main() -> None:
    """Load both halves and transcribe; without a file, use a chirp."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("audio", nargs="?", type=Path, help="16-bit mono WAV at 16 kHz")
    parser.add_argument("--tokenizer", metavar="FILE", help="the checkpoint's tokenizer.json, to print text")
    parser.add_argument("--device", default="AUTO", help="NPU, GPU, CPU or AUTO")
    parser.add_argument("--store", metavar="DIR", help="where bundles are kept; without it, the default store")
    options = parser.parse_args()

    started = time.perf_counter()
    model = npup.load("whisper", device=options.device, store=options.store)
    loaded = time.perf_counter()
    print(f"{model.bundle.reference} on {options.device} in {loaded - started:.1f} s")

    seconds = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    audio = read_wav(options.audio) if options.audio else 0.1 * np.sin(2 * np.pi * (200 + 400 * seconds) * seconds)
    tokens = transcribe(model, audio)
    print(f"{len(tokens)} tokens in {time.perf_counter() - loaded:.1f} s: {tokens}")
    if options.tokenizer:
        from tokenizers import Tokenizer

        print(Tokenizer.from_file(options.tokenizer).decode(tokens))


if __name__ == "__main__":
    main()
