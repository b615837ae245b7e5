"""One measurement of benchmarks/generate.py in a process of its own: prints one line of JSON.

    _generate_once.py ours STARTED REF STORE TOKENS        pipeline(REF)
    _generate_once.py stock STARTED FOLDER CACHE TOKENS    openvino_genai's own pipeline, with CACHE_DIR
    _generate_once.py persist MODEL STORE PRECISION        persist of a transformers folder

STARTED is the system's monotonic clock when the process was started.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

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


def main() -> None:
    """Measure what the arguments say."""
    side, *arguments = sys.argv[1:]
    warnings.simplefilter("ignore")
    if side == "persist":
        from _persist_once import peak_memory
        from transformers import AutoModelForCausalLM, AutoTokenizer

        import npu_persist

        folder, store, given = arguments
        precision: Any = given
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        began = time.monotonic()
        bundle = npu_persist.persist(model, "measured", tokenizer=tokenizer, precision=precision, store=store)
        found = {"seconds": time.monotonic() - began, "peak": peak_memory(), "size": bundle.size}
        print(json.dumps({**found, "reference": bundle.reference}))
        return
    started, where, cache, tokens = arguments
    if side == "ours":
        import npu_persist

        pipe = npu_persist.pipeline(where, "CPU", store=cache)
        found = {"from_cache": pipe.report.from_cache}
    else:
        import openvino_genai

        pipe = openvino_genai.LLMPipeline(where, "CPU", CACHE_DIR=cache)
        found = {"from_cache": None}
    print(json.dumps({**found, **generate(pipe, float(started), int(tokens))}))


if __name__ == "__main__":
    main()
