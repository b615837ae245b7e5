"""Frozen programs, without a freezer: a script that takes itself for its interpreter, as a frozen program does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.process import frozen
from npu_persist.compilation.process.frozen import freeze_support, is_frozen, make_command
from npu_persist.compilation.toolchains.wine import wine_environment
from npu_persist.errors import CompilationError
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

AFFINE = ROOT / "tests" / "data" / "bundles" / "1.0" / "affine"
PROGRAM = """#!{python}
import sys
sys.frozen, sys.executable = True, __file__
sys.path.insert(0, {root!r})
import npu_persist
{call}
print("own code", *sys.argv[1:], flush=True)
with npu_persist.load({bundle!r}, "CPU", compile_timeout=60, store={store!r}) as model:
    print(model.report.device)
"""


def write_program(folder: Path, call: str) -> Path:
    program = folder / "program.py"
    bundle = shutil.copytree(AFFINE, folder / "affine")
    program.write_text(
        PROGRAM.format(
            python=sys.executable, root=str(ROOT), call=call, bundle=str(bundle), store=str(folder / "store")
        )
    )
    program.chmod(0o755)
    return program


def run(program: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=120, check=False, env=os.environ)


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program on Windows")
class TestProgram:
    def test_starts_itself_for_its_work(self, tmp_path: Path) -> None:
        done = run(write_program(tmp_path, "npu_persist.freeze_support()"))
        assert (done.stdout.splitlines(), done.returncode) == (["own code", "CPU"], 0), done.stderr

    def test_without_the_call_is_not_started_again(self, tmp_path: Path) -> None:
        done = run(write_program(tmp_path, ""))
        assert done.stdout == "own code\n"
        assert "CompilationError" in done.stderr
        assert "freeze_support" in done.stderr

    @pytest.mark.parametrize(
        "args",
        [
            ("--npu-persist-worker",),
            ("--npu-persist-worker", "this"),
            ("--npu-persist-worker", "npu_persist.runtime.fill_cache", "more"),
            ("other", "npu_persist.runtime.fill_cache"),
        ],
    )
    def test_arguments_of_its_own_stay_so(self, tmp_path: Path, args: tuple[str, ...]) -> None:
        done = run(write_program(tmp_path, "npu_persist.freeze_support()"), *args)
        assert done.stdout.splitlines() == [f"own code {' '.join(args)}", "CPU"], done.stderr


def test_is_nothing_to_a_program_that_is_not_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--npu-persist-worker", "npu_persist.runtime.fill_cache"])
    freeze_support()
    assert not is_frozen()


@pytest.mark.parametrize("before", [None, "/opt/lib"])
def test_wine_does_not_get_its_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str | None) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/program/_internal")
    assert wine_environment(tmp_path)["LD_LIBRARY_PATH"] == "/program/_internal"
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    if before is not None:
        monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", before)
    assert wine_environment(tmp_path).get("LD_LIBRARY_PATH") == before


@pytest.mark.parametrize("freezer", ["PyInstaller", "Nuitka"])
def test_says_what_a_frozen_program_lacks(monkeypatch: pytest.MonkeyPatch, freezer: str) -> None:
    if freezer == "Nuitka":
        monkeypatch.setattr(frozen, "__compiled__", object(), raising=False)
    else:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert is_frozen()
    with pytest.raises(CompilationError, match=r"freeze_support\(\).*first in the program"):
        make_command("npu_persist.runtime.fill_cache", "the compilation")
