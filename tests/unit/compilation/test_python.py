from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from npu_persist.compilation.process.python import run_module
from npu_persist.compilation.process.supervisor import Limits
from npu_persist.errors import (
    CompilationError,
    CompileMemoryError,
    CompileTimeoutError,
    DeviceNotFoundError,
    FileIntegrityError,
    NpuPersistError,
    StoreError,
)
from tests.support.processes import ENDS, ROOT, end_caller, interruptible, is_alive, wait_for

if TYPE_CHECKING:
    from pathlib import Path

JOBS = """
import os, sys, time
import msgspec
from npu_persist import errors
from npu_persist.compilation.process.python import serve

class Request(msgspec.Struct):
    do: str
    a: int = 0
    b: int = 0
    note: str = ""

def do(request, send):
    if request.do == "add":
        print("noise on stdout")
        os.system("echo noise of a child")
        return {"sum": request.a + request.b, "pid": os.getpid(), "main": __name__}
    if request.do == "send":
        send({"half": request.a})
        send(["done"])
        return {"sum": 0, "pid": 0, "main": ""}
    if request.do == "hang":
        with open(request.note, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    if request.do == "crash":
        print("the last line", file=sys.stderr, flush=True)
        os.abort()
    if request.do == "object":
        return object()
    if request.do == "memory":
        raise MemoryError("too large")
    if request.do == "bug":
        return [][1]
    raise {
        "device": errors.DeviceNotFoundError("no such thing"),
        "file": errors.FileIntegrityError("damaged", path="a.xml", expected="1 byte", got="none"),
        "store": errors.StoreError("full", errno=28),
        "ambiguous": errors.AmbiguousReferenceError("several", matches=("a:1", "b:2")),
        "index": errors.InferenceError("failed"),
    }[request.do]

if __name__ == "__main__":
    serve(do, Request)
"""
MINUTE = Limits(timeout=60)


class Request(msgspec.Struct):
    do: str
    a: int = 0
    b: int = 0
    note: str = ""


class Sum(msgspec.Struct):
    sum: int
    pid: int
    main: str


@pytest.fixture(autouse=True)
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs_of_a_test.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))


def run(do: str, limits: Limits = MINUTE, *, a: int = 0, b: int = 0, note: object = "", **options: Any) -> Sum:
    return run_module("jobs_of_a_test", Request(do, a, b, str(note)), Sum, limits, **options).result


def test_runs_a_module_elsewhere() -> None:
    answer = run("add", a=1, b=2)
    assert answer.sum == 3
    assert answer.pid != os.getpid()
    assert answer.main == "__main__"


def test_messages_come_back_meanwhile() -> None:
    received: list[Any] = []
    run("send", a=5, on_message=received.append)
    assert received == [{"half": 5}, ["done"]]


def test_reports_while_it_works(tmp_path: Path) -> None:
    reported: list[str] = []
    with pytest.raises(CompileTimeoutError):
        run("hang", Limits(timeout=2, report=reported.append), note=tmp_path / "note")
    assert len(reported) >= 2


def test_is_ended_after_the_time(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(CompileTimeoutError, match="limit: 2 s"):
        run("hang", Limits(timeout=2), note=note)
    if note.exists():  # a slow machine may not have come so far
        assert wait_for(lambda: not is_alive(int(note.read_text())))


class TestError:
    def test_is_raised_here(self) -> None:
        with pytest.raises(DeviceNotFoundError, match="no such thing"):
            run("device")

    def test_has_its_attributes(self) -> None:
        with pytest.raises(FileIntegrityError, match="damaged") as damaged:
            run("file")
        assert (damaged.value.path, damaged.value.expected, damaged.value.got) == ("a.xml", "1 byte", "none")
        with pytest.raises(StoreError, match="full") as full:
            run("store")
        assert full.value.errno == 28

    @pytest.mark.parametrize("do", ["ambiguous", "index"])
    def test_of_any_class(self, do: str) -> None:
        with pytest.raises(NpuPersistError, match=r"several|failed"):
            run(do)

    def test_of_too_little_memory(self) -> None:
        with pytest.raises(CompileMemoryError, match="MemoryError: too large"):
            run("memory")

    def test_that_is_a_bug(self) -> None:
        with pytest.raises(CompilationError, match="IndexError: list index out of range"):
            run("bug")

    def test_of_a_crash_has_its_last_output(self) -> None:
        with pytest.raises(CompilationError, match="the last line"):
            run("crash")

    def test_of_a_result_that_json_cannot_hold(self) -> None:
        with pytest.raises(CompilationError, match="object"):
            run("object")


def test_runs_nothing_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    for name in ("json.py", "runpy.py"):
        (tmp_path / "here" / name).write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path / "here")
    assert run("add", a=1, b=2).sum == 3


def test_takes_texts_that_are_not_utf8() -> None:
    name = "\udcff"
    with pytest.raises(CompileTimeoutError):
        run("hang", Limits(timeout=0), note=name)
    assert run("add", a=1, note=name).sum == 1


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_any_time_will_do(timeout: float) -> None:
    assert run("add", Limits(timeout=timeout), a=1, b=2).sum == 3


def test_cancelled(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(CompilationError, match="was cancelled"):
        run("hang", Limits(cancelled=cancelled), note=tmp_path / "note")


def test_a_program_without_an_interpreter_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(CompilationError, match="does not know its Python interpreter"):
        run("add", a=1, b=2)


CALLER = """
{interruptible}
import sys
sys.path.insert(0, {folder!r})
from jobs_of_a_test import Request
from npu_persist.compilation.process.python import run_module
run_module("jobs_of_a_test", Request("hang", note={note!r}), str)
"""


@pytest.mark.parametrize("how", ENDS)
def test_ends_with_its_caller(tmp_path: Path, how: str) -> None:
    note, flag = tmp_path / "note", tmp_path / "flag"
    code = CALLER.format(interruptible=interruptible(flag), folder=str(tmp_path), note=str(note))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as caller:
        assert wait_for(lambda: note.exists() and note.read_text().isdecimal())
        worker = int(note.read_text())
        assert is_alive(worker)
        end_caller(caller, how, flag)
        assert caller.wait(60) != 0
    assert wait_for(lambda: not is_alive(worker))


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere a virtual environment's interpreter is the interpreter")
def test_of_a_virtual_environment_is_not_its_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "Scripts" / "python.exe"))  # there is none
    assert run("add", a=1, b=2).sum == 3
