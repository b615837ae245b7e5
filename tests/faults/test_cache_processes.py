"""The compile cache among many processes at once.

`NPU_PERSIST_STRESS=50x20` lets 50 processes make 20 rounds each, in place of the few that every run of the tests makes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from npu_persist.cache import CompileCache
from npu_persist.store import Store
from tests.support.artifacts import KEY
from tests.support.graphs import publish_affine

ROOT = Path(__file__).parents[2]
PROCESSES, ROUNDS = map(int, os.environ.get("NPU_PERSIST_STRESS", "6x6").split("x"))


def python(code: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start an interpreter that can import the package and these tests."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> str:
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return output


USE = """
import json, os, random, sys, time
from pathlib import Path
from npu_persist.artifact.artifact import BLOB_FILE, check_files
from npu_persist.cache import CompileCache
from npu_persist.errors import ArtifactError
from tests.support.artifacts import BLOB, KEY, fill

home, rounds, pruning = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "pruning"
cache = CompileCache(home)
chance = random.Random(os.getpid())
made, used, pruned, damaged = 0, 0, 0, 0

def use(entry):
    with_hold = entry.mark_in_use()
    try:
        check_files(entry.path, entry.artifact)
        data = (entry.path / BLOB_FILE).read_bytes()
    except (ArtifactError, FileNotFoundError):
        return None  # pruned between the look and the hold
    assert data == BLOB
    return with_hold

def compile_it():
    global made
    marker = home / "compiling"
    try:
        marker.mkdir()
    except FileExistsError:
        print("two at once", file=sys.stderr)
        raise
    time.sleep(0.02)
    with cache.stage() as staging:
        entry = cache.publish(fill(staging), staging)
    marker.rmdir()
    made += 1
    return entry

def load():
    while True:
        entry = cache.find(KEY)
        if entry is None:
            with cache.claim(KEY, 600):
                entry = cache.find(KEY) or compile_it()
        held = use(entry)
        if held is not None:
            return held

print("ready", flush=True)
sys.stdin.readline()
for turn in range(rounds):
    held = load()
    used += 1
    time.sleep(chance.random() * 0.01)
    held.release()
    if pruning:
        pruned += len([one for one in cache.prune(max_size=0) if one.reason == "not in use"])
        damaged += len([one for one in cache.entries() if one.problem])
    else:
        cache.prune()
print(json.dumps({"made": made, "used": used, "pruned": pruned, "damaged": damaged}))
"""
"""Loads as `npu_persist.load` does, with a compilation that only writes; two at once fail."""


def run_all(code: str, *arguments: str | Path) -> Counter[str]:
    """Run as many processes at once as the stress asks for, and add up what they tell."""
    processes = [python(code, *arguments) for _ in range(PROCESSES)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    total: Counter[str] = Counter()
    for process in processes:
        told: dict[str, Any] = json.loads(finish(process, timeout=3600))
        total.update(told)
    print(PROCESSES, "processes,", ROUNDS, "rounds:", dict(total))  # noqa: T201 (seen with -s: the benchmark's numbers)
    return total


def test_many_processes_compile_once(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    total = run_all(USE, tmp_path / "home", str(ROUNDS), "keeping")
    assert total == {"made": 1, "used": PROCESSES * ROUNDS, "pruned": 0, "damaged": 0}


def test_many_processes_load_and_prune_and_none_is_hindered(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    total = run_all(USE, tmp_path / "home", str(ROUNDS), "pruning")
    cache = CompileCache(tmp_path / "home")
    left = len(cache.entries())
    assert total["used"] == PROCESSES * ROUNDS
    assert total["damaged"] == 0
    assert total["made"] == total["pruned"] + left
    cache.prune(max_size=0)
    assert [path.name for path in cache.path.rglob("*") if path.is_file()] == []
    assert cache.find(KEY) is None


LOAD = """
import json, sys
import numpy as np
import npu_persist
from npu_persist.cache import CompileCache
from npu_persist.store import Store

home, rounds, pruning = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "pruning"
cache = CompileCache(Store(home).home)
x = np.ones((2, 3), np.float32)
told = {"compiled": 0, "used": 0, "notes": 0, "pruned": 0}
expected = None
print("ready", flush=True)
sys.stdin.readline()
for turn in range(rounds):
    model = npu_persist.load("affine", "CPU", store=home)
    told["compiled"] += not model.report.from_cache
    told["notes"] += len(model.report.notes)
    answer = np.asarray(model.infer({"x": x})[0])
    expected = answer if expected is None else expected
    assert np.array_equal(answer, expected)
    told["used"] += 1
    del model
    removed = cache.prune(max_size=0) if pruning else cache.prune()
    told["pruned"] += len([one for one in removed if one.reason == "not in use"])
print(json.dumps(told))
"""


@pytest.mark.parametrize("how", ["keeping", "pruning"])
def test_many_processes_load_prune_and_compile_one_bundle(tmp_path: Path, how: str) -> None:
    publish_affine(Store(tmp_path / "home"))
    total = run_all(LOAD, tmp_path / "home", str(ROUNDS), how)
    cache = CompileCache(tmp_path / "home")
    assert total["used"] == PROCESSES * ROUNDS
    assert total["notes"] == 0
    if how == "keeping":
        assert total["compiled"] == 1
    assert total["compiled"] == total["pruned"] + len(cache.entries())
    assert all(error is None for _, error in cache.verify())
