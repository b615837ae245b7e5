"""Work in a process of its own, with a time limit: what OpenVINO does inside a compilation nothing else can end.

The promise: when `run` returns or raises, the process is gone, whatever it was doing; Ctrl-C ends it too, and so does
the death of the caller. The process finds the same modules as the caller, and runs nothing of the caller's program.

The caller writes two lines to the process's standard input, `sys.path` and the job, and keeps it open; the process
writes a line each time its heart beats and one at the end, all of it JSON:

    {"memory": 104857600}
    {"result": {...}}   or   {"error": "<pickled exception, base64>"}
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from npu_persist.errors import CompilationError, CompileTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BEAT = 0.5
"""Seconds between two beats."""

_START = """\
import sys
sys.path[:] = filter(None, sys.path)
import json
sys.path[:] = json.loads(sys.stdin.readline())
from npu_persist.compilation import worker
worker.main()
"""
"""The working directory, which `-c` puts first, may hold a `json.py` of whoever is there."""

_LOG_LINES = 20


class CompileProgress(NamedTuple):
    """How far a compilation in a process of its own is.

    Attributes:
        elapsed: Seconds since it began.
        memory: Bytes of memory that it holds; None where that cannot be told.
    """

    elapsed: float
    memory: int | None


def run(
    target: str,
    job: dict[str, Any],
    *,
    timeout: float,
    progress: Callable[[CompileProgress], object] | None = None,
) -> Any:
    """Call a function in a process of its own.

    Args:
        target: The function, as `module:name`.
        job: Its keyword arguments: what JSON can hold.
        timeout: Seconds after which the process is ended.
        progress: Called at each beat.

    Returns:
        What the function returned: what JSON can hold.

    Raises:
        CompileTimeoutError: It took longer.
        CompilationError: The process ended without an answer, or cannot be started.
        NpuPersistError: What the function raised.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        raise CompilationError(
            "compile_timeout needs a Python interpreter to run the compilation in, and this program has none beside "
            "itself (it was frozen). Load without compile_timeout, or compile ahead of time"
        )
    began = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 (this interpreter on our own code)
        [sys.executable, "-c", _START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Ctrl-C is for the caller, who ends the process: OpenVINO would not.
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        start_new_session=os.name != "nt",
    )
    said: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(process.stderr, said), daemon=True)
    reader.start()
    deadline = threading.Timer(min(max(timeout, 0), threading.TIMEOUT_MAX), process.kill)
    deadline.daemon = True
    deadline.start()
    try:
        _send(process, json.dumps(sys.path), json.dumps({"target": target, "job": job}))
        for message in _messages(process):
            if "memory" in message:
                if progress is not None:
                    progress(CompileProgress(time.monotonic() - began, message["memory"]))
            elif "error" in message:
                # From our own process, through a pipe that nobody else has.
                raise pickle.loads(base64.b64decode(message["error"]))  # noqa: S301
            else:
                return message["result"]
    finally:
        deadline.cancel()
        process.kill()
        process.wait()
        reader.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    elapsed = time.monotonic() - began
    if elapsed >= timeout:
        raise CompileTimeoutError(
            f"the compilation was not done after {elapsed:.1f} s, and was ended (compile_timeout={timeout}). Allow "
            "more time, or name another device in fallback=(...)"
        )
    lines = b"".join(said).decode(errors="replace").splitlines()[-_LOG_LINES:]
    raise CompilationError(
        f"the compilation's process ended with {process.returncode} after {elapsed:.1f} s, without an answer. Its last "
        f"words: {' | '.join(lines) or 'none'}"
    )


def main() -> None:
    """Run the job that the caller wrote to standard input; called in the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plugin prints is no answer
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_caller, daemon=True).start()
    lock = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    def beat() -> None:
        while True:
            say({"memory": _memory()})
            time.sleep(BEAT)

    threading.Thread(target=beat, daemon=True).start()
    from importlib import import_module

    module, _, name = request["target"].partition(":")
    try:
        result = getattr(import_module(module), name)(**request["job"])
    except Exception as error:  # noqa: BLE001 (the caller raises it)
        say({"error": base64.b64encode(pickle.dumps(error)).decode()})
    else:
        say({"result": result})
    os._exit(0)  # nothing that OpenVINO still does in a thread is wanted


def _end_with_caller() -> None:
    sys.stdin.read()  # ends when the caller's end of the pipe is closed
    os._exit(1)


def _send(process: subprocess.Popen[bytes], *lines: str) -> None:
    stdin = cast(IO[bytes], process.stdin)
    try:
        stdin.write("".join(f"{line}\n" for line in lines).encode())
        stdin.flush()
    except BrokenPipeError:  # it ended already; its last words say why
        return


def _messages(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    for line in cast(IO[bytes], process.stdout):
        yield json.loads(line)


def _drain(stream: Any, said: list[bytes]) -> None:
    for line in stream:
        said.append(line)
        del said[:-_LOG_LINES]


def _memory() -> int | None:
    """Return the bytes of memory that this process holds: the resident set on Linux (proc(5)), None elsewhere."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError):
        return None
