from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.compilation.process import output, supervisor
from npu_persist.compilation.process.memory import Memory, read_memory
from npu_persist.compilation.process.supervisor import Limits, ProcessResult, supervise
from npu_persist.errors import CompilationError, CompileMemoryError, CompileTimeoutError
from tests.support.processes import ENDS, ROOT, end_caller, interruptible, is_alive, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, groups and forks are those of POSIX")
DONE = "print('{\"result\": 7}', flush=True); sys.stdin.read()"


LIMITS = ("timeout", "memory_limit", "cancelled", "report")
MINUTE = Limits(timeout=60)


def start(code: str, **options: Any) -> ProcessResult[Any]:
    """Supervise Python code, with `Limits` and options of `supervise` by their names."""
    limits = Limits(**{"timeout": 60, **{name: options.pop(name) for name in LIMITS if name in options}})
    return supervise([sys.executable, "-c", f"import os, sys, time\n{code}"], b"go on\n", limits, **options)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    threads = set(threading.enumerate())
    pipes = count_descriptors()
    yield
    assert set(threading.enumerate()) <= threads
    assert count_descriptors() <= pipes  # fewer, where one of an earlier test is collected meanwhile


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0  # noqa: PTH208


class TestAnswer:
    def test_is_the_message_that_ends_the_job(self) -> None:
        answer = start(DONE)
        assert answer.result == 7
        assert answer.seconds > 0
        assert answer.peak_memory is None or answer.peak_memory > 1_000_000

    def test_may_be_a_failure(self) -> None:
        answer = start('print(\'{"failure": {"text": "no"}}\')')
        assert (answer.result, answer.failure) == (None, {"text": "no"})

    def test_comes_from_what_ended_right_after_it(self) -> None:
        for _ in range(5):
            assert start("os.write(1, b'{\"result\": 1}\\n'); os._exit(3)").result == 1

    def test_of_a_request(self) -> None:
        request = b"x" * 3_000_000 + b"\n"
        code = "import sys; print('{\"result\": %d}' % len(sys.stdin.readline()), flush=True); sys.stdin.read()"
        assert supervise([sys.executable, "-c", code], request, MINUTE).result == len(request)

    def test_of_a_process_that_does_not_read(self) -> None:
        assert supervise([sys.executable, "-c", "print('{\"result\": 1}')"], b"x" * 3_000_000, MINUTE).result == 1

    def test_is_the_first(self) -> None:
        assert start('print(\'{"result": 1}\\n{"result": 2}\', flush=True); sys.stdin.read()').result == 1

    def test_has_its_environment_and_folder(self, tmp_path: Path) -> None:
        answer = start(
            "import json; print(json.dumps({'result': [os.environ['OF_THE_TEST'], os.getcwd()]}), flush=True)",
            env={**os.environ, "OF_THE_TEST": "é"},
            cwd=str(tmp_path),
        )
        assert answer.result == ["é", os.path.realpath(tmp_path)]


class TestLog:
    def test_is_what_is_no_message(self) -> None:
        answer = start(
            "print('plain'); print('{\"other\": 1}'); print('{broken'); print('[1]', flush=True)\n"
            "sys.stderr.write('\\x1b[1;31mred\\x1b[0m \\x1b]0;title\\x07and\\tplain\\n'); sys.stderr.flush()\n" + DONE
        )
        assert sorted(answer.log) == ["[1]", "plain", "red and plain", '{"other": 1}', "{broken"]

    def test_keeps_the_last_lines(self) -> None:
        answer = start("for i in range(20000): print('line', i)\n" + DONE)
        assert answer.log == tuple(f"line {i}" for i in range(20000 - output.LOG_LINES, 20000))

    def test_of_binary_garbage(self) -> None:
        code = (
            "import random\nfor i in range(200): os.write(1, random.Random(i).randbytes(9999)); os.write(2, bytes(99))"
        )
        answer = start(f"{code}\nos.write(1, b'\\n')\n{DONE}")
        assert answer.result == 7
        assert all(line.isprintable() or "\ufffd" in line for line in answer.log)

    def test_of_a_line_without_end(self) -> None:
        code = "for _ in range(40): os.write(1, b'{' * 1000000)\nos.write(1, b'\\n')\n"
        answer = start(code + DONE)
        assert answer.result == 7
        assert max(map(len, answer.log)) <= 500

    def test_of_a_message_that_is_too_long_or_deep(self) -> None:
        deep = "print('{\"result\": ' + '[' * 100000 + ']' * 100000 + '}')"
        long = "print('{\"result\": \"' + 'x' * 2000000 + '\"}')"
        assert start(f"{deep}\n{long}\n{DONE}").result == 7

    def test_is_in_the_error_of_a_crash(self) -> None:
        with pytest.raises(CompilationError, match=r"exit code 3 .* without an answer\. Last output: one \| two"):
            start("sys.stderr.write('one\\n\\x1b[31mtwo\\x1b[0m'); sys.stderr.flush(); os._exit(3)")

    @posix
    def test_names_the_signal(self) -> None:
        with pytest.raises(CompilationError, match=r"signal 9 \(Killed\)"):
            start("os.kill(os.getpid(), 9)")

    def test_of_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CompilationError, match=r"cannot start .*nothing"):
            supervise([str(tmp_path / "nothing")], b"")

    def test_of_a_program_that_closes_its_output(self) -> None:
        with pytest.raises(CompilationError, match="exit code 4"):
            start("os.close(1); os.close(2); time.sleep(0.2); os._exit(4)")


