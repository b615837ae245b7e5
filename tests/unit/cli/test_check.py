"""`npu-persist check`: the verdict is its exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from npu_persist import Store
from npu_persist.bundle.golden_records import Tolerance
from npu_persist.cli.main import main
from tests.support.graphs import PRODUCT_INPUT, PRODUCT_WEIGHT, publish_affine, publish_product
from tests.support.second_device import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

OFF = (PRODUCT_INPUT @ PRODUCT_WEIGHT * 1.01).astype(np.float32)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `check` on a store with product:1, which is right, and product:2, which is 1 % off."""
    store = Store(tmp_path / "home")
    publish_product(store, precision="fp32", tolerance=Tolerance(0.001, 0.99999))
    publish_product(store, precision="fp32", tolerance=Tolerance(0.001, 0.99999), output=OFF)
    publish_affine(store)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = main(["check", *arguments, "--store", str(store.home)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def test_right_is_0(run: Run) -> None:
    code, out, err = run("product:1", "--device", "CPU")
    assert (code, err) == (0, "")
    first, where, allowed, *rest = out.splitlines()
    assert first == "product:1 on CPU: matches torch"
    assert where.startswith("  runs on CPU in f32; from its graph, loaded in ")
    assert allowed == "  allowed: 0.001 of an output's scale, cosine 0.99999 and above, the tolerance of persist"
    assert " ".join(rest[2].split()) == "OUTPUT TYPE MAX ABSOLUTE MAX RELATIVE AT PERSIST COSINE VERDICT"
    assert rest[3].split()[:3] == ["y", "float32[4,", "64]"]
    assert rest[3].endswith("  right")
    assert "from the compile cache" in run("product:1", "--device", "CPU")[1]


def test_wrong_is_6(run: Run) -> None:
    code, out, _ = run("product:2", "--device", "CPU")
    assert code == 6
    assert out.startswith("product:2 on CPU: differs from torch\n")
    assert out.rstrip().endswith("WRONG")


def test_wrong_on_another_device_says_how_to_tell(run: Run, second_device: object) -> None:
    assert second_device is not None
    code, _, err = run("product:2", "--device", SECOND)
    assert code == 6
    assert "to tell the device from the bundle: npu-persist check product:2 --device CPU" in err


def test_wrong_in_another_precision_says_how_to_do_without(run: Run) -> None:
    code, _, err = run("product:2", "--device", "CPU", "--config", "INFERENCE_PRECISION_HINT=dynamic")
    assert code == 6
    assert "without dynamic: add --config INFERENCE_PRECISION_HINT=f32" in err


def test_the_tolerance_can_be_given(run: Run) -> None:
    assert run("product:2", "--device", "CPU", "--tolerance", "0.02")[0] == 0


def test_as_json(run: Run) -> None:
    code, out, _ = run("product:2", "--device", "CPU", "--json", "--config", "INFERENCE_PRECISION_HINT=bf16")
    found = json.loads(out)
    assert code == 6
    assert (found["is_right"], found["tolerance"]["max_relative"], found["tolerance_source"]) == (
        False,
        0.001,
        "manifest",
    )
    (output,) = found["runs"][0]["outputs"]
    assert output["difference"]["max_relative"] == pytest.approx(0.01, rel=0.1)
    assert found["report"]["execution_devices"] == ["CPU"]


def test_it_takes_what_load_takes(run: Run) -> None:
    options = ("--hint", "THROUGHPUT", "--verify", "stamp", "--no-cache", "--json")
    report = json.loads(run("product:1", "--device", "CPU", *options)[1])["report"]
    assert report["verification"] == "stamp"
    assert [attempt["source"] for attempt in report["attempts"]] == ["graph"]


def test_other_failures_are_told_apart(run: Run) -> None:
    assert run("affine", "--device", "CPU")[0] == 2
    assert run("product", "--device", "NPU.77")[0] == 3
    assert run("missing", "--device", "CPU")[0] == 3
