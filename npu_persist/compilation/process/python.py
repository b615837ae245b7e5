"""A function in a process of its own: what OpenVINO does inside a compilation nothing else can end.

The promise: the process finds the same modules as the caller, and runs nothing of the caller's program or of the
working directory.

The request is two lines of JSON, `sys.path` and the job; the answer is what the function returned, or its exception:

    {"result": {...}}   or   {"failure": "<pickled exception, base64>"}
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any

from npu_persist.compilation.process.supervision import Answer, CompileProgress, supervise
from npu_persist.errors import CompilationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_START = """\
import sys
sys.path[:] = filter(None, sys.path)
import json
sys.path[:] = json.loads(sys.stdin.readline())
from npu_persist.compilation.process import python
python.main()
"""
"""The working directory, which `-c` puts first, may hold a `json.py` of whoever is there."""


def run_python(  # noqa: PLR0913 (each limit is one)
    target: str,
    job: Mapping[str, Any],
    *,
    timeout: float | None = None,
    memory_limit: int | None = None,
    progress: Callable[[CompileProgress], object] | None = None,
    cancelled: threading.Event | None = None,
    tidy: Callable[[str], str | None] | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Call a function in a process of its own.

    Args:
        target: The function, as `module:name`.
        job: Its keyword arguments: what JSON can hold.
        timeout: Seconds after which the process is ended; None for never.
        memory_limit: Bytes of resident memory at which it is ended; None for no limit.
        progress: Called about twice a second.
        cancelled: Ends the process when it is set.
        tidy: Called with each line of the log, in threads; returns what is kept of it, or None.
        env: Its environment; None for this process's own.

    Returns:
        The answer, whose `result` is what the function returned: what JSON can hold.

    Raises:
        CompileTimeoutError: It took longer.
        CompileMemoryError: It held more memory.
        CompilationError: The process ended without an answer, cannot be started, or was cancelled.
        NpuPersistError: What the function raised.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        raise CompilationError(
            "a compilation in a process of its own (compile_timeout, ahead of time) needs a Python interpreter to run "
            "in, and this program has none beside itself (it was frozen). Load without compile_timeout, or compile "
            "ahead of time elsewhere"
        )
    answer = supervise(
        [sys.executable, "-c", _START],
        f"{json.dumps(sys.path)}\n{json.dumps({'target': target, 'job': dict(job)})}\n".encode(),
        timeout=timeout,
        memory_limit=memory_limit,
        progress=progress,
        cancelled=cancelled,
        tidy=tidy,
        env=env,
    )
    if "failure" in answer.message:
        # From our own process, through a pipe that nobody else has.
        raise pickle.loads(base64.b64decode(answer.message["failure"]))  # noqa: S301
    return answer


def main() -> None:
    """Run the job that the caller wrote to standard input, and wait for the end; called in the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plugin prints is no answer
    request = json.loads(sys.stdin.readline())
    waiting = threading.Thread(target=_end_with_caller, daemon=True)
    waiting.start()
    from importlib import import_module

    module, _, name = request["target"].partition(":")
    try:
        message = {"result": getattr(import_module(module), name)(**request["job"])}
    except Exception as error:  # noqa: BLE001 (the caller raises it)
        message = {"failure": base64.b64encode(pickle.dumps(error)).decode()}
    answers.write(f"{json.dumps(message)}\n")
    answers.flush()
    waiting.join()


def _end_with_caller() -> None:
    sys.stdin.read()  # ends when the caller's end of the pipe is closed
    os._exit(0)