class TestLimits:
    def test_of_time(self) -> None:
        with pytest.raises(CompileTimeoutError, match=r"limit: 3 s\)\. Last output: at work"):
            start("print('at work', flush=True); time.sleep(600)", timeout=3)

    @pytest.mark.parametrize("timeout", [0, -1])
    def test_of_no_time(self, timeout: float) -> None:
        with pytest.raises(CompileTimeoutError):
            start("time.sleep(600)", timeout=timeout)

    @pytest.mark.parametrize("timeout", [None, float("inf"), 1e300])
    def test_of_all_time(self, timeout: float | None) -> None:
        assert start(DONE, timeout=timeout).result == 7

    @pytest.mark.skipif(read_memory(os.getpid()).now is None, reason="this system does not say what a process holds")
    def test_of_memory(self) -> None:
        with pytest.raises(CompileMemoryError, match="more than its limit of 100 MB"):
            start("held = []\nwhile True: held.append(b'x' * 10_000_000); time.sleep(0.01)", memory_limit=100_000_000)
        assert start(DONE, memory_limit=100_000_000).result == 7

    @pytest.mark.skipif(read_memory().peak is None, reason="this system does not say what a process held")
    def test_peak_memory_is_that_of_the_process(self) -> None:
        peak = start("held = b'x' * 200_000_000\ndel held\n" + DONE).peak_memory
        assert peak is None or 200_000_000 < peak < 300_000_000

    def test_of_memory_where_the_system_does_not_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(supervisor, "read_memory", lambda _: Memory(None, None))
        with pytest.raises(CompilationError, match="memory_limit: this system does not say"):
            start(DONE, memory_limit=100_000_000)
        assert start(DONE).peak_memory is None

    def test_cancelled(self) -> None:
        cancelled = threading.Event()
        with pytest.raises(CompilationError, match="was cancelled"):
            start("time.sleep(600)", cancelled=cancelled, report=lambda _: cancelled.set())


class TestReport:
    def test_has_the_memory_and_the_last_line(self) -> None:
        reported: list[str] = []
        start('print(\'{"stage": "compile"}\', flush=True); time.sleep(1.2)\n' + DONE, report=reported.append)
        assert len(reported) >= 3
        found = re.fullmatch(r"(?:(\d+) MB, )?compile", reported[-1])
        assert found is not None
        assert found[1] is None or int(found[1]) > 1

    def test_that_raises_ends_it(self) -> None:
        def refuse(_: str) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            start("time.sleep(600)", report=refuse)


class TestMessages:
    def test_come_in_order_before_the_result(self) -> None:
        received: list[Any] = []
        code = "for i in range(1000): print('{\"message\": [%d, null]}' % i, flush=i % 7 == 0)\n"
        assert start(code + DONE, on_message=received.append).result == 7
        assert received == [[i, None] for i in range(1000)]

    def test_are_dropped_where_nobody_wants_them(self) -> None:
        answer = start("print('{\"message\": 1}', flush=True)\n" + DONE)
        assert (answer.result, answer.log) == (7, ())

    def test_that_are_refused_end_it(self) -> None:
        def refuse(_: object) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            start("print('{\"message\": 1}', flush=True); time.sleep(600)", on_message=refuse)

    def test_of_a_process_that_dies(self) -> None:
        received: list[Any] = []
        with pytest.raises(CompilationError, match="the test's process ended with exit code 3"):
            start("print('{\"message\": 1}', flush=True); os._exit(3)", on_message=received.append, name="the test")
        assert received == [1]


