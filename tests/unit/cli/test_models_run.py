from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from npu_persist import Store
from npu_persist.cli.main import main
from npu_persist.device import core
from tests.support.graphs import publish_affine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command on a store with a bundle."""
    publish_affine(Store(tmp_path / "home"))

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--random", "--store", str(tmp_path / "home")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def test_the_report_is_in_the_json(run: Run) -> None:
    reports = []
    for _ in range(2):
        code, out, _ = run("run", "affine", "--device", "CPU", "--json")
        assert code == 0
        reports.append(json.loads(out)["report"])
    assert [report["from_cache"] for report in reports] == [False, True]
    assert reports[0]["execution_devices"] == ["CPU"]


def test_the_report_is_shown_on_demand(run: Run) -> None:
    code, out, err = run("run", "affine", "--device", "CPU", "--report")
    assert code == 0
    assert "OUTPUT" in out
    assert "affine:1 for CPU: compiled for CPU, runs on CPU" in err


def test_it_takes_what_load_takes(run: Run) -> None:
    if any(name.startswith("NPU") for name in core.get_core().available_devices):
        pytest.skip("this machine has an NPU")
    options = ("--hint", "THROUGHPUT", "--verify", "stamp", "--no-cache", "--json")
    code, out, _ = run("run", "affine", "--device", "NPU", "--fallback", "GPU", "CPU", *options)
    report = json.loads(out)["report"]
    assert code == 0
    assert (report["device"], report["loaded_device"], report["verification"]) == ("NPU", "CPU", "stamp")
    assert [attempt["device"] for attempt in report["attempts"]] == ["NPU", "GPU", "CPU"]


def test_a_compilation_that_takes_too_long_is_1(run: Run) -> None:
    code, _, err = run("run", "affine", "--device", "CPU", "--compile-timeout", "0.001")
    assert code == 1
    assert "compile_timeout=0.001" in err


def test_a_device_that_is_not_there_is_3(run: Run) -> None:
    assert run("run", "affine", "--device", "NPU.77")[0] == 3
