"""`npu-persist history` and `npu-persist diff`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace
from openvino import opset13 as ops

from npu_persist.bundle.golden_records import Evaluation, Metric
from npu_persist.bundle.graph_records import Port
from npu_persist.store import Store
from tests.support.bundles import WEIGHTS, publish_tiny, tiny_manifest, write_tiny
from tests.support.graphs import constant, make_model, parameter, publish_affine, publish_graph
from tests.support.loads import spoil

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    Run = Callable[..., tuple[int, str, str]]


def test_history_is_a_line_a_version(run: Run) -> None:
    store = Store()
    publish_tiny(store, alias="prod")
    publish_tiny(store, weights=WEIGHTS[:-1] + b"x")
    code, out, err = run("history", "tiny")
    assert code == 0
    header, first, second = out.splitlines()
    assert header.split() == ["REFERENCE", "CREATED", "SIZE", "ADDED", "LOSS", "PRECISION", "CHANGED", "ALIASES"]
    assert first.split()[0] == "tiny:1"
    assert first.split()[-4:] == ["0.0004", "fp16", "first", "prod"]
    assert second.split()[-3:] == ["0.0004", "fp16", "weights"]
    assert err.endswith("on disk; files shared by versions are counted once\n")


def test_metrics_are_shown_by_history_inspect_and_diff(run: Run) -> None:
    store = Store()
    for value in (0.5, 0.25):
        manifest = tiny_manifest()
        assert manifest.golden is not None
        evaluation = Evaluation(3, (), (Metric("accuracy", 0.75, value),))
        changed = replace(manifest, golden=replace(manifest.golden, evaluation=evaluation))
        with store.stage() as staging:
            write_tiny(staging)
            (staging / "manifest.json").write_bytes(changed.to_json())
            store.publish(staging)
    lines = [line.split() for line in run("history", "tiny")[1].splitlines()]
    assert lines[-3:] == [
        ["REFERENCE", "METRIC", "TORCH", "MODEL"], ["tiny:1", "accuracy", "0.75", "0.5"],
        ["tiny:2", "accuracy", "0.75", "0.25"],
    ]  # fmt: skip
    assert ["accuracy", "0.75", "0.25"] in [line.split() for line in run("inspect", "tiny:2")[1].splitlines()]
    code, out, _ = run("diff", "tiny:1", "tiny:2", "--no-run")
    assert code == 1
    assert "metrics.accuracy" in out


def test_history_as_json(run: Run) -> None:
    publish_tiny(Store(), alias="prod")
    (entry,) = json.loads(run("history", "tiny", "--json")[1])
    assert (entry["reference"], entry["aliases"], entry["changed"]) == ("tiny:1", ["prod"], "first")
    assert entry["size"] == entry["added"] > len(WEIGHTS)
    assert entry["differences"][0]["max_relative"] == 0.0004


def test_history_warns_of_damage_and_misses_what_is_not_there(run: Run) -> None:
    store = Store()
    spoil(publish_tiny(store).path / "manifest.json")
    code, out, err = run("history", "tiny")
    assert code == 0
    assert out.splitlines()[1].split()[-3:] == ["-", "?", "first"]
    assert "warning: tiny:1 is damaged" in err
    assert run("history", "absent")[0] == 3


def publish_steps(store: Store, count: int = 2) -> None:
    """Publish `x -> x * weight` with a golden sample, several times, the weight another one each time."""
    port = Port("x", "float32", (1, 3))
    for step in range(1, count + 1):
        x = parameter(port)
        y = ops.multiply(x, constant([step] * 3))
        sample = {"input.x": np.ones((1, 3), np.float32), "output.y": np.full((1, 3), step, np.float32)}
        publish_graph(
            store, make_model([x], [("y", y)]), [port], [Port("y", "float32", (1, 3))], name="steps", sample=sample
        )


def test_diff_shows_fields_tensors_and_answers(run: Run) -> None:
    publish_steps(Store())
    code, out, err = run("diff", "steps:1", "steps:2", "--device", "CPU")
    assert (code, err) == (1, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert re.fullmatch(r"3 fields differ, \d+ do not", lines[0])
    assert lines[2] == "FIELD steps:1 steps:2"
    assert lines[3].startswith("files.golden.safetensors ")
    assert "1 tensors differ, 0 do not" in lines
    assert lines[lines.index("TENSOR CHANGE steps:1 steps:2") + 1] == "constant.0 1 F32[3] F32[3]"
    assert lines[-3] == "results of steps:2 on CPU for the golden inputs of steps:1, compared with torch's"
    assert lines[-2:] == ["OUTPUT MAX ABSOLUTE MAX RELATIVE COSINE", "y 1 1 1"]


def test_diff_of_the_same_is_0(run: Run) -> None:
    publish_tiny(Store())
    publish_tiny(Store(), "other")
    code, out, err = run("diff", "tiny", "other")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"tiny:1 and other:1 are the same: 1 tensors, \d+ fields\n", out)


def test_diff_as_json(run: Run) -> None:
    publish_steps(Store())
    code, out, _ = run("diff", "steps:1", "steps:2", "--device", "CPU", "--json")
    data = json.loads(out)
    assert (code, data["is_same"], data["first"]) == (1, False, "steps:1")
    assert data["tensors"][0]["change"] == 1.0
    assert data["drift"]["outputs"][0]["max_relative"] == 1.0


def test_diff_without_running_says_nothing_of_answers(run: Run) -> None:
    publish_steps(Store())
    code, out, err = run("diff", "steps:1", "steps:2", "--no-run")
    assert (code, err) == (1, "")
    assert "answers" not in out


def test_diff_says_why_it_did_not_run(run: Run) -> None:
    publish_steps(Store())
    publish_affine(Store())
    code, out, err = run("diff", "affine", "steps", "--device", "CPU")
    assert code == 1
    assert err == "results were not compared: affine:1 has no golden sample\n"
    assert "call of affine:1: (x: float32[2, 3]) -> float32[2, 3]\n" in out
    assert "call of steps:2: (x: float32[1, 3]) -> float32[1, 3]\n" in out


def test_diff_lists_the_largest_changes_and_all_on_request(run: Run) -> None:
    port = Port("x", "float32", (1,))
    for factor in (1.0, 1.5):
        x = node = parameter(port)
        for number in range(1, 25):
            node = ops.add(node, constant([number * (factor if number % 2 else 1 + factor / number)]))
        model = make_model([x], [("y", node)])
        publish_graph(Store(), model, [port], [Port("y", "float32", (1,))], name="many")
    out = run("diff", "many:1", "many:2", "--no-run")[1]
    assert "24 tensors differ, 0 do not\n" in out
    assert out.endswith("and 4 more; --all shows them\n")
    everything = run("diff", "many:1", "many:2", "--no-run", "--all")[1]
    changes = [float(line.split()[1]) for line in everything.splitlines() if line.startswith("constant.")]
    assert changes == sorted(changes, reverse=True)
    assert len(changes) == 24


def test_diff_shows_which_warns(run: Run) -> None:
    store = Store()
    publish_tiny(store)
    with store.stage() as staging:
        write_tiny(staging)
        manifest = replace(tiny_manifest(), warnings=("a branch\nwas frozen",), metadata={"note": "x" * 100})
        (staging / "manifest.json").write_bytes(manifest.to_json())
        store.publish(staging)
    code, out, _ = run("diff", "tiny:1", "tiny:2", "--no-run")
    assert code == 1
    assert "only tiny:1 warns: a branch was frozen\nonly tiny:2 warns: a branch\\nwas frozen\n" in out
    assert f"{'x' * 48}...\n" in out
    assert max(map(len, out.splitlines())) < 120


def test_an_error_of_diff_is_never_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_steps(Store())
    assert run("diff", "steps:1")[0] == 2
    assert run("diff", "steps:1", "steps:9")[0] == 3
    assert run("diff", "steps:1", "hf://org/absent")[0] == 2  # a HubError, which is 1 elsewhere
    spoil(Store().resolve("steps:2").path / "weights.safetensors")
    assert run("diff", "steps:1", "steps:2", "--no-run")[0] == 4

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("npu_persist.diff", fail)
    code, _, err = run("diff", "steps:1", "steps:2")
    assert code == 2
    assert "error: RuntimeError: a mistake of ours" in err
