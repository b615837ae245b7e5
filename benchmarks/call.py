"""What `model(x)` costs beside the inference: against OpenVINO's own `compiled_model(x)`, for models of one operation.

Both sides run in one process, which never has torch, call by call in turns, on the same compiled model.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from _report import make_parser, median, print_header, print_json, print_table, verdict

import npu_persist as npup

MAX_RATIO = 0.9
WARM_UP = 200

CASES = {
    "one tensor": "one tensor in, one out, (1, 16)",
    "by name": "three tensors by keyword, a dict out, (1, 16) each",
    "image": "one picture in, one out, (1, 3, 224, 224)",
}
"""Name → what is called. The target is for the first."""


def make(store: str) -> None:
    """Persist the models; runs where torch is."""
    import torch

    class Add(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    class AddByName(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sum": a + b + c}

    row = torch.zeros(1, 16)
    npup.persist(Add(), "one-tensor", (row,), store=store)
    npup.persist(AddByName(), "by-name", kwargs={"a": row, "b": row, "c": row}, store=store)
    npup.persist(Add(), "image", (torch.zeros(1, 3, 224, 224),), store=store)


def measure(name: str, store: str, calls: int) -> dict[str, list[int]]:
    """Return nanoseconds of every call, of both sides."""
    model = npup.load(name.replace(" ", "-"), device="CPU", store=store)
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(port.shape).astype(port.dtype) for port in model.inputs]  # type: ignore[arg-type]
    keywords: dict[str, Any] = {port.name: array for port, array in zip(model.inputs, arrays, strict=True)}
    compiled, clock = model.compiled, time.perf_counter_ns
    found: dict[str, list[int]] = {"model": [], "compiled_model": []}
    for index in range(calls + WARM_UP):
        start = clock()
        if name == "by name":
            model(**keywords)
        else:
            model(arrays[0])
        between = clock()
        compiled(keywords) if name == "by name" else compiled(arrays[0])
        end = clock()
        if index >= WARM_UP:
            found["model"].append(between - start)
            found["compiled_model"].append(end - between)
    return found


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__ or "", runs=20_000)
    parser.add_argument("--make", metavar="STORE", help="only persist the models into a store")
    options = parser.parse_args()
    if options.make:
        make(options.make)
        return
    calls = 200 if options.smoke else options.runs
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as store:
        subprocess.run([sys.executable, __file__, "--make", store], check=True)
        found = {name: measure(name, store, calls if name != "image" else max(calls // 10, 1)) for name in CASES}
    if options.json:
        print_json(found)
        return
    rows = []
    for name, what in CASES.items():
        ours, stock = (median(found[name][side]) / 1000 for side in ("model", "compiled_model"))
        target = verdict(ours / stock, MAX_RATIO) if name == "one tensor" else ""
        rows.append((what, f"{ours:.1f}", f"{stock:.1f}", f"{ours / stock:.2f}", target))
    print_header(smoke=options.smoke)
    header = ("call", "model(x), µs", "compiled_model(x), µs", "ratio", "target")
    print_table("Time per call, median", header, rows)


if __name__ == "__main__":
    main()
