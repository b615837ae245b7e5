from __future__ import annotations

import json
import struct
import wave
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import npu_persist
from npu_persist import Store
from npu_persist.cli.main import main
from npu_persist.cli.pipelines import read_speech, write_png
from npu_persist.errors import StoreError, UsageError
from tests.support.graphs import publish_affine
from tests.support.pipelines import (
    make_tokenizer_assets,
    publish_language_model,
    publish_painter,
    publish_text_encoder,
)

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openvino_genai", reason="needs the extra genai")


def test_a_prompt_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    publish_language_model(Store(), assets=make_tokenizer_assets())
    assert main(["run", "speaker", "--device", "CPU", "--prompt", "Well", "--report"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "Hello world again\n"
    assert "speaker:1 for CPU: compiled for CPU" in shown.err
    assert main(["run", "speaker", "--device", "CPU", "--prompt", "Well", "--max-new-tokens", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["report"]["reference"]) == ("Hello world", "speaker:1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["affine", "--prompt", "Well"], "no pipeline runs its graphs"),
        (["encoder", "--prompt", "Well"], "--prompt is for language models"),
        (["speaker", "--audio", "missing.wav"], "could not read missing.wav"),
        (["speaker", "--prompt", "Well", "--max-new-tokens", "0"], "expected a positive number; got 0"),
        (["speaker", "--prompt", "Well", "--output", "a.png"], "--output is for images"),
        (
            ["speaker", "--prompt", "Well", "--output", "a.npz"],
            "expected FILE.png, for the image of a --prompt; got a.npz",
        ),
        (["speaker", "--prompt", "Well", "--size", "8x8"], "--size is for an image: give --output FILE.png too"),
        (["speaker", "--prompt", "Well", "--output", "a.png", "--size", "8"], "such as 512x768; got 8"),
        (["speaker", "--prompt", "Well", "--output", "a.png", "--steps", "0"], "--steps: expected a positive number"),
        (["speaker", "--prompt", "Well", "--fallback", "CPU"], "--fallback is for a call of the graph"),
        (["speaker", "--prompt", "Well", "--no-check-values"], "--no-check-values is for a call"),
        (["speaker", "--prompt", "Well", "--random"], "--random is for a call"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assets = make_tokenizer_assets()
    publish_affine(Store())
    publish_text_encoder(Store(), assets=assets)
    publish_language_model(Store(), assets=assets)
    assert main(["run", *arguments, "--device", "CPU"]) == 2
    assert message in capsys.readouterr().err


def read_png(path: Path) -> np.ndarray[Any, Any]:
    """Read what `write_png` writes, and check each part."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert zlib.crc32(kind + content) == struct.unpack_from(">I", data, place + 8 + size)[0]
        parts[kind] = content
        place += 12 + size
    assert [*parts] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *kind_of_pixels = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert kind_of_pixels == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_an_image_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_painter(Store(), make_tokenizer_assets())
    path = tmp_path / "image.png"
    run = ["run", "painter", "--device", "CPU", "--prompt", "Hello", "--output", str(path), "--steps", "2"]
    assert main([*run, "--size", "24x32", "--seed", "7"]) == 0
    assert capsys.readouterr().out == f"24 by 32 pixels, saved to {path}\n"
    image = read_png(path)
    expected = npu_persist.pipeline("painter").generate("Hello", num_inference_steps=2, height=24, width=32, rng_seed=7)
    assert np.array_equal(image, expected.data[0])
    assert main([*run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["height"], found["width"], found["saved"]) == (16, 16, str(path))
    assert main([*run, "--size", "15x16"]) == 2
    assert "makes no such image" in capsys.readouterr().err
    assert main(["run", "painter", "--device", "CPU", "--prompt", "Hello"]) == 2
    assert "runs in a Text2ImagePipeline: --prompt is for language models" in capsys.readouterr().err


def test_an_image_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="could not write"):
        write_png(str(tmp_path / "missing" / "image.png"), np.zeros((1, 1, 3), np.uint8))


def write_speech(path: Path, rate: int, width: int, channels: int, data: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setframerate(rate)
        file.setsampwidth(width)
        file.setnchannels(channels)
        file.writeframes(data)
    return path


def test_speech_is_read_as_numbers_from_minus_one_to_one(tmp_path: Path) -> None:
    path = write_speech(tmp_path / "a.wav", 16000, 2, 1, b"\x00\x00\x00\x80\xff\x7f")
    assert read_speech(str(path)) == [0.0, -1.0, 32767 / 32768]


@pytest.mark.parametrize(("rate", "width", "channels"), [(8000, 2, 1), (16000, 1, 1), (16000, 2, 2)])
def test_other_recordings_are_refused_with_what_converts_them(
    tmp_path: Path, rate: int, width: int, channels: int
) -> None:
    path = write_speech(tmp_path / "a.wav", rate, width, channels, b"\0" * 8)
    with pytest.raises(UsageError, match=f"has {rate} Hz, {8 * width} bits and {channels} channels.*`sox "):
        read_speech(str(path))


@pytest.mark.parametrize("data", [b"", b"RIFF", b"text", b"RIFF\x10\0\0\0WAVEfmt "])
def test_what_is_no_recording_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(UsageError, match="could not read"):
        read_speech(str(tmp_path / "a.wav"))
