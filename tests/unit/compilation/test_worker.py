from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.process import BEAT, CompileProgress
from npu_persist.compilation.worker import run
from npu_persist.errors import CompilationError, CompileTimeoutError, DeviceNotFoundError
from tests.support.processes import ROOT, is_alive, wait_for

if TYPE_CHECKING:
    from pathlib import Path

JOBS = """
import os, sys, time
from npu_persist.errors import DeviceNotFoundError

def add(*, a, b):
    print("noise on stdout")
    os.system("echo noise of a child")
    return {"sum": a + b, "pid": os.getpid()}

def hang(*, note):
    with open(note, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

def crash():
    print("the last words", file=sys.stderr, flush=True)
    os.abort()

def refuse():
    raise DeviceNotFoundError("no such thing")
"""


@pytest.fixture(autouse=True)
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs_of_a_test.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_calls_a_function_elsewhere() -> None:
    answer = run("jobs_of_a_test:add", {"a": 1, "b": 2}, timeout=60)
    assert answer["sum"] == 3
    assert answer["pid"] != os.getpid()


def test_its_heart_beats(tmp_path: Path) -> None:
    beats: list[CompileProgress] = []
    with pytest.raises(CompileTimeoutError):
        run("jobs_of_a_test:hang", {"note": str(tmp_path / "note")}, timeout=4 * BEAT, progress=beats.append)
    assert [beat.elapsed for beat in beats] == sorted(beat.elapsed for beat in beats)
    assert len(beats) >= 2
    assert beats[-1].memory is None or beats[-1].memory > 1_000_000


def test_is_ended_after_the_time(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(CompileTimeoutError, match="compile_timeout=2"):
        run("jobs_of_a_test:hang", {"note": str(note)}, timeout=2)
    if note.exists():  # a slow machine may not have come so far
        assert wait_for(lambda: not is_alive(int(note.read_text())))


def test_its_exception_is_raised_here() -> None:
    with pytest.raises(DeviceNotFoundError, match="no such thing"):
        run("jobs_of_a_test:refuse", {}, timeout=60)


def test_a_crash_is_an_error_with_its_last_words() -> None:
    with pytest.raises(CompilationError, match="the last words"):
        run("jobs_of_a_test:crash", {}, timeout=60)


def test_runs_nothing_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path / "here")
    assert run("jobs_of_a_test:add", {"a": 1, "b": 2}, timeout=60)["sum"] == 3


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_any_time_will_do(timeout: float) -> None:
    assert run("jobs_of_a_test:add", {"a": 1, "b": 2}, timeout=timeout)["sum"] == 3


def test_a_program_without_an_interpreter_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(CompilationError, match="needs a Python interpreter"):
        run("jobs_of_a_test:add", {"a": 1, "b": 2}, timeout=60)


CALLER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job has not
sys.path.insert(0, {folder!r})
from npu_persist.compilation.worker import run
run("jobs_of_a_test:hang", {{"note": {note!r}}}, timeout=600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_ends_with_its_caller(tmp_path: Path, number: int) -> None:
    note = tmp_path / "note"
    with subprocess.Popen(
        [sys.executable, "-c", CALLER.format(folder=str(tmp_path), note=str(note))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    ) as caller:
        assert wait_for(lambda: note.exists() and note.read_text().isdecimal())
        worker = int(note.read_text())
        assert is_alive(worker)
        caller.send_signal(number)
        assert caller.wait(60) != 0
    assert wait_for(lambda: not is_alive(worker))
