from __future__ import annotations

import json
import wave
from typing import TYPE_CHECKING

import pytest

from npu_persist import Store
from npu_persist.cli.main import main
from npu_persist.cli.pipelines import read_speech
from npu_persist.errors import UsageError
from tests.support.graphs import publish_affine
from tests.support.pipelines import make_tokenizer_assets, publish_language_model, publish_text_encoder

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
