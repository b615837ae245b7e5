"""The journey on the command line: a model made in a file of the user's, persisted, looked at and run."""

from __future__ import annotations

import json
import sys
import textwrap
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import npu_persist
from npu_persist.cli.main import main
from npu_persist.cli.models import make_model
from tests.support.processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

SOURCE = """
    import torch

    class Scale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def forward(self, x, mask=None, *, scale=2.0):
            return {"y": self.layer(x) * scale, "copy": x}

    def seeded():
        torch.manual_seed(0)
        return Scale().eval()

    def trained():
        model = seeded()
        torch.nn.init.ones_(model.layer.weight)
        return model

    def other():
        return torch.nn.Linear(4, 2)

    def bare():
        print("made a model")
        return seeded()

    def with_args():
        return seeded(), (torch.ones(1, 4),)

    def with_kwargs():
        return seeded(), (), {"x": torch.ones(1, 4), "scale": 3.0}

    def raising():
        raise ValueError("no weights here")

    def wrong():
        return seeded(), {"x": torch.ones(1, 4)}

    def too_many():
        return seeded(), (), {}, 4

    def not_a_number():
        model = torch.nn.Linear(4, 2)
        model.weight.data.fill_(float("nan"))
        return model, (torch.ones(1, 4),)

    def branching():
        class Branch(torch.nn.Module):
            def forward(self, x):
                return x + 1 if x.sum() > 0 else x - 1

        return Branch(), (torch.ones(1, 4),)

    class Holder:
        instance = seeded()

    def several():
        import npu_persist
        x = (torch.ones(1, 4),)
        return {"first": npu_persist.Example(seeded(), x), "second": npu_persist.Example(other(), x)}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process, in a folder with the user's models in `user_models.py`."""
    (tmp_path / "user_models.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_models", raising=False)

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def expected(x: np.ndarray[Any, Any], scale: float = 2.0) -> np.ndarray[Any, Any]:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 2)
    result: np.ndarray[Any, Any] = (layer(torch.from_numpy(x)) * scale).detach().numpy()
    return result


def test_persist_and_run(run: Run, tmp_path: Path) -> None:
    code, out, err = run(
        "persist", "user_models:with_args", "--name", "scale", "--alias", "prod", "--metadata", "epoch=12", "--json"
    )
    assert (code, err) == (0, "")
    data = json.loads(out)
    bundle = npu_persist.open("scale:prod")
    assert data["reference"] == "scale:1"
    assert data["digest"] == bundle.digest
    assert bundle.manifest.metadata == {"epoch": "12"}
    assert bundle.graph().precision == "fp16"

    inputs, outputs = tmp_path / "in.npz", tmp_path / "out.npz"
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    np.savez(inputs, x=x)
    code, out, err = run("run", "scale", "--device", "CPU", "--inputs", str(inputs), "--output", str(outputs))
    assert (code, err) == (0, f"saved to {outputs}\n")
    assert [line.split()[0] for line in out.splitlines()] == ["OUTPUT", "y", "copy"]
    with np.load(outputs) as saved:
        assert sorted(saved.files) == ["copy", "y"]
        np.testing.assert_allclose(saved["y"], expected(x), rtol=1e-2, atol=1e-2)
        np.testing.assert_array_equal(saved["copy"], x)


def test_examples_of_several_graphs(run: Run) -> None:
    code, out, err = run("persist", "user_models:several", "--name", "several")
    assert (code, err) == (0, "")
    assert [line.strip() for line in out.splitlines() if line.startswith("  graph ")] == ["graph first", "graph second"]
    code, out, err = run("run", "several", "--device", "CPU", "--graph", "second")
    assert (code, err) == (0, "")
    code, _, err = run("persist", "user_models:several", "--name", "several", "--bucket", "x=1x4")
    assert code == 2
    assert "buckets: pass this to the Example of its graph" in err


