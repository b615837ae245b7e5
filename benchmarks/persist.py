"""Time, memory and size of `persist` against `ov.convert_model` + `ov.save_model`.

Each measurement has a process of its own, the sides take turns, and what is timed is the call: the model is built and
the packages are imported before. The table of whole processes shows what that leaves out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from _report import make_parser, median, print_header, print_json, print_table, spread, verdict

SIDES = ("unchecked", "stock", "checked")
DEFAULT_MODELS = ("unet35", "bert", "resnet50", "whisper-encoder")
MAX_RATIO = 0.65
MAX_RATIO_CHECKED = 1.0
MAX_SIZE = 1.01
AIM_MEMORY = 1.5
AIM_FROM_GB = 1.0
"""Smaller models tell nothing: the interpreter with torch and openvino takes half a gigabyte itself."""
BYTES_IN_MEMORY = 4
BYTES_ON_DISK = 2
"""Parameters are float32 in torch and float16 in the bundle."""

Measurements = dict[str, dict[str, list[dict[str, Any]]]]


def measure_once(side: str, model: str, *, tiny: bool) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("_persist_once.py")), side, model]
    started = time.perf_counter()
    done = subprocess.run([*command, "--tiny"] if tiny else command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} {model} failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    measured["process"] = time.perf_counter() - started
    return measured


def measure(models: list[str], runs: int, *, tiny: bool) -> Measurements:
    """Run every side of every model, by turns, the first side another one each time."""
    found: Measurements = defaultdict(lambda: defaultdict(list))
    for model in models:
        for run in range(runs):
            turn = run % len(SIDES)
            for side in SIDES[turn:] + SIDES[:turn]:
                found[model][side].append(measure_once(side, model, tiny=tiny))
                print(f"{model} {side} {found[model][side][-1]['seconds']:.1f} s", file=sys.stderr)
    return found


def middle(found: Measurements, model: str, side: str, key: str) -> float:
    """Return the median of one figure."""
    return median([measured[key] for measured in found[model][side]])


def report_time(found: Measurements) -> None:
    """Print how long the calls and the whole processes took."""
    calls, processes = [], []
    for model, sides in found.items():
        seconds = {side: [measured["seconds"] for measured in sides[side]] for side in SIDES}
        stock = median(seconds["stock"])
        fast, checked = median(seconds["unchecked"]) / stock, median(seconds["checked"]) / stock
        row = [model, spread(seconds["stock"]), spread(seconds["unchecked"]), f"{fast:.2f}", verdict(fast, MAX_RATIO)]
        calls.append([*row, spread(seconds["checked"]), f"{checked:.2f}", verdict(checked, MAX_RATIO_CHECKED)])
        whole = [middle(found, model, side, "process") for side in ("stock", "unchecked", "checked")]
        processes.append([model, *(f"{figure:.1f}" for figure in whole)])
    header = ("model", "stock, s", "without check, s", "ratio", "target", "with check, s", "ratio", "target")
    print_table("Time of the call, median (lowest to highest)", header, calls)
    print_table("Whole process, s", ("model", "stock", "without check", "with check"), processes)


def report_memory(found: Measurements) -> None:
    """Print the peaks, where the system tells them."""
    rows = []
    for model, sides in found.items():
        if sides["stock"][0]["peak"] is None:
            continue
        parameters = middle(found, model, "stock", "parameters") * BYTES_IN_MEMORY / 1e9
        built = middle(found, model, "stock", "peak_built") / 1e9
        stock, fast, checked = (middle(found, model, side, "peak") / 1e9 for side in ("stock", "unchecked", "checked"))
        target = verdict(fast, stock)
        if parameters >= AIM_FROM_GB:
            target += f"; aim {verdict(fast, AIM_MEMORY * parameters)}"
        figures = [f"{figure:.2f}" for figure in (parameters, built, stock, fast)]
        rows.append([model, *figures, target, f"{checked:.2f}"])
    header = ("model", "parameters", "model built", "stock", "without check", "target", "with check")
    print_table("Peak resident memory of the process, GB", header, rows)


def report_size(found: Measurements) -> None:
    """Print how much larger than its weights a bundle is, and how much of that is the golden sample."""
    rows = []
    for model, sides in found.items():
        weights = sides["stock"][0]["parameters"] * BYTES_ON_DISK
        stock, ours = sides["stock"][0]["sizes"], sides["checked"][0]["sizes"]
        bundle, golden = sum(ours.values()), sum(size for name, size in ours.items() if name.startswith("golden"))
        figures = [f"{figure / 1e6:.2f}" for figure in (weights, bundle, golden)]
        ratios = [f"{bundle / weights:.4f}", verdict(bundle / weights, MAX_SIZE), f"{(bundle - golden) / weights:.4f}"]
        rows.append([model, *figures, *ratios, f"{sum(stock.values()) / weights:.4f}"])
    header = ("model", "parameters in fp16, MB", "bundle, MB", "of it golden sample, MB", "ratio", "target")
    print_table("Size on disk", (*header, "ratio without golden sample", "stock's ratio"), rows)


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__ or "", runs=5)
    parser.add_argument(
        "--model", action="append", choices=(*DEFAULT_MODELS, "sd15"), help="may be given several times"
    )
    options = parser.parse_args()
    models = options.model or list(DEFAULT_MODELS)
    found = measure(models, 1 if options.smoke else options.runs, tiny=options.smoke)
    if options.json:
        print_json(found)
    else:
        print_header(smoke=options.smoke)
        report_time(found)
        report_memory(found)
        report_size(found)


if __name__ == "__main__":
    main()
