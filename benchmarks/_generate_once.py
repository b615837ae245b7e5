"""One measurement of benchmarks/generate.py in a process of its own: prints one line of JSON.

    _generate_once.py ours STARTED REF STORE WORK        pipeline(REF)
    _generate_once.py stock STARTED FOLDER CACHE WORK    openvino_genai's own pipeline, with CACHE_DIR
    _generate_once.py persist MODEL STORE PRECISION        persist of a transformers folder

STARTED is the system's monotonic clock when the process was started. WORK is a number of tokens for a language model,
or a recording for a speech model: 16-bit mono WAV at 16 kHz.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
import wave
from pathlib import Path
from typing import Any

import numpy as np

PROMPT = "What is the capital of France? Tell me about its history."


def generate(pipe: Any, started: float, tokens: int) -> dict[str, Any]:
    """Return the seconds to the first token since the process was started, and the tokens a second after it."""
    loaded = time.monotonic()
    options = {"max_new_tokens": tokens, "ignore_eos": True, "apply_chat_template": False}
    pipe.generate(PROMPT, max_new_tokens=1, apply_chat_template=False)
    first = began = time.monotonic()
    metrics = pipe.generate([PROMPT], **options).perf_metrics
    return {
        "loaded": loaded - started,
        "first": first - started,
        "tokens": metrics.get_num_generated_tokens() / (time.monotonic() - began),
        "throughput": metrics.get_throughput().mean,
    }


def transcribe(pipe: Any, started: float, recording: str) -> dict[str, Any]:
    """Return the seconds to the first text since the process was started, and the seconds of audio a second then."""
    loaded = time.monotonic()
    with wave.open(recording) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        seconds = file.getnframes() / file.getframerate()
    pipe.generate(samples)
    first = began = time.monotonic()
    text = str(pipe.generate(samples))
    elapsed = time.monotonic() - began
    return {"loaded": loaded - started, "first": first - started, "tokens": seconds / elapsed, "text": text}


def read_model(folder: str) -> tuple[Any, dict[str, Any]]:
    """Return a model of transformers, and what is persisted beside it."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSpeechSeq2Seq, AutoProcessor, AutoTokenizer

    if AutoConfig.from_pretrained(folder).is_encoder_decoder:
        model = AutoModelForSpeechSeq2Seq.from_pretrained(folder, dtype="auto")
        return model.eval(), {"processor": AutoProcessor.from_pretrained(folder)}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return model.eval(), {"tokenizer": AutoTokenizer.from_pretrained(folder)}


def main() -> None:
    """Measure what the arguments say."""
    side, *arguments = sys.argv[1:]
    warnings.simplefilter("ignore")
    if side == "persist":
        from _persist_once import peak_memory

        import npu_persist

        folder, store, given = arguments
        precision: Any = given
        model, assets = read_model(folder)
        began = time.monotonic()
        bundle = npu_persist.persist(model, "measured", **assets, precision=precision, store=store)
        found = {"seconds": time.monotonic() - began, "peak": peak_memory(), "size": bundle.size}
        print(json.dumps({**found, "reference": bundle.reference}))
        return
    started, where, cache, work = arguments
    if side == "ours":
        import npu_persist

        pipe = npu_persist.pipeline(where, "CPU", store=cache)
        found = {"from_cache": pipe.report.from_cache}
    else:
        import openvino_genai

        is_speech = (Path(where) / "openvino_encoder_model.xml").exists()
        kind = openvino_genai.WhisperPipeline if is_speech else openvino_genai.LLMPipeline
        pipe = kind(where, "CPU", CACHE_DIR=cache)
        found = {"from_cache": None}
    done = generate(pipe, float(started), int(work)) if work.isdigit() else transcribe(pipe, float(started), work)
    print(json.dumps({**found, **done}))


if __name__ == "__main__":
    main()
