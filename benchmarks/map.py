"""Frames per second of `model.map(...)`, against OpenVINO's benchmark_app, both with PERFORMANCE_HINT=THROUGHPUT.

Each side runs in processes of its own, in turns, on the same bundle. benchmark_app fills its inputs once and looks at
no output; ours takes a new array for each frame from the iterable, and gives a result that is the caller's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from _report import make_parser, median, print_header, print_json, print_table, spread

import npu_persist as npup

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_RATIO = 0.98
MODELS = ("resnet50", "bert", "unet35")


def make(store: str, *, tiny: bool) -> None:
    """Persist the models; runs where torch is."""
    import _models

    for name in MODELS:
        module, args = _models.MODELS[name](tiny=tiny)
        npup.persist(module.eval(), name, args, store=store)


def measure(name: str, store: str, seconds: float) -> dict[str, float]:
    """Map over inputs for some seconds; runs in a process of its own, which never has torch."""
    model = npup.load(name, "CPU", config={"PERFORMANCE_HINT": "THROUGHPUT"}, store=store)
    generator = np.random.default_rng(0)
    frames = [
        tuple(
            generator.standard_normal(port.shape).astype(port.dtype)  # type: ignore[arg-type]
            if port.dtype.startswith("float")
            else generator.integers(0, 2, port.shape).astype(port.dtype)  # type: ignore[arg-type]
            for port in model.inputs
        )
        for _ in range(8)
    ]
    model.warm_up()
    start = time.perf_counter()

    def until_the_end() -> Iterator[tuple[Any, ...]]:
        count = 0
        while time.perf_counter() - start < seconds:
            yield frames[count % len(frames)]
            count += 1

    count = sum(1 for _ in model.map(until_the_end()))
    return {"fps": count / (time.perf_counter() - start)}


def run_ours(name: str, store: str, seconds: float) -> float:
    """Return our frames per second."""
    command = [sys.executable, __file__, "--measure", name, "--store", store, "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["fps"])


def run_stock(name: str, store: str, seconds: float) -> float:
    """Return benchmark_app's frames per second."""
    xml = npup.open(name, store=store).file("model.xml")
    command = [sys.executable, "-c", "from openvino.tools.benchmark.main import main; main()", "-m", os.fspath(xml)]
    command += ["-hint", "throughput", "-d", "CPU", "-t", str(max(round(seconds), 1))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    # Not what it calls throughput: that counts a batch of two as two frames.
    count = re.search(r"Count:\s*([0-9]+) iterations", done.stdout)
    duration = re.search(r"Duration:\s*([0-9.]+) ms", done.stdout)
    assert count, done.stdout
    assert duration, done.stdout
    return 1000 * int(count[1]) / float(duration[1])


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__ or "", runs=5)
    parser.add_argument("--seconds", type=float, default=10, help="how long each run lasts (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="which of them (default: all)")
    parser.add_argument("--store", help="a store that has the models, instead of persisting them")
    parser.add_argument("--make", action="store_true", help="only persist the models into --store")
    parser.add_argument("--measure", metavar="MODEL", help="only measure ours, in this process")
    options = parser.parse_args()
    if options.make:
        make(options.store, tiny=options.smoke)
    elif options.measure:
        print(json.dumps(measure(options.measure, options.store, options.seconds)))
    else:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            if options.store is None:
                command = [sys.executable, __file__, "--make", "--store", folder, *(["--smoke"] * options.smoke)]
                subprocess.run(command, check=True, stdout=sys.stderr)
            _compare(options, options.store or folder)


def _compare(options: Any, store: str) -> None:
    runs, seconds = (1, 1.0) if options.smoke else (options.runs, options.seconds)
    found: dict[str, dict[str, list[float]]] = {}
    for name in options.models:
        sides: dict[str, list[float]] = {"map": [], "benchmark_app": []}
        for run in range(runs):
            for side in ("map", "benchmark_app")[:: 1 if run % 2 else -1]:
                sides[side].append((run_ours if side == "map" else run_stock)(name, store, seconds))
        found[name] = sides
    if options.json:
        print_json(found)
        return
    rows = []
    for name, sides in found.items():
        ratio = median(sides["map"]) / median(sides["benchmark_app"])
        target = f"≥ {MIN_RATIO:.2f}: {'met' if ratio >= MIN_RATIO else 'missed'}"
        rows.append((name, spread(sides["map"]), spread(sides["benchmark_app"]), f"{ratio:.3f}", target))
    print_header(smoke=options.smoke)
    header = ("model", "map, frames/s", "benchmark_app, frames/s", "ratio", "target")
    print_table("Frames per second on the CPU, hint THROUGHPUT: median (lowest to highest)", header, rows)


if __name__ == "__main__":
    main()
