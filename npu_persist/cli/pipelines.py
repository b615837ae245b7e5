"""`run --prompt` and `run --audio`: generate text with a language or speech model, or an image from a prompt."""

from __future__ import annotations

import array
import struct
import sys
import wave
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.cli.arguments import parse_image_size
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.cli.output import Output

_RATE, _BYTES = 16000, 2
_OPTIONS: dict[str, Any] = {
    "inputs": None, "random": False, "fallback": [], "hint": None, "verify": "full",
    "compile_timeout": None, "check_values": True,
}  # fmt: skip
"""Options of `run` that a pipeline has no use for, with their defaults."""


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run` that make it run a pipeline."""
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--prompt",
        metavar="TEXT",
        help="prompt for a language model or, with --output FILE.png, for an image (extra genai)",
    )
    given.add_argument(
        "--audio",
        metavar="FILE.wav",
        help="speech for a Whisper model to transcribe: 16 kHz, 16 bits, one channel (extra genai)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, metavar="N", help="largest number of generated tokens (default: 256)"
    )
    parser.add_argument(
        "--size", metavar="HxW", help="height and width of an image, such as 512x768 (default: the model's)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="denoising steps of an image (default: as in OpenVINO GenAI)"
    )


def run_pipeline(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist run REF --prompt TEXT`, with `--output FILE.png` for an image, or `--audio FILE.wav`."""
    for name, default in _OPTIONS.items():
        if getattr(arguments, name) != default:
            option = {"check_values": "--no-check-values"}.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"{option} is for a call of the graph: leave it out with --prompt and --audio")
    if arguments.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens: expected a positive number; got {arguments.max_new_tokens}")
    samples = None if arguments.audio is None else read_speech(arguments.audio)
    image = _read_image_options(arguments)
    pipe = npu_persist.pipeline(
        arguments.reference,
        arguments.device,
        cache=arguments.cache,
        progress=output.progress,
        trust=True if "all" in arguments.trust else tuple(arguments.trust) or None,
        require_signature=arguments.require_signature,
        store=arguments.store,
    )
    data: dict[str, Any] = {"reference": pipe.report.reference}
    if image is not None:
        _require(pipe, "Text2ImagePipeline", "--output is for images")
        try:
            pixels = pipe.generate(arguments.prompt, **image).data[0]
        except RuntimeError as error:
            raise UsageError(f"{pipe.report.reference}: OpenVINO GenAI makes no such image: {error}") from error
        write_png(arguments.output, pixels)
        data |= {"height": pixels.shape[0], "width": pixels.shape[1], "saved": arguments.output}
        lines = [f"{data['height']} by {data['width']} pixels, saved to {arguments.output}"]
    else:
        if samples is None:
            _require(pipe, "LLMPipeline", "--prompt is for language models, and with --output FILE.png for images")
        else:
            _require(pipe, "WhisperPipeline", "--audio is for Whisper models")
        given: Any = arguments.prompt if samples is None else [*samples]
        data["text"] = str(pipe.generate(given, max_new_tokens=arguments.max_new_tokens))
        lines = data["text"].splitlines()
    output.show({**data, "report": pipe.report.to_dict()}, lambda: lines)
    if arguments.report:
        output.note(str(pipe.report))


def _require(pipe: Any, kind: str, advice: str) -> None:
    if type(pipe).__name__ != kind:
        raise UsageError(f"{pipe.report.reference} runs in a {type(pipe).__name__}: {advice}")


def _read_image_options(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return what GenAI is told of an image; None where none is asked for."""
    from npu_persist.files.filesystem import check_path

    if arguments.output is None:
        for name in ("size", "steps"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name} is for an image: give --output FILE.png too")
        return None
    if arguments.prompt is None or not arguments.output.lower().endswith(".png"):
        raise UsageError(f"--output: expected FILE.png, for the image of a --prompt; got {arguments.output}")
    check_path(arguments.output, "--output")
    found: dict[str, Any] = {"rng_seed": arguments.seed}
    if arguments.steps is not None:
        if arguments.steps < 1:
            raise UsageError(f"--steps: expected a positive number; got {arguments.steps}")
        found["num_inference_steps"] = arguments.steps
    if (size := parse_image_size(arguments.size, "--size")) is not None:
        found |= {"height": size[0], "width": size[1]}
    return found


def write_png(path: str, pixels: Any) -> None:
    """Write an image, uint8 [height, width, 3], as a PNG file (https://www.w3.org/TR/png-3/)."""
    from npu_persist.files.filesystem import store_errors

    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: a row that is not predicted from others
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with store_errors(f"write {path}"):
        Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def read_speech(path: str) -> Sequence[float]:
    """Return the samples of a WAV file, from -1 to 1; UsageError if it is not what Whisper hears."""
    try:
        with wave.open(path, "rb") as file:
            found = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise UsageError(f"--audio: could not read {path}: {str(error) or 'it is empty'}") from error
    if found != (_RATE, _BYTES, 1):
        raise UsageError(
            f"--audio: expected {_RATE} Hz, 16 bits and one channel; {path} has {found[0]} Hz, {8 * found[1]} bits and "
            f"{found[2]} channels. To convert it: `sox {path} -r {_RATE} -b 16 -c 1 speech.wav`"
        )
    samples = array.array("h", data[: len(data) // _BYTES * _BYTES])
    if sys.byteorder == "big":
        samples.byteswap()
    return [sample / 32768 for sample in samples]
