"""A language or speech model from process start to text: `pipeline` against OpenVINO GenAI's own on a stock export.

Each measurement has a process of its own, and the sides take turns; both caches were filled by a process before. The
stock export is optimum-cli's where `--optimum PYTHON` names an interpreter that has optimum-intel (it wants an older
transformers), and its time and peak memory stand beside those of `persist`. Without it the stock side reads what
`export` wrote, which shows what `pipeline` itself costs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from _report import make_parser, median, print_header, print_json, print_table, spread

MIN_SPEED, MAX_FIRST, MAX_TIME, MAX_MEMORY = 0.98, 1.0, 0.65, 1.0
TOKENS = 64
STOCK = {"fp16": ["--weight-format", "fp16"], "int8": ["--weight-format", "int8", "--sym"]}
STOCK["int4"] = ["--weight-format", "int4", "--sym", "--ratio", "1.0", "--group-size", "-1"]
EXPORT = """
import json, resource, subprocess, sys, time
began = time.monotonic()
subprocess.run([sys.executable, "-m", "optimum.commands.optimum_cli", *sys.argv[1:]], check=True, stdout=sys.stderr)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"seconds": time.monotonic() - began, "peak": peak}))
"""
"""The whole command: its imports and the loading of the model count, as they do for the user."""

Found = dict[str, list[dict[str, Any]]]


def run(command: list[str]) -> dict[str, Any]:
    """Return the last line of a process's output, which is JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def once(side: str, *arguments: object) -> dict[str, Any]:
    """Measure one side in a process of its own."""
    return run([sys.executable, str(Path(__file__).with_name("_generate_once.py")), side, *map(str, arguments)])


def make_tiny(folder: Path) -> None:
    """Write a tiny random model and its tokenizer as transformers does."""
    import tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["<end>", "?", "What", "is", "the", "capital", "of", "France"])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))  # noqa: S106 (no password)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"eos_token": "<end>", "unk_token": "?", "pad_token": "<end>"}
    PreTrainedTokenizerFast(tokenizer_object=model, **special).save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=8, num_key_value_heads=1, eos_token_id=0, **sizes)).save_pretrained(folder)


def measure(model: Path, precision: str, home: Path, optimum: str | None, turns: tuple[int, int | Path]) -> Found:
    """Return every measurement, by side."""
    import npu_persist

    runs, work = turns
    found: Found = defaultdict(list)
    began = time.monotonic()
    persisted = once("persist", model, home, precision)
    found["persist"].append(persisted | {"process": time.monotonic() - began})
    reference, stock = persisted["reference"], home / "stock"
    if optimum is None:
        npu_persist.export(reference, "genai", stock, store=home)
    else:
        kind = "automatic-speech-recognition" if isinstance(work, Path) else "text-generation"
        task = ["--task", f"{kind}-with-past", *STOCK[precision], str(stock)]
        found["export"].append(run([optimum, "-c", EXPORT, "export", "openvino", "--model", str(model), *task]))
    sides = {"ours": (reference, home), "stock": (stock, home / "stock-cache")}
    for side, (where, cache) in sides.items():
        once(side, time.monotonic(), where, cache, work)  # fills the caches
    for index in range(runs):
        for side in sorted(sides, reverse=bool(index % 2)):
            where, cache = sides[side]
            found[side].append(once(side, time.monotonic(), where, cache, work))
    return found


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__ or "", runs=5)
    parser.add_argument("--model", type=Path, help="a folder as transformers saves it, with its tokenizer")
    parser.add_argument("--speech", type=Path, metavar="WAV", help="a recording, where --model is a Whisper")
    parser.add_argument("--precision", action="append", choices=tuple(STOCK), help="may be given several times")
    parser.add_argument("--optimum", metavar="PYTHON", help="an interpreter that has optimum-intel")
    options = parser.parse_args()
    if options.model is None and not options.smoke:
        parser.error("--model: name a folder with a model and its tokenizer, or use --smoke")
    turns = (1, 4) if options.smoke else (options.runs, options.speech or TOKENS)
    speed = "seconds of audio/s" if options.speech else "tokens/s"
    results: dict[str, Found] = {}
    for precision in options.precision or (["fp16"] if options.smoke else ["fp16", "int4"]):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
            model = options.model or Path(home) / "model"
            if options.model is None:
                make_tiny(model)
            results[precision] = measure(model, precision, Path(home), options.optimum, turns)
    if options.json:
        print_json(results)
        return
    print_header(smoke=options.smoke)
    rows = []
    for precision, found in results.items():
        for key, name, target in (("tokens", speed, MIN_SPEED), ("first", "first text, s", MAX_FIRST)):
            ours, stock = ([one[key] for one in found[side]] for side in ("ours", "stock"))
            ratio = median(ours) / median(stock)
            met = ratio >= target if key == "tokens" else ratio <= target
            sign = "≥" if key == "tokens" else "≤"
            verdict = f"{sign} {target}: {'met' if met else 'missed'}"
            rows.append([precision, name, spread(ours, ".2f"), spread(stock, ".2f"), f"{ratio:.2f}", verdict])
        if "export" in found:
            [persisted], [exported] = found["persist"], found["export"]
            for name, ours, stock, target in (
                ("persist, s", persisted["seconds"], exported["seconds"], MAX_TIME),
                ("persist with imports and loading, s", persisted["process"], exported["seconds"], 0),
                ("persist, peak, GB", persisted["peak"] / 1e9, exported["peak"] / 1e9, MAX_MEMORY),
            ):
                verdict = f"≤ {target}: {'met' if ours <= target * stock else 'missed'}" if target else ""
                rows.append([precision, name, f"{ours:.1f}", f"{stock:.1f}", f"{ours / stock:.2f}", verdict])
    print_table("Language or speech model", ("precision", "what", "ours", "stock", "ratio", "target"), rows)


if __name__ == "__main__":
    main()
