"""Fresh interpreters for tests: what a process imports can only be told from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_persist.compilation.process.supervisor import supervise

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.compilation.process.supervisor import Limits, ProcessResult

ROOT = Path(__file__).parents[2]


def run_python(
    *arguments: str, path: Path | None = None, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter on the package under test.

    Args:
        arguments: As for `python`.
        path: A folder that goes before everything else on the module path.
        env: Changes to the environment.
        cwd: The working directory.
    """
    search = [] if path is None else [str(path)]
    search += [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **(env or {}), "PYTHONPATH": os.pathsep.join(search)}
    return subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, env=environment, cwd=cwd
    )


def start_python(code: str, *args: str | Path) -> subprocess.Popen[str]:
    """Start an interpreter that can import the package and these tests."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process that has to succeed, and return its output."""
    output, _ = process.communicate(timeout=600)  # busy machines take minutes under wine
    assert process.returncode == 0
    return output


def poison(folder: Path, *modules: str) -> Path:
    """Make packages that fail when they are imported, and return the folder to put on the path."""
    for module in modules:
        (folder / module).mkdir(parents=True)
        (folder / module / "__init__.py").write_text(f"raise AssertionError('{module} was imported')\n")
    return folder


def crash(limits: Limits | None) -> ProcessResult[Any]:
    """Supervise a process that crashes."""
    return supervise([sys.executable, "-c", "import os; os.abort()"], b"", limits)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs: on Linux and Windows."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.WinDLL("kernel32")
        may_wait, timed_out = 0x100000, 0x102
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(kernel.OpenProcess(may_wait, 0, pid))
        if not handle:
            return False
        runs = kernel.WaitForSingleObject(handle, 0) == timed_out
        kernel.CloseHandle(handle)
        return bool(runs)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


ENDS = ("interrupt", "terminate", "kill")
"""How `end_caller` can end a process."""


def interruptible(flag: Path) -> str:
    """Return code for a program that `end_caller` is going to interrupt: by a file where there are no signals."""
    if sys.platform == "win32":
        return (
            "import _thread, os, threading, time\n"
            "def interrupt_when_told():\n"
            f"    while not os.path.exists({str(flag)!r}): time.sleep(0.02)\n"
            "    while True:  # Python ignores one that comes in a finalizer\n"
            "        _thread.interrupt_main()\n"
            "        time.sleep(5)\n"
            "threading.Thread(target=interrupt_when_told, daemon=True).start()\n"
        )
    # A shell's background job ignores it.
    return "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


def end_caller(process: subprocess.Popen[Any], how: str, flag: Path) -> None:
    """End a process that runs code of `interruptible` as Ctrl-C, a polite or an impolite kill does."""
    if how == "interrupt" and sys.platform == "win32":
        flag.touch()
    elif how == "interrupt":
        process.send_signal(signal.SIGINT)
    elif how == "terminate":
        process.terminate()
    else:
        process.kill()


def wait_for(condition: Callable[[], bool]) -> bool:
    """Wait a minute for a condition; tell whether it came true."""
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