class TestEnd:
    CHILDREN = """
import subprocess
sys.stdin.readline()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open({note!r}, "w") as file: file.write(f"{{os.getpid()}} {{child.pid}}")
"""

    def test_takes_its_children(self, tmp_path: Path) -> None:
        note = tmp_path / "note"
        start(self.CHILDREN.format(note=str(note)) + DONE)
        for pid in map(int, note.read_text().split()):
            assert wait_for(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]

    def test_takes_the_children_of_a_crash(self, tmp_path: Path) -> None:
        note = tmp_path / "note"
        with pytest.raises(CompilationError, match="without an answer"):
            start(self.CHILDREN.format(note=str(note)) + "os.abort()")
        assert wait_for(lambda: not is_alive(int(note.read_text().split()[1])))

    @posix
    def test_leaves_children_that_serve_others(self, tmp_path: Path) -> None:
        note = tmp_path / "note"
        with pytest.raises(CompileTimeoutError):
            start(
                self.CHILDREN.format(note=str(note)) + "time.sleep(600)",
                report=lambda _: wait_for(lambda: note.exists() and len(note.read_text().split()) == 2),
                timeout=0.1,
                shares_children=True,
            )
        process, child = map(int, note.read_text().split())
        assert not is_alive(process)
        assert is_alive(child)
        os.kill(child, signal.SIGTERM)

    @posix
    def test_does_not_wait_for_what_left_the_group(self, tmp_path: Path) -> None:
        # As wine's server does: a session of its own, and this process's pipes still open in it.
        note = tmp_path / "note"
        start(
            f"if os.fork() == 0:\n    os.setsid(); open({str(note)!r}, 'w').write(str(os.getpid()))\n"
            "    time.sleep(600)\n" + f"while not os.path.exists({str(note)!r}): time.sleep(0.01)\n" + DONE
        )
        os.kill(int(note.read_text()), signal.SIGKILL)

    @posix
    def test_where_children_are_reaped_by_the_system(self) -> None:
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            assert start(DONE).result == 7
            with pytest.raises(CompilationError, match="without an answer"):
                start("os._exit(3)")
        finally:
            signal.signal(signal.SIGCHLD, before)

    @posix
    @pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1, 0.3])
    def test_killed_at_any_moment(self, delay: float) -> None:
        def kill_it(_: str) -> None:
            children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
            time.sleep(delay)
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGKILL)

        if not Path("/proc/self/task").is_dir():
            pytest.skip("no /proc to find the process in")
        with pytest.raises(CompilationError, match="signal 9"):
            start("time.sleep(600)", report=kill_it)

    def test_killed_by_somebody_else(self, tmp_path: Path) -> None:
        note = tmp_path / "note"

        def kill_it(_: str) -> None:
            assert wait_for(lambda: note.exists() and len(note.read_text().split()) == 2)
            os.kill(int(note.read_text().split()[0]), signal.SIGTERM)

        with pytest.raises(CompilationError, match=r"signal 15|exit code 15"):
            start(self.CHILDREN.format(note=str(note)) + "time.sleep(600)", report=kill_it)
        assert wait_for(lambda: not is_alive(int(note.read_text().split()[1])))

    @pytest.mark.parametrize("how", ENDS)
    @pytest.mark.parametrize("moment", ["started", "at work"])
    def test_comes_with_that_of_the_caller(self, tmp_path: Path, how: str, moment: str) -> None:
        note, flag = tmp_path / "note", tmp_path / "flag"
        code = (
            f"{interruptible(flag)}"
            "from npu_persist.compilation.process.python import run_module\n"
            f"print('started', flush=True)\nrun_module('a_job', {str(note)!r}, str)\n"
        )
        (tmp_path / "a_job.py").write_text(
            "import os, subprocess, sys, time\nfrom npu_persist.compilation.process.python import serve\n"
            "def hang(note, send):\n"
            "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "    open(note, 'w').write(f'{os.getpid()} {child.pid} ')\n    time.sleep(600)\n"
            "serve(hang, str)\n"
        )
        path = os.pathsep.join([str(ROOT), str(tmp_path)])
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as caller:
            assert caller.stdout is not None
            caller.stdout.readline()
            if moment == "at work":
                assert wait_for(lambda: note.exists() and note.read_text().endswith(" "))
            end_caller(caller, how, flag)
            assert caller.wait(60) != 0
        if moment == "at work":
            for pid in map(int, note.read_text().split()):
                assert wait_for(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


def test_many_at_once() -> None:
    answers: list[Any] = []
    job: Callable[[], None] = lambda: answers.append(start(DONE).result)  # noqa: E731
    threads = [threading.Thread(target=job) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [7] * 8


def test_memory_of_another_process() -> None:
    code = "print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        memory = read_memory(process.pid)
        assert memory.now is None or memory.now > 1_000_000
        process.communicate(b"\n")
    if os.name != "nt":  # Windows remembers it as long as somebody has its handle, and Popen has
        assert read_memory(process.pid).now is None
