"""`npu-persist compile`: a table of what came of each, whatever became of the others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from npu_persist.cli.main import main
from tests.support.decoders import publish_llama
from tests.support.graphs import publish_affine, publish_dynamic

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist import Store

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(store: Store, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `compile` on a store with bundles."""
    publish_affine(store)
    publish_dynamic(store)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = main(["compile", *arguments, "--store", str(store.home)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def test_it_attaches_and_shows_a_line_for_each(run: Run, store: Store) -> None:
    code, out, err = run("affine", "--target", "CPU", "--config", "NUM_STREAMS=2")
    assert (code, err) == (0, "")
    header, line = out.splitlines()
    assert header.split() == ["TARGET", "GRAPH", "SIZES", "SIZE", "TIME", "MEMORY", "WEIGHTS", "RESULT"]
    assert line.split()[:3] == ["CPU", "main", "-"]
    (folder,) = (path.parent for path in store.resolve("affine").path.glob("compiled/*/artifact.json"))
    assert line.split()[-1] == folder.name


def test_json_has_what_the_artifact_has(run: Run, store: Store) -> None:
    code, out, _ = run("affine", "--target", "cpu", "--full", "--json", "--memory-limit", "8G", "--timeout", "600")
    assert code == 0
    (result,) = json.loads(out)
    place = store.resolve("affine").path / "compiled" / "cpu"
    artifact = json.loads((place / "artifact.json").read_bytes())
    assert result["path"] == str(place)
    assert result["problem"] is None
    for name in ("target", "weightless", "toolchain", "requirements", "peak_memory"):
        assert result[name] == artifact[name]
    assert result["weightless"] is False


def test_buckets_are_written_as_shapes(run: Run) -> None:
    buckets = ("--bucket", "x=2x4,y=2x3", "--bucket", "x=4x4,y=4x3")
    code, out, _ = run("dynamic", "--target", "CPU", *buckets, "--jobs", "2", "--json")
    assert code == 0
    assert [result["shapes"] for result in json.loads(out)] == [
        {"x": [2, 4], "y": [2, 3], "z": [5]},
        {"x": [4, 4], "y": [4, 3], "z": [9]},
    ]


def test_lengths_of_a_model_that_generates(run: Run, store: Store) -> None:
    publish_llama(store)
    on_the_cpu = ("--config", "NPUW_DEVICES=CPU", "NPUW_ONLINE_PIPELINE=NONE")
    lengths = ("--max-prompt", "100", "--min-response", "64")
    code, out, err = run("llama", "--target", "NPU", *lengths, *on_the_cpu, "--json")
    assert code == 0, err
    (result,) = json.loads(out)
    assert (result["max_prompt"], result["min_response"], result["notes"]) == (128, 64, [])
    code, out, _ = run("llama", "--target", "NPU", *lengths, *on_the_cpu)
    assert code == 0
    assert "prompt 128, response 64" in out
    code, _, err = run("affine", "--target", "NPU:4000", *lengths)
    assert code == 2
    assert "max_prompt, min_response: expected a graph that generates" in err


def test_of_several_those_that_failed_are_shown_beside_those_that_did_not(run: Run, store: Store) -> None:
    code, out, err = run("affine", "--target", "GPU.7", "--target", "CPU", "--json")
    assert code == 1
    failed, done = json.loads(out)
    assert "GPU.7" in failed["problem"]
    assert failed["path"] is None
    assert done["path"] == str(store.resolve("affine").path / "compiled" / "cpu")
    assert "1 of 2 compilations failed" in err
    assert "FAILED" in run("affine", "--target", "GPU.7", "--target", "CPU")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("affine", "--target", "moon-lake"), 2, "lunar-lake"),
        (("affine",), 2, "--target"),
        (("none", "--target", "CPU"), 3, "none"),
        (("affine", "--target", "GPU.7"), 3, "GPU.7"),
        (("dynamic", "--target", "NPU:4000"), 2, "axis 1 of input y"),
        (("affine", "--target", "CPU", "--bucket", "x:2"), 2, "--bucket: expected"),
        (("affine", "--target", "CPU", "--memory-limit", "lots"), 2, "--memory-limit: expected"),
        (("affine", "--target", "CPU", "--timeout", "0"), 2, "timeout: expected"),
        (("affine", "--target", "CPU", "--timeout", "0.001"), 1, "limit: 0.001 s"),
        (("affine", "--target", "CPU", "--config", "NUM_STREAMS"), 2, "--config: expected"),
        (("affine", "--target", "CPU", "--weightless", "--full"), 2, "not allowed with"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    run: Run, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, out, err = run(*arguments)
    assert found == code
    assert out == ""
    assert message in err
