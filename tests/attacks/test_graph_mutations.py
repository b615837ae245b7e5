"""Somebody changes a graph at random: types, attributes, shapes, edges, ports, offsets, layers; the digests are right.

Each changed graph is read, compiled and, where its sizes are fixed, called on the CPU in a process of its own, which
must survive. Before the check of the whole graph 0.13 % of such graphs ended the process.

`NPU_PERSIST_FUZZ=10000 pytest -n 0 tests/attacks/test_graph_mutations.py` tries more of them. `tests.support.campaign`
tries them in bundles, too, and on the whole way that a pulled bundle takes: in a process of its own, then in another.
"""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import openvino as ov
import pytest
from openvino import opset13 as ops

from npu_persist.bundle.graph import check_graph
from npu_persist.errors import GraphIntegrityError
from tests.support.graphs import WEIGHTS, XML, write_graph
from tests.support.mutations import layers_of, mutate
from tests.support.operations import make_operations
from tests.support.processes import start_python

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

COUNT = int(os.environ.get("NPU_PERSIST_FUZZ", "200"))

_TRY = """
import sys
from pathlib import Path
import numpy as np
import openvino as ov
from npu_persist.compilation.graph_shapes import check_shapes
from npu_persist.compilation.index_guards import guard_graph
from npu_persist.errors import GraphIntegrityError
core = ov.Core()
core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})
for line in sys.stdin:
    graph, weights = line.split()
    try:
        model = core.read_model(graph, weights)
        check_shapes("mutated", model)
        guard_graph(model)
        compiled = core.compile_model(model, "CPU")
        if not model.is_dynamic():
            inputs = [np.zeros(list(port.shape), port.get_element_type().to_dtype()) for port in compiled.inputs]
            compiled.create_infer_request().infer(inputs)
    except (RuntimeError, GraphIntegrityError):
        pass
    print("survived", flush=True)
"""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders with the graph and the weights of each operation that a bundle may hold."""
    folder = tmp_path_factory.mktemp("seeds")
    found = []
    for name, inputs, node in make_operations():
        results = [ops.result(output) for output in (node if isinstance(node, list) else [node])]
        sinks = [one for one in inputs if one.get_type_name() == "Assign"]
        parameters = [one for one in inputs if one.get_type_name() == "Parameter"]
        (folder / name).mkdir()
        write_graph(folder / name, ov.Model(results, sinks, parameters, "main"), [], [])
        found.append(folder / name)
    return found


def test_no_mutation_ends_the_process(seeds: list[Path], tmp_path: Path) -> None:
    texts = [(folder / XML).read_text() for folder in seeds]
    pool = [layer for text in texts for layer in layers_of(text) if layer[0] not in {"Const", "Parameter", "Result"}]
    died, passed = [], 0
    process = start_python(_TRY)
    for seed in range(COUNT):
        which = random.Random(seed).randrange(len(seeds))  # noqa: S311
        folder = tmp_path / str(seed)  # Windows replaces no file that the process maps
        folder.mkdir()
        shutil.copy(seeds[which] / WEIGHTS, folder)
        (folder / XML).write_text(mutate(texts[which], pool, seed))
        try:
            check_graph(folder / XML, folder / WEIGHTS)
        except GraphIntegrityError:
            continue
        passed += 1
        if not _survives(process, folder):
            process.wait()
            died.append((seed, seeds[which].name, process.returncode))
            process = start_python(_TRY)
    assert _ends_well(process)
    assert not died
    assert passed > COUNT // 10, "the check refuses everything, or the mutations are no longer of the graphs' kind"


def _survives(process: subprocess.Popen[str], folder: Path) -> bool:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{folder / XML} {folder / WEIGHTS}\n")
    process.stdin.flush()
    return process.stdout.readline() == "survived\n"


def _ends_well(process: subprocess.Popen[str]) -> bool:
    process.communicate(timeout=120)
    return process.returncode == 0
