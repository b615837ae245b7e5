"""Run a module of this package in a separate Python process, which can be terminated.

`run_module` starts it as `python -m` does, with this process's module path and without the working directory. At its
end the module calls `serve` with the function that does the job. The request, the messages and the result are typed
JSON; an error of this package is raised again for the caller. The process may be under a graph's control: an
answer of another type is an error, and never names code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from npu_persist import errors
from npu_persist.bundle.document import to_record
from npu_persist.compilation.process.frozen import is_frozen, make_command
from npu_persist.compilation.process.supervisor import Limits, ProcessResult, supervise
from npu_persist.errors import CompilationError, CompileMemoryError, NpuPersistError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    Send = Callable[[Any], None]
    """Sends a message to the caller's `on_message`."""

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

_START = (
    "import sys; _, module, *sys.path[:] = sys.argv; import runpy; runpy.run_module(module, None, '__main__', True)"
)
"""Not plain `-m`: it puts the working directory first, which may hold a `json.py` of somebody else's."""


_ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, NpuPersistError)
}
"""The errors that a process may answer with."""


class Failure(msgspec.Struct, frozen=True):
    """An error as it is sent.

    Attributes:
        kind: Name of its class in `npu_persist.errors`.
        message: Its text.
        attributes: Its attributes that are texts or numbers.
    """

    kind: str
    message: str
    attributes: dict[str, str | int] = {}


def run_module(  # noqa: PLR0913 (what is run, and how it is supervised)
    module: str,
    request: msgspec.Struct,
    result: type[ResultT],
    limits: Limits | None = None,
    *,
    name: str = "the compilation",
    on_message: Callable[[Any], object] | None = None,
    message: Any = Any,
    tidy: Callable[[str], str | None] | None = None,
) -> ProcessResult[ResultT]:
    """Run a module in a separate process; `result` and `message` are the types of what it sends."""
    if not sys.executable:
        raise CompilationError(
            f"{name} runs in a separate process, but this program does not know its Python interpreter "
            "(sys.executable). Load without compile_timeout, and only what you trust (trust=); or compile ahead of "
            "time elsewhere"
        )
    command, env = (make_command(module, name), None) if is_frozen() else _make_command(module)
    answer = supervise(
        command,
        _encode(request),
        limits,
        env=env,
        name=name,
        on_message=None if on_message is None else lambda value: on_message(read_answer(value, message, name)),
        tidy=tidy,
    )
    if answer.failure is not None:
        raise _restore_error(read_answer(answer.failure, Failure, name))
    return replace(answer, result=read_answer(answer.result, result, name))


def _make_command(module: str) -> tuple[list[str], dict[str, str] | None]:
    """Return how an interpreter is started on a module, and its environment; None for this process's own.

    On Windows a virtual environment's python.exe only starts the one that it was made from: what we would watch, and
    put into a job object, would not be the process that does the work. `multiprocessing` starts its own as here.
    """
    interpreter, env = sys.executable, None
    base: str = getattr(sys, "_base_executable", interpreter)
    if sys.platform == "win32" and os.path.normcase(base) != os.path.normcase(interpreter):
        interpreter, env = base, {**os.environ, "__PYVENV_LAUNCHER__": interpreter}
    return [interpreter, "-c", _START, module, *sys.path], env


def read_answer(value: Any, kind: type[ResultT], name: str) -> ResultT:
    """Return a process's result as a record; CompilationError if it is something else."""
    try:
        return to_record(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise CompilationError(
            f"{name}'s process did not return the expected data ({error}). Its graph may have taken "
            "it over: do not load the bundle without a signature by somebody you trust"
        ) from error


def serve(job: Callable[[RequestT, Send], Any], request: type[RequestT]) -> None:
    """Do the one job that this process was started for, and wait to be ended."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a plugin prints is no answer

    def send(**message: Any) -> None:
        answers.write(_encode(message))
        answers.flush()

    _go_first()
    given = to_record(json.loads(sys.stdin.buffer.readline()), request)
    # On Windows the caller's job object ends this process. A read of a pipe that waits would block other calls on
    # standard input, and loading a library makes one.
    waiting = None if sys.platform == "win32" else threading.Thread(target=_end_with_caller, daemon=True)
    if waiting is not None:
        waiting.start()
    try:
        result = job(given, lambda message: send(message=message))
    except Exception as error:  # noqa: BLE001 (the caller raises it)
        send(failure=_describe_error(error))
    else:
        send(result=result)
    if waiting is None:
        _end_with_caller()
    else:
        waiting.join()


def _go_first() -> None:
    """Let the system end this process before its caller where memory is short, and leave no core behind."""
    if sys.platform != "win32":
        import resource

        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("1000")


def _encode(message: object) -> bytes:
    # Not msgspec's encoder: it refuses the names of files that are not UTF-8.
    return f"{json.dumps(msgspec.to_builtins(message))}\n".encode()


def _end_with_caller() -> None:
    sys.stdin.buffer.read()  # ends when the caller's end of the pipe is closed
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what it started
    os._exit(0)


def _describe_error(error: Exception) -> Failure:
    if isinstance(error, NpuPersistError):
        attributes = {name: value for name, value in vars(error).items() if isinstance(value, (str, int))}
        if isinstance(error, StoreError) and error.errno is not None:  # which OSError keeps elsewhere
            attributes["errno"] = error.errno
        return Failure(type(error).__name__, str(error), attributes)
    traceback.print_exception(error)
    kind = CompileMemoryError if isinstance(error, MemoryError) else CompilationError
    return Failure(kind.__name__, f"{type(error).__name__}: {error}")


def _restore_error(failure: Failure) -> NpuPersistError:
    error = _ERRORS.get(failure.kind, CompilationError)(failure.message)
    for name, value in failure.attributes.items():
        if name in vars(error) or (name == "errno" and isinstance(error, StoreError) and isinstance(value, int)):
            setattr(error, name, value)
    return error
