from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from npu_persist.cli.main import main
from npu_persist.store import Store
from tests.support.graphs import publish_affine
from tests.support.processes import ROOT, poison, run_python
from tests.support.second_device import SECOND, on_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

SHORT = ("--device", "CPU", "--seconds", "0.2", "--interval", "0.05")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `npu-persist bench` in this process; gives its exit code, stdout and stderr."""
    publish_affine(Store())

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = main(["bench", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def test_the_table_is_data_and_the_intervals_are_not(run: Run) -> None:
    code, out, err = run("affine", *SHORT)
    assert code == 0
    table, phases, facts = out.rstrip().split("\n\n")
    header, *rows = table.splitlines()
    assert header.split()[:5] == ["BUNDLE", "DEVICE", "HINT", "REQUESTS", "COUNT"]
    assert "RATIO" not in header
    assert [row.split()[:3] for row in rows] == [["affine:1", "CPU", "LATENCY"], ["affine:1", "CPU", "THROUGHPUT"]]
    assert header.split()[5] == "FPS"
    assert all(float(row.split()[5]) > 0 for row in rows)
    assert "first_inference s" in phases
    assert "affine:1: a frame is one inference of x float32[2, 3] (random)" in facts
    assert "CPU: ran on CPU (" in facts
    assert "openvino 20" in facts
    lines = err.splitlines()
    assert len(lines) >= 4
    assert all(" fps " in line and line.endswith(" ms") for line in lines)
    assert not any("e+" in line for line in lines)  # thousands of frames per second are written out


def test_json_has_what_the_numbers_depend_on(run: Run) -> None:
    code, out, _ = run("affine", *SHORT, "--hint", "LATENCY", "--requests", "2", "--json")
    data = json.loads(out)
    assert code == 0
    assert {"npu_persist", "python", "system", "cpus", "load_average"} <= set(data)
    assert data["seconds"] == 0.2
    (found,) = data["configurations"]
    assert (found["reference"], found["device"], found["hint"], found["requests"]) == ("affine:1", "CPU", "LATENCY", 2)
    assert set(found["latency"]) == {"mean", "median", "p90", "p99", "lowest", "highest"}
    assert found["fps"] == pytest.approx(found["rounds"][0]["inferences"] / found["rounds"][0]["seconds"])
    assert {"first_inference", "load", "phases", "from_cache", "load_memory", "peak_memory"} <= set(found)


def test_a_comparison_has_ratios(run: Run) -> None:
    publish_affine(Store())
    code, out, _ = run("affine:1", "affine:2", *SHORT, "--hint", "LATENCY", "--compare")
    assert code == 0
    header, first, second = out.split("\n\n", maxsplit=1)[0].splitlines()
    assert header.endswith("RATIO")
    assert first.split()[-1] == "1"
    assert " to " in second
    assert "ratio: frames per second to those of affine:1 CPU LATENCY" in out


def test_pictures_are_drawn(run: Run, tmp_path: Path) -> None:
    code, _, err = run(
        "affine", *SHORT, "--hint", "LATENCY", "--plot", str(tmp_path / "a.png"), str(tmp_path / "a.svg")
    )
    assert code == 0
    assert err.endswith(f"charts written to {tmp_path / 'a.png'}, {tmp_path / 'a.svg'}\n")
    svg = (tmp_path / "a.svg").read_text()
    assert "affine:1 on " in svg
    assert "OpenVINO 20" in svg
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_first_inferences(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    code, out, err = run("affine", "--device", "CPU", "--fil", "--runs", "1", "--plot", str(picture))
    assert code == 0
    header, cold, warm = out.split("\n\n", maxsplit=1)[0].splitlines()
    assert "FROM START s" in header
    assert (cold.split()[3], cold.split()[-1]) == ("cold", "no")
    assert (warm.split()[3], warm.split()[-1]) == ("warm", "yes")
    assert [line.split("  ")[:2] for line in err.splitlines()[:2]] == [
        ["affine:1 CPU", "cold"],
        ["affine:1 CPU", "warm"],
    ]
    assert "First output of affine:1 on " in picture.read_text()
    assert "seconds from the start of the process" in picture.read_text()
    data = json.loads(run("affine", "--device", "CPU", "--fil", "--runs", "1", "--json")[1])
    assert [found["cache"] for found in data["configurations"]] == ["cold", "warm"]


def test_first_inferences_of_all_devices_by_default(run: Run) -> None:
    data = json.loads(run("affine", "--fil", "--runs", "1", "--json")[1])
    devices = [found["device"] for found in data["configurations"] if found["cache"] == "cold"]
    assert devices[0] == "AUTO"
    assert "CPU" in devices


def test_auto_with_a_second_device_finds_its_cache_warm(tmp_path: Path) -> None:
    publish_affine(Store())
    auto = f"AUTO:{SECOND},CPU"
    done = run_python(
        "-m", "npu_persist", "bench", "affine", "--fil", "--runs", "1", "--device", auto, SECOND, "--json",
        path=on_path(tmp_path / "second"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {(one["device"], one["cache"]): one for one in json.loads(done.stdout)["configurations"]}
    assert set(found) == {(auto, "cold"), (SECOND, "cold"), (auto, "warm"), (SECOND, "warm")}
    assert [found[auto, "cold"]["from_cache"], found[auto, "warm"]["from_cache"]] == [False, True]
    assert found[SECOND, "warm"]["execution_devices"] == [SECOND]
    assert set(found[auto, "warm"]["execution_devices"]) <= {SECOND, "CPU"}


def test_layers(run: Run) -> None:
    code, out, _ = run("affine", "--device", "CPU", "--profile", "--runs", "2")
    assert code == 0
    title, types, layers, facts = out.rstrip().split("\n\n")
    assert title == "affine:1 CPU"
    assert types.splitlines()[0].split() == ["OPERATION", "LAYERS", "ms", "SHARE"]
    assert layers.splitlines()[0].split() == ["ms", "SHARE", "OPERATION", "RUN", "AS", "LAYER"]
    assert len(layers.splitlines()) > 1
    assert "with the counters on" in facts
    data = json.loads(run("affine", "--device", "CPU", "--profile", "--json")[1])
    (found,) = data["configurations"]
    assert data["runs"] == 20
    assert {"name", "type", "exec_type", "milliseconds", "share"} == set(found["layers"][0])


def test_inputs_and_config_are_passed_on(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.zeros((2, 3), np.float32))
    data = json.loads(
        run("affine", *SHORT, "--hint", "THROUGHPUT", "--inputs", str(path), "--config", "NUM_STREAMS=1", "--json")[1]
    )
    assert data["configurations"][0]["input_source"] == "given"
    assert data["configurations"][0]["requests"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "REF"),
        (("affine", "--seconds", "0"), 2, "seconds: expected a number above 0"),
        (("affine", "--hint", "FAST"), 2, "expected one of LATENCY, THROUGHPUT"),
        (("affine", "--compare", "--fil"), 2, "not allowed with"),
        (("affine", "--fil", "--runs", "-1"), 2, "runs: expected a number above 0"),
        (("affine", "--profile", "--runs", "0"), 2, "runs: expected 1 or more"),
        (("affine", "--fil", "--runs", "0"), 2, "runs: expected a number above 0"),
        (("affine", "--profile", "--plot", "a.png"), 2, "--profile"),
        (("affine", "--plot", "a.gif"), 2, "a.gif: expected a name that ends in .png or .svg"),
        (("affine", "--config", "NUM_STREAMS"), 2, "expected KEY=VALUE"),
        (("affine", "--inputs", "absent.npz"), 3, "no such file"),
        (("absent",), 3, "absent"),
        (("affine", "--device", "TPU", "--seconds", "0.1"), 3, "TPU"),
    ],
)
def test_bad_arguments_end_before_anything_is_measured(
    run: Run, arguments: tuple[str, ...], code: int, text: str
) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert text in err
    assert " fps " not in err


def test_without_matplotlib_nothing_is_measured(run: Run, tmp_path: Path) -> None:
    del run
    # `-S` would hide openvino too: hide one package from the look-up that the check makes.
    hide = (
        "import importlib.util as u, sys; find = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'matplotlib' else find(name, *rest); "
        "from npu_persist.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    poisoned = poison(tmp_path / "poisoned", "openvino")
    done = run_python("-c", hide, "bench", "affine", "--plot", str(tmp_path / "a.png"), path=poisoned)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: --plot needs matplotlib, which is not installed here: python -m pip install 'npu_persist[bench]'\n"
    )


def test_what_was_measured_before_an_error_is_shown(run: Run) -> None:
    code, out, err = run("affine", "--device", "CPU", "TPU", "--hint", "LATENCY", "--seconds", "0.1", "--json")
    assert code == 3
    assert [found["device"] for found in json.loads(out)["configurations"]] == ["CPU"]
    assert "TPU" in err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("flag", [[], ["--compare"]])
def test_ctrl_c_shows_what_was_measured_and_leaves_nothing_running(flag: list[str]) -> None:
    publish_affine(Store())
    # A shell that runs this suite in the background has its children ignore Ctrl-C.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = heed + "from npu_persist.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["bench", "affine", "--device", "CPU", "--seconds", "600", "--interval", "0.05", "--json", *flag]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert " fps " in process.stderr.readline()
        # As the terminal does it: the whole group, of which the workers are no part.
        process.send_signal(signal.SIGINT)
        # Which waits for the end of stderr: the workers have it too.
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("error: interrupted\n")
    (found,) = json.loads(out)["configurations"]
    assert found["rounds"][0]["inferences"] > 0


def test_every_number_has_three_digits() -> None:
    from npu_persist.cli.output import format_number

    numbers: dict[float, Any] = {
        0.001234: "0.00123",
        12.345: "12.3",
        999.4: "999",
        999.7: "1000",
        1234.5: "1234",
        123456.0: "123456",
    }
    assert {number: format_number(number) for number in numbers} == numbers
    assert [format_number(number, 4) for number in (1234.5, 9999.6, 18612.3)] == ["1234", "10000", "18612"]
