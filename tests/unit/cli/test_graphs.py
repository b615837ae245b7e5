"""Every verb knows the graphs of a bundle that has several."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

import npu_persist
from npu_persist import Store
from tests.support.graphs import GRID
from tests.support.two_graphs import ANSWERS, publish_two

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def bundle() -> Bundle:
    return publish_two(Store())


def test_inspect_shows_each(run: Run) -> None:
    code, out, _ = run("inspect", "two")
    assert code == 0
    for title in ("graph scale", "graph shift", "scale.xml", "shift.golden.safetensors"):
        assert title in out
    manifest = json.loads(run("inspect", "two", "--json")[1])["manifest"]
    assert list(manifest["goldens"]) == ["scale", "shift"]


def test_check_tries_all_or_one(run: Run) -> None:
    code, out, _ = run("check", "two", "--device", "CPU")
    assert code == 0
    assert "two:1 scale on CPU: matches torch" in out
    assert "two:1 shift on CPU: matches torch" in out
    code, out, _ = run("check", "two", "--device", "CPU", "--graph", "shift", "--json")
    assert (code, json.loads(out)["graph"]) == (0, "shift")


def test_check_says_which_is_wrong(run: Run) -> None:
    publish_two(Store(), answers={"shift": ANSWERS["scale"]})
    code, out, err = run("check", "two", "--device", "CPU")
    assert code == 6
    assert "two:2 scale on CPU: matches torch" in out
    assert "two:2 shift on CPU: differs from torch" in out
    assert "--graph" not in err.replace("--graph shift", "")
    code, out, _ = run("check", "two", "--device", "CPU", "--json")
    found = json.loads(out)
    assert (code, found["is_right"]) == (6, False)
    assert [(one["graph"], one["is_right"]) for one in found["graphs"]] == [("scale", True), ("shift", False)]
    assert run("check", "two", "--device", "CPU", "--graph", "scale")[0] == 0


def test_run_takes_one(run: Run, tmp_path: Path) -> None:
    code, _, err = run("run", "two", "--device", "CPU")
    assert code == 2
    assert "two:1 has several graphs: give --graph, one of scale, shift" in err
    saved = tmp_path / "out.npz"
    code, _, err = run("run", "two", "--device", "CPU", "--graph", "shift", "--output", str(saved), "--report")
    assert code == 0
    assert "two:1 shift for CPU" in err
    with np.load(saved) as arrays:
        assert np.array_equal(arrays["y"], ANSWERS["shift"])


def test_bench_measures_all_or_one(run: Run) -> None:
    short = ("--device", "CPU", "--hint", "LATENCY", "--seconds", "0.1")
    code, out, _ = run("bench", "two", *short)
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[1:3]] == [
        ["two:1", "scale", "CPU"],
        ["two:1", "shift", "CPU"],
    ]
    (found,) = npu_persist.bench("two", "CPU", "LATENCY", seconds=0.1, graph="shift", inputs={"x": GRID})
    assert found.case.graph == "shift"
    code, _, err = run("bench", "two", *short, "--graph", "other")
    assert code != 0
    assert "has no graph 'other'; it has scale, shift" in err
    with pytest.raises(npu_persist.errors.UsageError, match="has several graphs, scale, shift"):
        npu_persist.bench("two", "CPU", "LATENCY", seconds=0.1, inputs={"x": GRID})


def test_compile_makes_an_artifact_of_each_that_load_uses(run: Run, bundle: Bundle) -> None:
    code, out, _ = run("compile", "two", "--target", "CPU")
    assert code == 0
    assert "shift" in out
    assert sorted(path.name for path in (bundle.path / "compiled").glob("cpu*")) == ["cpu-scale", "cpu-shift"]
    with npu_persist.load("two", "CPU") as model:
        for name, one in model.graphs.items():
            assert [attempt.source for attempt in one.report.attempts if attempt.is_used] == ["attached"]
            assert np.array_equal(one(GRID), ANSWERS[name])
    attached = json.loads(run("inspect", "two", "--json")[1])["attached"]
    assert {entry["graph"] for entry in attached} == {"scale", "shift"}


def test_compile_takes_one(run: Run, bundle: Bundle) -> None:
    assert run("compile", "two", "--target", "CPU", "--graph", "shift")[0] == 0
    assert [path.name for path in (bundle.path / "compiled").glob("cpu*")] == ["cpu-shift"]
    assert npu_persist.is_compiled("two", "CPU", graph="shift")
    assert not npu_persist.is_compiled("two", "CPU")


def test_compile_wants_to_know_whose_buckets_they_are(run: Run) -> None:
    code, _, err = run("compile", "two", "--target", "CPU", "--bucket", "x=2x3")
    assert code == 2
    assert "say for which one, graph= of scale, shift" in err


def test_diff_names_the_graph(run: Run) -> None:
    publish_two(Store(), answers={"shift": ANSWERS["shift"] + 1})
    code, out, _ = run("diff", "two:1", "two:2", "--json")
    assert code == 1
    fields = {one["field"] for one in json.loads(out)["fields"]}
    assert "files.shift.golden.safetensors" in fields
    assert "files.scale.golden.safetensors" not in fields


def test_diff_compares_the_answers_of_all_graphs(run: Run) -> None:
    publish_two(Store(), factor=2)
    code, out, _ = run("diff", "two:1", "two:2", "--device", "CPU", "--json")
    assert code == 1
    drift = json.loads(out)["drift"]
    assert [(one["output"], one["max_relative"]) for one in drift["outputs"]] == [("scale.y", 1.0), ("shift.y", 0.375)]


def test_verify_reads_both_golden_samples(run: Run, bundle: Bundle) -> None:
    assert run("verify", "two")[0] == 0
    golden = bundle.path / "shift.golden.safetensors"
    golden.chmod(0o644)
    golden.write_bytes(golden.read_bytes()[:-1] + b"x")
    code, _, err = run("verify", "two")
    assert code != 0
    assert "shift.golden.safetensors" in err
