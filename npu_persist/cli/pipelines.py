"""`run --prompt` and `run --audio`: generate text with a language or speech model."""

from __future__ import annotations

import array
import sys
import wave
from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from npu_persist.cli.output import Output

_RATE, _BYTES = 16000, 2
_OPTIONS: dict[str, Any] = {
    "inputs": None, "random": False, "output": None, "fallback": [], "hint": None, "verify": "full",
    "compile_timeout": None, "check_values": True,
}  # fmt: skip
"""Options of `run` that a pipeline has no use for, with their defaults."""


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run` that make it run a pipeline."""
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--prompt", metavar="TEXT", help="prompt for a language model (extra genai)")
    given.add_argument(
        "--audio",
        metavar="FILE.wav",
        help="speech for a Whisper model to transcribe: 16 kHz, 16 bits, one channel (extra genai)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, metavar="N", help="largest number of generated tokens (default: 256)"
    )


def run_pipeline(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist run REF --prompt TEXT`, or `--audio FILE.wav`."""
    for name, default in _OPTIONS.items():
        if getattr(arguments, name) != default:
            option = {"check_values": "--no-check-values"}.get(name, f"--{name.replace('_', '-')}")
            raise UsageError(f"{option} is for a call of the graph: leave it out with --prompt and --audio")
    if arguments.max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens: expected a positive number; got {arguments.max_new_tokens}")
    samples = None if arguments.audio is None else read_speech(arguments.audio)
    pipe = npu_persist.pipeline(
        arguments.reference,
        arguments.device,
        cache=arguments.cache,
        progress=output.progress,
        trust=True if "all" in arguments.trust else tuple(arguments.trust) or None,
        require_signature=arguments.require_signature,
        store=arguments.store,
    )
    kind = "WhisperPipeline" if samples is not None else "LLMPipeline"
    if type(pipe).__name__ != kind:
        raise UsageError(
            f"{pipe.report.reference} runs in a {type(pipe).__name__}: "
            + ("--audio is for Whisper models" if samples is not None else "--prompt is for language models")
        )
    given: Any = arguments.prompt if samples is None else list(samples)
    text = str(pipe.generate(given, max_new_tokens=arguments.max_new_tokens))
    data = {"reference": pipe.report.reference, "text": text, "report": pipe.report.to_dict()}
    output.show(data, text.splitlines)
    if arguments.report:
        output.note(str(pipe.report))


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
