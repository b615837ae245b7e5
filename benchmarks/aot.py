"""Compilation for NPUs that are not here: seconds, peak memory and blob size; what the worker, and a verdict, cost.

Needs the toolchain for wine (`npu-persist toolchain install`); without it nothing can be measured, and it says so. The
sides take turns. "bare" is the host program itself, started by hand with the same request.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _report import make_parser, median, print_header, print_json, print_table, spread, verdict

import npu_persist
from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.compilation.toolchains.wine import BIN, HOST, INSTALL, PREFIX, WineToolchain, wine_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npu_persist.artifact.artifact import Artifact

MODELS = ("resnet50", "bert", "whisper-encoder")
TARGETS = ("NPU:3720", "NPU:4000", "NPU:5010", "NPU:5020")
MAX_OVERHEAD = 1.10
MAX_TWO = 0.60
BIG_BLOB = 400_000_000
MAX_VERDICT_MS = 5.0

Row = dict[str, Any]


def persist(home: Path, models: list[str], *, tiny: bool) -> None:
    """Persist what is not there yet, in a process that this one does not share memory with."""
    for name in models:
        if not (home / "bundles" / name / "1").is_dir():
            command = [sys.executable, str(Path(__file__).with_name("_load_once.py")), "make", "0", str(home), name]
            subprocess.run([*command, "tiny"] if tiny else command, check=True)


def attach(home: Path, name: str, target: str, **options: Any) -> Artifact:
    """Compile one model for one target."""
    (result,) = npu_persist.compile(name, [target], toolchain="wine", store=home, **options)
    if result.artifact is None:
        raise SystemExit(f"{result.label}: nothing came of it")
    return result.artifact


def measure_models(home: Path, models: list[str], targets: list[str]) -> list[Row]:
    """Compile each model for each target, with the weights inside and without."""
    rows = []
    for name in models:
        weights = (home / "bundles" / name / "1" / "weights.safetensors").stat().st_size
        for target in targets:
            row: Row = {"model": name, "target": target, "weights": weights}
            for side, weightless in (("full", False), ("weightless", True)):
                found = attach(home, name, target, weightless=weightless)
                row[side] = {"seconds": found.seconds, "peak_memory": found.peak_memory, "size": found.size}
            rows.append(row)
            print(f"{name} {target} {row['full']['seconds']:.1f} s", file=sys.stderr)
    return rows


def measure_levels(home: Path, models: list[str]) -> list[Row]:
    """Compile each model at each optimization level."""
    rows = []
    for name in models:
        for level in range(3):
            config = {"NPU_COMPILATION_MODE_PARAMS": f"optimization-level={level}"}
            found = attach(home, name, "NPU:4000", weightless=False, config=config)
            rows.append({"model": name, "level": level, "seconds": found.seconds, "size": found.size})
    return rows


def run_bare(folder: Path, bundle: Path) -> float:
    """Start the host program by hand, as little around it as can be; return its seconds."""
    with tempfile.TemporaryDirectory() as work:
        for name, path in (("model.xml", bundle / "model.xml"), ("model.bin", bundle / "model.bin")):
            (Path(work) / name).symlink_to(path)
        fields = ("model=model.xml", "weights=model.bin", "output=model.blob", "property.NPU_PLATFORM=4000")
        began = time.perf_counter()
        process = subprocess.Popen(
            [shutil.which("wine") or "wine", str(folder / BIN / HOST)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=wine_environment(folder / PREFIX),
            cwd=work,
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n".join([*fields, "end", ""]))
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith('{"result"'):
                    elapsed = time.perf_counter() - began
                    process.kill()
                    return elapsed
                if line.startswith('{"failure"'):
                    raise SystemExit(f"{bundle}: {line}")
    raise SystemExit(f"{bundle}: the host program said nothing")


def measure_overhead(home: Path, models: list[str], runs: int) -> list[Row]:
    """Compile by the verb and by the bare host program, by turns."""
    folder = WineToolchain().folder
    rows = []
    for name in models:
        row: Row = {"model": name, "bare": [], "job": [], "verb": []}
        attach(home, name, "NPU:4000", weightless=False)  # both find wine's server running, and the files in memory
        for _ in range(runs):
            row["bare"].append(run_bare(folder, home / "bundles" / name / "1"))
            began = time.perf_counter()
            row["job"].append(attach(home, name, "NPU:4000", weightless=False).seconds)
            row["verb"].append(time.perf_counter() - began)
        rows.append(row)
    return rows


def measure_two(home: Path, models: list[str], runs: int) -> list[Row]:
    """Compile for two targets, one after the other and side by side, by turns."""
    rows = []
    for name in models:
        row: Row = {"model": name, "1": [], "2": []}
        for _ in range(runs):
            for jobs in (1, 2):
                began = time.perf_counter()
                npu_persist.compile(name, TARGETS[:2], toolchain="wine", jobs=jobs, weightless=False, store=home)
                row[str(jobs)].append(time.perf_counter() - began)
        rows.append(row)
    return rows


@contextlib.contextmanager
def big_blob(home: Path, name: str) -> Iterator[Path]:
    """Yield a copy of a bundle, whose blob has a payload of 400 MB."""
    with tempfile.TemporaryDirectory(dir=home) as work:
        attach(home, name, "NPU:4000", weightless=False)
        copy = Path(shutil.copytree(home / "bundles" / name / "1", Path(work) / "bundle"))
        folder = copy / "compiled" / "npu-4000"
        for other in (copy / "compiled").iterdir():
            if other != folder:
                shutil.rmtree(other)
        blob, described = folder / BLOB_FILE, folder / "artifact.json"
        data = blob.read_bytes()
        payload = int.from_bytes(data[-13:-5], "little")
        for path in (blob, described):
            path.chmod(0o644)
        with blob.open("wb") as file:
            file.write(data[:payload])
            file.write(b"\0" * (BIG_BLOB - payload))
            file.write(data[payload:-13] + BIG_BLOB.to_bytes(8, "little") + data[-5:])
        document = json.loads(described.read_bytes())
        document["files"][BLOB_FILE]["size"] = blob.stat().st_size
        described.write_text(json.dumps(document))
        yield copy


def measure_verdict(home: Path, name: str, runs: int) -> list[float]:
    """Return the milliseconds of verdicts on a bundle with a blob of 400 MB."""
    found = []
    with big_blob(home, name) as bundle:
        for _ in range(max(runs, 3)):
            began = time.perf_counter()
            entries = npu_persist.compatibility(bundle, "NPU:4000")
            found.append(1000 * (time.perf_counter() - began))
            assert [entry.verdict.status for entry in entries] == ["unknown"], entries
    return found


def report(found: dict[str, Any]) -> None:
    """Print the tables."""
    rows = [
        [row["model"], row["target"], f"{row['weights'] / 1e6:.1f}"]
        + [
            text
            for side in ("full", "weightless")
            for text in (
                f"{row[side]['seconds']:.1f}",
                f"{(row[side]['peak_memory'] or 0) / 1e6:.0f}",
                f"{row[side]['size'] / 1e6:.1f}",
            )
        ]
        for row in found["models"]
    ]
    sides = [f"{side}: {what}" for side in ("full", "weightless") for what in ("s", "peak MB", "blob MB")]
    print_table("Compilation", ["model", "target", "weights MB", *sides], rows)
    rows = [
        [row["model"], str(row["level"]), f"{row['seconds']:.1f}", f"{row['size'] / 1e6:.1f}"]
        for row in found["levels"]
    ]
    print_table("Optimization levels, NPU:4000", ["model", "level", "s", "blob MB"], rows)
    rows = []
    for row in found["overhead"]:
        ratio, whole = (median(row[side]) / median(row["bare"]) for side in ("job", "verb"))
        times = [spread(row[side], ".2f") for side in ("bare", "job", "verb")]
        rows.append([row["model"], *times, f"{ratio:.2f}", verdict(ratio, MAX_OVERHEAD), f"{whole:.2f}"])
    header = ["model", "bare host, s", "our process, s", "whole verb, s", "process ÷ bare", "target", "verb ÷ bare"]
    print_table("What the worker costs, NPU:4000", header, rows)
    rows = []
    for row in found["two"]:
        ratio = median(row["2"]) / median(row["1"])
        rows.append([row["model"], spread(row["1"]), spread(row["2"]), f"{ratio:.2f}", verdict(ratio, MAX_TWO)])
    print_table("Two targets", ["model", "--jobs 1, s", "--jobs 2, s", "ratio", "target"], rows)
    times = found["verdict"]
    cells = [spread(times, ".2f"), verdict(median(times), MAX_VERDICT_MS, ".0f")]
    print_table("Verdict on a blob of 400 MB", ["ms", "target"], [cells])


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__ or "", runs=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of `_models.py`")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--home", type=Path, help="a store that keeps the bundles for the next time")
    arguments = parser.parse_args()
    state = WineToolchain().examine()
    if not state.usable:
        raise SystemExit(f"no toolchain for wine: {state.reason}. Run: {state.advice or INSTALL}")
    models = ["bert"] if arguments.smoke else arguments.models
    targets = ["NPU:4000"] if arguments.smoke else arguments.targets
    runs = 1 if arguments.smoke else arguments.runs
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        persist(home, models, tiny=arguments.smoke)
        found = {
            "models": measure_models(home, models, targets),
            "levels": measure_levels(home, models),
            "overhead": measure_overhead(home, models, runs),
            "two": measure_two(home, models, runs),
            "verdict": measure_verdict(home, models[0], runs),
        }
    if arguments.json:
        print_json(found)
        return
    print_header(smoke=arguments.smoke)
    report(found)


if __name__ == "__main__":
    main()
