"""From the start of a process to the first output: `load` against plain OpenVINO, and against torch.

Each measurement has a process of its own and the sides take turns. Warm means that each side's cache was filled by a
process before. "loaded" is the time until the model can be called, "first output" that until its first answer.
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

from _load_once import drop, read_once
from _report import make_parser, median, print_header, print_json, print_table, spread, verdict

SIDES = ("ours", "model", "path", "none")
LABELS = {
    "ours": "load",
    "none": 'load, verify="none"',
    "model": "read_model + CACHE_DIR",
    "path": "path + CACHE_DIR",
    "torch": "torch: build, checkpoint, convert, compile",
}
MODELS = ("one-op", "bert", "unet35", "sd15")
MAX_TO_MODEL = 0.80
MAX_TO_PATH = 0.90
MAX_VERIFICATION = 1.05
MAX_DISK = 0.03
MAX_TO_TORCH = 0.05
TORCH_RUNS = 3
COLD_FACTOR = 1.3

Measurements = dict[str, dict[str, list[dict[str, Any]]]]


def run(side: str, *arguments: str) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("_load_once.py")), side, repr(time.monotonic())]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} {arguments} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    return found


class Bench:
    """One store with the models, and the caches of the other sides beside it."""

    def __init__(self, home: Path, *, tiny: bool) -> None:
        self.home = home
        self.tiny = ["tiny"] if tiny else []

    def make(self, models: list[str]) -> None:
        """Persist what is not there yet."""
        missing = [name for name in models if not self.directory(name).is_dir()]
        if missing:
            run("make", str(self.home), ",".join(missing), *self.tiny)

    def directory(self, name: str) -> Path:
        """Return the folder of a bundle."""
        return self.home / "bundles" / name / "1"

    def once(self, side: str, name: str) -> dict[str, Any]:
        """Measure one side once."""
        if side in {"ours", "none"}:
            return run(side, str(self.home), name)
        if side == "torch":
            return run(side, name, str(self.home / f"{name}.pt"), *self.tiny)
        return run(side, str(self.directory(name)), str(self.cache(side, name)))

    def cache(self, side: str, name: str) -> Path:
        """Return the CACHE_DIR of one of OpenVINO's sides."""
        return self.home / f"cache-{side}-{name}"

    def warm(self, models: list[str], runs: int) -> Measurements:
        """Measure all sides by turns, each with its cache filled."""
        found: Measurements = defaultdict(lambda: defaultdict(list))
        for name in models:
            for side in SIDES:
                self.once(side, name)
            for index in range(runs):
                turn = index % len(SIDES)
                for side in SIDES[turn:] + SIDES[:turn]:
                    measured = self.once(side, name)
                    if not measured["from_cache"]:
                        raise SystemExit(f"{side} {name} did not come from its cache")
                    found[name][side].append(measured)
                    print(f"{name} {side} {measured['loaded']:.2f} {measured['done']:.2f} s", file=sys.stderr)
        return found

    def sizes(self, name: str) -> dict[str, int]:
        """Return the bytes of the weights, of our cache entry and of OpenVINO's cache."""
        digest = json.loads((self.directory(name) / "manifest.json").read_bytes())["files"]["weights.safetensors"]
        ours = 0
        for path in (self.home / "compile-cache").glob("*/artifact.json"):
            if json.loads(path.read_bytes())["name"] == name:
                ours += sum(entry.stat().st_size for entry in path.parent.iterdir())
        stock = sum(entry.stat().st_size for entry in self.cache("path", name).iterdir())
        return {"weights": digest["size"], "ours": ours, "stock": stock}

    def cold(self, name: str, runs: int) -> list[dict[str, float]]:
        """Measure with the weights' pages dropped, beside the time to read the file once."""
        weights = self.directory(name) / "weights.safetensors"
        found = []
        for _ in range(runs):
            read = read_once(weights)
            warm = self.once("ours", name)["loaded"]
            drop(weights)
            found.append({"read": read, "warm": warm, "cold": self.once("ours", name)["loaded"]})
        return found


def seconds(found: Measurements, name: str, side: str, key: str) -> list[float]:
    """Return one figure of all runs."""
    return [measured[key] for measured in found[name][side]]


def report_warm(found: Measurements) -> None:
    """Print times and their ratios."""
    for key, title in (("done", "Process start to first output, warm, s"), ("loaded", "Process start to loaded, s")):
        rows = []
        for name in found:
            times = {side: seconds(found, name, side, key) for side in SIDES}
            ours, by_model, by_path, none = (median(times[side]) for side in SIDES)
            limits = ((by_model, MAX_TO_MODEL), (by_path, MAX_TO_PATH), (none, MAX_VERIFICATION))
            ratios = [f"{ours / other:.2f} ({verdict(ours / other, limit)})" for other, limit in limits]
            rows.append([name, *(spread(times[side], ".2f") for side in SIDES), *ratios])
        header = ["model", *(LABELS[side] for side in SIDES), "÷ read_model", "÷ path", "÷ without verification"]
        print_table(title, header, rows)


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__ or "", runs=9)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["one-op", "bert", "unet35"])
    parser.add_argument("--store", metavar="DIR", help="keep the models there for the next run")
    parser.add_argument("--torch", action="store_true", help="measure torch too: minutes a run")
    options = parser.parse_args()
    runs = 1 if options.smoke else options.runs
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        bench = Bench(Path(options.store or temporary), tiny=options.smoke)
        bench.make(options.models)
        found = bench.warm(options.models, runs)
        sizes = {name: bench.sizes(name) for name in options.models}
        largest = options.models[-1]
        cold = bench.cold(largest, min(runs, TORCH_RUNS)) if sys.platform == "linux" else []
        with_torch = {}
        if options.torch or options.smoke:
            names = [name for name in options.models if name != "one-op"]
            with_torch = {name: [bench.once("torch", name) for _ in range(min(runs, TORCH_RUNS))] for name in names}
    if options.json:
        print_json({"warm": found, "sizes": sizes, "cold": cold, "torch": with_torch})
        return
    print_header(smoke=options.smoke)
    report_warm(found)
    rows = [
        [
            name,
            *(f"{size[key] / 1e6:.2f}" for key in ("weights", "ours", "stock")),
            f"{size['ours'] / size['weights']:.2%}",
        ]
        for name, size in sizes.items()
    ]
    print_table("Compile cache on disk, MB", ("model", "weights", "ours", "OpenVINO's", "ours ÷ weights"), rows)
    rows = []
    for name, measured in with_torch.items():
        ours, other = (median(times) for times in (seconds(found, name, "ours", "done"), [m["done"] for m in measured]))
        rows.append([name, f"{ours:.2f}", f"{other:.1f}", f"{ours / other:.3f}", verdict(ours / other, MAX_TO_TORCH)])
    if rows:
        print_table("Process start to first output, s", ("model", "load", LABELS["torch"], "ratio", "target"), rows)
    if cold:
        read, warm, loaded = (median([run[key] for run in cold]) for key in ("read", "warm", "cold"))
        limit = COLD_FACTOR * read + warm
        row = (
            largest,
            f"{read:.2f}",
            f"{warm:.2f}",
            f"{loaded:.2f}",
            f"{limit:.2f}: {'met' if loaded <= limit else 'missed'}",
        )
        print_table("From a cold page cache, s", ("model", "read once", "warm", "cold", "1.3 x read + warm"), [row])


if __name__ == "__main__":
    main()
