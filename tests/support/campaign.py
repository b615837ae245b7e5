"""Many random changes of graphs on the way that a pulled bundle takes: `python -m tests.support.campaign FOLDER COUNT`.

The graphs are those of each operation, the frozen bundles, and all bundles that are anywhere in FOLDER. What passes the
check is read, compiled and called in a first process, whose death is an error for the caller and no more. What that one
survives a second process imports and calls, with the same inputs and with worse ones: it stands for the caller's own.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from npu_persist.bundle.graph import check_graph
from npu_persist.bundle.weights import read_header
from npu_persist.compilation.graph_shapes import check_shapes
from npu_persist.compilation.index_guards import guard_graph
from npu_persist.compilation.trial import call_with
from npu_persist.errors import GraphIntegrityError
from tests.support.graphs import GOLDEN, WEIGHTS, XML, write_graph
from tests.support.mutations import layers_of, mutate
from tests.support.operations import make_operations
from tests.support.processes import ROOT

SECONDS = 10.0
"""How long one graph may take in one process: what takes longer is ended, and counted."""
PORTS = "ports.json"
FROZEN = ROOT / "tests" / "data" / "bundles"


class Seed:
    """A graph to change: its text, and what its layers are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = (folder / XML).read_text()
        self.ports = describe(ov.Core().read_model(folder / XML, folder / WEIGHTS))
        self.layers = [one for one in layers_of(self.text) if one[0] not in {"Const", "Parameter", "Result"}]


def write_operations(folder: Path) -> None:
    """Write the graph and the weights of each operation that a bundle may hold."""
    for name, inputs, node in make_operations():
        results = [ops.result(output) for output in (node if isinstance(node, list) else [node])]
        sinks = [one for one in inputs if one.get_type_name() == "Assign"]
        parameters = [one for one in inputs if one.get_type_name() == "Parameter"]
        (folder / name).mkdir(parents=True)
        write_graph(folder / name, ov.Model(results, sinks, parameters, "main"), [], [])


def describe(model: ov.Model) -> list[str]:
    """Return what the inputs and outputs are: the manifest says the same, and its digests alone are repaired."""
    return [f"{port.get_element_type()}{port.get_partial_shape()}" for port in (*model.inputs, *model.outputs)]


