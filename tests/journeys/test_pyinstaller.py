"""A program that PyInstaller freezes without a flag loads, compiles and pulls as it does unfrozen.

The long kind `frozen`, which `.ci/run` runs where torch is not installed: each build takes most of a minute.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import npu_persist
from npu_persist.store import Store
from tests.support import frozen_program
from tests.support.pipelines import make_tokenizer_assets, publish_language_model

if TYPE_CHECKING:
    from tests.support.hub_server import HubServer

pytestmark = pytest.mark.frozen
SCRIPT = Path(frozen_program.__file__)
BUNDLES = Path(__file__).parents[1] / "data" / "bundles" / "1.0"
FRONTENDS = {"libopenvino_ir_frontend", "openvino_ir_frontend"}
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Program:
    """A built program, and what its tests may write to."""

    path: Path
    folder: Path

    @property
    def home(self) -> Path:
        """Its default store."""
        return self.folder / "home"

    def run(self, job: str, reference: object, *, starts: int = 1, env: dict[str, str] | None = None) -> dict[str, Any]:
        """Run a job in a home of its own, and count how often the program's own code started."""
        notes = self.folder / "starts"
        notes.unlink(missing_ok=True)
        done = subprocess.run(
            [self.path, job, str(reference)],
            env={**os.environ, frozen_program.STARTS: str(notes), "NPU_PERSIST_HOME": str(self.home), **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(notes.read_text("ascii").split()) == starts
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed; .ci/run installs it")
    return tmp_path_factory.mktemp("built")


@pytest.fixture(scope="session", params=["one-folder", "one-file"])
def path(request: pytest.FixtureRequest, built: Path) -> Path:
    """The program, built as its user would: `pyinstaller frozen_program.py`."""
    kind = [] if request.param == "one-folder" else ["--onefile"]
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", *kind]
    places = ["--distpath", str(built / request.param), "--workpath", str(built / "work"), "--specpath", str(built)]
    done = subprocess.run([*command, *places, str(SCRIPT)], capture_output=True, text=True, check=False, cwd=built)
    assert done.returncode == 0, done.stderr
    path: Path = built / request.param / SCRIPT.stem
    return (path / SCRIPT.stem if path.is_dir() else path).with_suffix(".exe" if os.name == "nt" else "")


@pytest.fixture
def program(path: Path, tmp_path: Path) -> Program:
    return Program(path, tmp_path)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLES / "affine", tmp_path / "affine")


@pytest.fixture
def answer(bundle: Path) -> list[float]:
    """What the bundle's model says in this process."""
    with npu_persist.load(bundle, "CPU", cache=False) as model:
        return frozen_program.answer(model)


def test_has_what_loading_needs_and_no_more(path: Path) -> None:
    if path.parent.name != SCRIPT.stem:
        pytest.skip("the files of a one-file program are in one file")
    names = {file.name.split(".")[0] for file in path.parent.rglob("*openvino*")}
    assert {name for name in names if name.endswith("_frontend")} <= FRONTENDS
    assert any(name.endswith("_cpu_plugin") for name in names)  # Arm's has another name, and its wheel no NPU
    assert any(name.endswith("_intel_npu_plugin") for name in names) or platform.machine() not in {"x86_64", "AMD64"}
    size = sum(file.stat().st_size for file in path.parent.rglob("*") if not file.is_symlink())
    assert size < 500 * MEGABYTE


def test_loads(program: Program, bundle: Path, answer: list[float]) -> None:
    assert program.run("load", bundle)["answer"] == pytest.approx(answer)


def test_compiles_in_a_process_of_its_own_with_progress(program: Program, bundle: Path, answer: list[float]) -> None:
    found = program.run("limited", bundle)
    assert found["answer"] == pytest.approx(answer)
    assert any(re.fullmatch(r"compile \d+ MB.*", event) for event in found["progress"])


def test_that_process_is_ended_after_the_time(program: Program, bundle: Path) -> None:
    assert program.run("late", bundle)["error"] == "CompileTimeoutError"


def test_compiles_ahead_of_time(program: Program, bundle: Path, answer: list[float]) -> None:
    found = program.run("ahead", bundle)
    assert (found["target"], found["blob"]) == ("CPU", "cpu")
    assert found["answer"] == pytest.approx(answer)


def test_processes_of_multiprocessing_can_do_it_too(program: Program, bundle: Path, answer: list[float]) -> None:
    # Each child of `spawn` and, but on Windows, the process that counts its semaphores are this program, and start its
    # own code.
    found = program.run("children", bundle, starts=3 if os.name == "nt" else 4)
    assert found["same"]
    assert found["answer"] == pytest.approx(answer)


def test_pulls_from_a_hub(program: Program, bundle: Path, answer: list[float], hub: HubServer) -> None:
    # Nobody signed it, so it is tried in a process of its own.
    files = [file for file in bundle.rglob("*") if file.is_file()]
    hub.put("ci/affine", {file.relative_to(bundle).as_posix(): file.read_bytes() for file in files})
    env = {"HF_HOME": str(program.folder / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    found = program.run("load", "hf://ci/affine", env=env)
    assert found["answer"] == pytest.approx(answer)
    assert {event.split(" ")[0] for event in found["progress"]} == {"pull", "compile"}


def test_runs_genais_pipelines(program: Program) -> None:
    pytest.importorskip("openvino_genai", reason="needs the extra genai")
    publish_language_model(Store(program.home), assets=make_tokenizer_assets())
    assert program.run("speak", "speaker")["text"] == "Hello world again\n"


def test_sees_this_machine(program: Program) -> None:
    found = program.run("store", "")
    assert "CPU" in found["devices"]
    assert found["bundles"] == 0


def test_left_over_files_of_a_one_file_program(program: Program, bundle: Path, tmp_path: Path) -> None:
    # What a one-file program unpacks is removed at its end, also where a worker that used it was ended.
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    env = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(unpacked))
    program.run("late", bundle, env=env)
    assert list(unpacked.iterdir()) == []
    assert np.isfinite(program.run("limited", bundle, env=env)["answer"]).all()
    assert list(unpacked.iterdir()) == []