def test_persisting_what_is_there_says_so(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    command = "persist", "user_models:with_args", "--name", "scale", "--json"
    assert json.loads(run(*command, "--alias", "prod")[1])["is_new"] is True
    code, out, _ = run(*command, "--alias", "tested")
    data = json.loads(out)
    assert (code, data["reference"], data["is_new"], data["aliases"]) == (0, "scale:1", False, ["prod", "tested"])
    assert "no new version was made; the alias tested points to it. force=True (`--force`) makes one" in caplog.text
    code, out, _ = run(*command, "--force")
    assert (code, json.loads(out)["reference"]) == (0, "scale:2")


def test_run_without_inputs_takes_the_golden_sample(run: Run) -> None:
    assert run("persist", "user_models:with_kwargs", "--name", "scale", "--precision", "fp32")[0] == 0
    code, out, _ = run("run", "scale", "--device", "CPU", "--json")
    assert code == 0
    y, copy = json.loads(out)["outputs"]
    wanted = expected(np.ones((1, 4), np.float32), 3.0)
    assert y["shape"] == [1, 2]
    assert y["dtype"] == "float32"
    assert y["min"] == pytest.approx(wanted.min(), rel=1e-5)
    assert y["max"] == pytest.approx(wanted.max(), rel=1e-5)
    assert y["mean"] == pytest.approx(wanted.mean(), rel=1e-5)
    assert (copy["min"], copy["max"], copy["mean"]) == (1.0, 1.0, 1.0)


def test_random_inputs_are_the_seeds(run: Run) -> None:
    assert run("persist", "user_models:with_args", "--name", "scale", "--no-check")[0] == 0
    assert "not checked" in run("inspect", "scale")[1]
    first, again, other = (
        json.loads(run("run", "scale", "--device", "CPU", "--random", "--seed", seed, "--json")[1])["outputs"]
        for seed in ("1", "1", "2")
    )
    assert first == again
    assert first != other


def test_example_inputs_from_a_file(run: Run, tmp_path: Path) -> None:
    assert run("persist", "user_models:bare", "--name", "scale")[0] == 2
    np.savez(tmp_path / "example.npz", x=np.ones((3, 4), np.float32))
    code, out, err = run("persist", "user_models:bare", "--name", "scale", "--inputs", "example.npz")
    assert code == 0, err
    # What the user's code prints is no data of ours.
    assert "made a model" not in out
    assert "made a model" in err
    assert npu_persist.open("scale").graph().inputs[0].shape == (3, 4)


def test_a_module_can_be_named_itself(run: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "example.npz", x=np.ones((1, 4), np.float32))
    assert run("persist", "user_models:Holder.instance", "--name", "scale", "--inputs", "example.npz")[0] == 0


@pytest.mark.parametrize(
    ("factory", "code", "says"),
    [
        ("user_models:raising", 1, "user_models:raising raised ValueError: no weights here"),
        ("user_models:wrong", 2, "expected args as a tuple; it returned dict"),
        ("user_models:too_many", 2, "(user_models.Scale, (), dict, int)"),
        ("user_models:SOURCE", 2, "has no 'SOURCE'"),
        ("user_models:bare", 2, "example inputs"),
        ("user_models:not_a_number", 6, "NaN"),
    ],
)
def test_bad_models_leave_the_store_as_it_was(run: Run, store_home: Path, factory: str, code: int, says: str) -> None:
    found, out, err = run("persist", factory, "--name", "scale")
    assert (found, out) == (code, "")
    assert says in err
    assert npu_persist.Store().names() == ()
    assert not list(store_home.glob("staging/*"))


@pytest.mark.parametrize("name", ["../up", "a/b", "C:\\x", "nul", ""])
def test_bad_names_are_usage_errors(run: Run, name: str) -> None:
    code, _, err = run("persist", "user_models:with_args", "--name", name)
    assert code == 2
    assert "invalid bundle name" in err


@pytest.mark.filterwarnings("default")
def test_a_frozen_branch_is_a_warning_of_one_line(run: Run) -> None:
    code, _, err = run("persist", "user_models:branching", "--name", "branch")
    assert code == 0
    assert "warning: Branch: " in err
    assert ".py:" not in err.split("warning: Branch: ")[0]


def test_inputs_that_do_not_fit(run: Run, tmp_path: Path) -> None:
    assert run("persist", "user_models:with_args", "--name", "scale")[0] == 0
    np.savez(tmp_path / "in.npz", wrong=np.ones((1, 4), np.float32))
    assert run("run", "scale", "--device", "CPU", "--inputs", "in.npz")[0] == 2
    np.savez(tmp_path / "in.npz", x=np.ones((1, 5), np.float32))
    code, _, err = run("run", "scale", "--device", "CPU", "--inputs", "in.npz")
    assert code == 2
    assert "size 4 on axis 1" in err
    (tmp_path / "in.npz").write_bytes(b"no zip")
    assert run("run", "scale", "--device", "CPU", "--inputs", "in.npz")[0] == 2
    np.savez(tmp_path / "in.npz", x=np.array([object()], dtype=object))
    assert run("run", "scale", "--device", "CPU", "--inputs", "in.npz")[0] == 2


def test_a_device_that_is_not_there_is_3(run: Run) -> None:
    assert run("persist", "user_models:with_args", "--name", "scale")[0] == 0
    code, _, err = run("run", "scale", "--device", "GPU.7")
    assert code == 3
    assert "GPU.7" in err


def test_a_damaged_bundle_is_4_and_is_not_run(run: Run) -> None:
    assert run("persist", "user_models:with_args", "--name", "scale")[0] == 0
    path = npu_persist.open("scale").path / "golden.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert run("run", "scale", "--device", "CPU")[0] == 4


def test_the_current_directory_is_importable_for_a_whole_process(run: Run, tmp_path: Path) -> None:
    del run  # only for the folder with the user's file
    done = run_python(
        "-m", "npu_persist", "persist", "user_models:with_args", "--name", "scale", "--no-check", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("scale:1\n")
    assert done.stderr == ""


def test_arguments_may_be_a_list() -> None:

    module = ModuleType("made_up")
    module.make = lambda: (torch.nn.Identity(), [torch.ones(1)])  # type: ignore[attr-defined]
    sys.modules["made_up"] = module
    try:
        assert isinstance(make_model("made_up:make").args, tuple)
    finally:
        del sys.modules["made_up"]


def test_refresh(run: Run) -> None:
    run("persist", "user_models:with_args", "--name", "scale", "--metadata", "epoch=12")
    code, out, err = run("refresh", "scale", "user_models:trained", "--alias", "prod", "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["reference"] == "scale:2"
    assert npu_persist.open("scale:prod").digest == data["digest"]
    assert npu_persist.open("scale:prod").manifest.metadata == {"epoch": "12"}
    assert run("refresh", "scale", "user_models:trained", "--metadata", "epoch=13", "--no-check")[0] == 0
    assert npu_persist.open("scale").manifest.metadata == {"epoch": "13"}


def test_refresh_with_another_module(run: Run) -> None:
    run("persist", "user_models:with_args", "--name", "scale")
    code, out, err = run("refresh", "scale", "user_models:other")
    assert (code, out) == (1, "")
    assert "the module has no layer.bias, which scale:1 has" in err