class Worker:
    """One of the two processes; a new one is started when it dies."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.process: subprocess.Popen[bytes] | None = None
        self.tried = 0

    def run(self, folder: Path) -> tuple[str, str]:
        """Return how far a graph came, and what ended it: "", an error's type, a signal or "time"."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.campaign", "--worker", self.role],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{folder}\n".encode())
        process.stdin.flush()
        stage, deadline, said = "start", time.monotonic() + SECONDS, b""
        while True:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(process.stdout.fileno(), 4096) if ready else b""
            said += more
            *lines, said = said.split(b"\n")
            for line in lines:
                word, _, end = line.decode().partition(" ")
                if word == "done":
                    self.tried += 1
                    if self.tried % 1000 == 0:
                        self.end()
                    return stage, end
                stage = word
            if not more:
                process.kill()
                process.wait()
                self.process = None
                return stage, f"signal {-process.returncode}" if ready else "time"

    def end(self) -> None:
        if self.process is not None:
            self.process.communicate()
            self.process = None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("count", nargs="?", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--deaths", type=Path, help="folder to keep the graphs in that ended a process")
    parser.add_argument("--worker")
    options = parser.parse_args()
    if options.worker:
        serve(options.worker)
        return
    with tempfile.TemporaryDirectory() as place:
        run(Path(place), options)


def run(place: Path, options: Any) -> None:
    makes = Changes(place, options.folder)
    counts: collections.Counter[str] = collections.Counter()
    workers = {"first": Worker("first"), "second": Worker("second")}
    folder, began = place / "changed", time.monotonic()
    for number in range(options.first, options.first + options.count):
        if counts["tried"] % 1000 == 0:
            say(json.dumps({"seconds": round(time.monotonic() - began), **counts}))
        seed = makes.make(number, folder)
        counts["tried"] += 1
        try:
            check_graph(folder / XML, folder / WEIGHTS)
        except GraphIntegrityError:
            continue
        counts["passed the check"] += 1
        for role, worker in workers.items():
            stage, end = worker.run(folder)
            counts[f"{role}: {stage} {end}".strip()] += 1
            if end.startswith(("signal", "time")):
                name = f"{number}-{role}-{stage}-{end.replace(' ', '')}-{seed.folder.name}"
                say(name)
                if options.deaths:
                    shutil.copytree(folder, options.deaths / name, dirs_exist_ok=True)
            if end:
                break
    for worker in workers.values():
        worker.end()
    say(json.dumps({"seconds": round(time.monotonic() - began), **counts}))


class Changes:
    """Makes the changed graph of each number."""

    def __init__(self, place: Path, folder: Path) -> None:
        write_operations(place / "operations")
        self.operations = [Seed(path.parent) for path in sorted((place / "operations").rglob(XML))]
        self.bundles = [Seed(path.parent) for path in (*sorted(FROZEN.rglob(XML)), *sorted(folder.rglob(XML)))]
        self.pool = [layer for seed in (*self.operations, *self.bundles) for layer in seed.layers]

    def make(self, number: int, folder: Path) -> Seed:
        """Write the graph of a number, and return what it was."""
        chance = random.Random(number)  # noqa: S311
        seed = chance.choice(self.operations if chance.random() < 0.5 else self.bundles)
        pool = self.pool if chance.random() < 0.8 else seed.layers or self.pool
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in (WEIGHTS, GOLDEN):
            if (seed.folder / name).exists():
                shutil.copyfile(seed.folder / name, folder / name)
        (folder / XML).write_text(mutate(seed.text, pool, number))
        # Every other manifest is repaired, too, but for open axes.
        (folder / PORTS).write_text(json.dumps({"ports": seed.ports, "exact": bool(number % 2)}))
        return seed


def serve(role: str) -> None:
    """Take folders from stdin, and say how far each comes."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})
    step = try_first if role == "first" else try_second
    for line in sys.stdin:
        try:
            step(core, Path(line.strip()))
        except (RuntimeError, GraphIntegrityError, MemoryError, ValueError, TypeError) as error:
            say(f"done {type(error).__name__}")
        else:
            say("done")


def try_first(core: ov.Core, folder: Path) -> None:
    model = core.read_model(folder / XML, folder / WEIGHTS)
    say("read")
    check_shapes("changed", model)
    guard_graph(model)
    check_ports(model, **json.loads((folder / PORTS).read_text()))
    say("checked")
    compiled = core.compile_model(model, "CPU", {"CACHE_MODE": "OPTIMIZE_SIZE"})
    say("compiled")
    (folder / "model.blob").write_bytes(compiled.export_model().getbuffer())
    say("exported")
    call_with("changed", model, compiled, make_inputs(compiled, folder, 0))
    say("called")


def check_ports(model: ov.Model, ports: list[str], *, exact: bool) -> None:
    found = describe(model)
    if len(found) != len(ports):
        raise GraphIntegrityError("other ports")
    for place, (wanted, got) in enumerate(zip(ports, found, strict=True)):
        if place < len(model.inputs) and wanted != got and (exact or not {"?", ".."}.isdisjoint(got)):
            raise GraphIntegrityError("another input")


def try_second(core: ov.Core, folder: Path) -> None:
    blob = np.fromfile(folder / "model.blob", np.uint8)
    compiled = core.import_model(
        ov.Tensor(blob, shared_memory=True),
        "CPU",
        {"CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": str(folder / WEIGHTS)},
    )
    say("imported")
    for kind in range(4):
        call(compiled, folder, kind)
        say(f"called-{kind}")


def call(compiled: ov.CompiledModel, folder: Path, kind: int) -> None:
    request, inputs = compiled.create_infer_request(), make_inputs(compiled, folder, kind)
    request.infer(inputs)
    if _has_state(request):  # which the next call uses
        request.infer(inputs)
        request.reset_state()
        request.infer(inputs)


def _has_state(request: ov.InferRequest) -> bool:
    try:
        return bool(request.query_state())
    except RuntimeError:  # a device that knows of none
        return False


def make_inputs(compiled: ov.CompiledModel, folder: Path, kind: int) -> list[Any]:
    """Return inputs of the sizes of the golden sample, where there is one and an axis is open."""
    sample = read_header(folder / GOLDEN).tensors if (folder / GOLDEN).exists() else {}
    found = []
    for seed, port in enumerate(compiled.inputs):
        shape = [
            axis.get_length() if axis.is_static else max(axis.get_min_length(), 2) for axis in port.get_partial_shape()
        ]
        known = [sample[f"input.{name}"].shape for name in port.get_names() if f"input.{name}" in sample]
        if port.get_partial_shape().is_dynamic and known and len(known[0]) == len(shape):
            shape = list(known[0])
        found.append(make(shape, port.get_element_type().to_dtype(), kind, seed))
    return found


def make(shape: list[int], dtype: Any, kind: int, seed: int) -> Any:
    """Return zeros, usual numbers, very large ones or negative ones."""
    generator = np.random.default_rng(seed)
    if kind == 0 or dtype == np.bool_:
        return np.full(shape, kind % 2, dtype)
    is_float = np.issubdtype(dtype, np.floating)
    if kind == 1:
        return (generator.standard_normal(shape) if is_float else generator.integers(0, 5, shape)).astype(dtype)
    if is_float:
        return np.full(shape, [np.nan, -3.0][kind - 2], dtype)
    info = np.iinfo(dtype)
    if math.prod(shape) == 1:  # how often a loop runs, for one
        return np.full(shape, [7, max(info.min, -5)][kind - 2], dtype)
    return np.full(shape, [min(info.max, 2**31 - 1), max(info.min, -5)][kind - 2], dtype)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
