"""Watch over a process that does one job: its time, its memory, what it says, and that it ends.

The promise: when `supervise` returns or raises, the process is gone, with its children where it does not share them,
and its pipes are closed, whatever it was doing and whatever it wrote; Ctrl-C ends it too. What it holds in this process
is bounded, however much it says.

The caller writes the request to the process's standard input and keeps that open: its end means that the caller died,
and the process must end then. The process writes messages to its standard output, JSON objects on a line each:

    {"stage": "compile"}                       what it does now; any number of them
    {"result": {...}}   or   {"failure": ...}  at the end, once; then it waits for its end, so that its peak memory can
                                               be read

Any other line there, and every line on its standard error, is its log.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.compilation.process.memory import Memory, read_memory
from npu_persist.compilation.process.output import Hearing
from npu_persist.errors import CompilationError, CompileMemoryError, CompileTimeoutError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

BEAT = 0.5
"""Seconds between two calls of `progress`."""


_TICK = 0.05
"""Seconds between two looks at the process."""


class SilentError(CompilationError):
    """A process said nothing at all in the time that it has for its first word, and was ended."""


class CompileProgress(NamedTuple):
    """How far a compilation in a process of its own is.

    Attributes:
        elapsed: Seconds since it began.
        memory: Bytes of resident memory that it holds; None where that cannot be told.
        line: The last line that it said itself; None before the first.
    """

    elapsed: float
    memory: int | None
    line: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a process answered.

    Attributes:
        message: `{"result": ...}` or `{"failure": ...}`.
        seconds: How long it took, the start of the process included.
        peak_memory: The most resident memory that it held, in bytes; None where the system does not tell.
        log: Its last lines.
    """

    message: Mapping[str, Any]
    seconds: float
    peak_memory: int | None
    log: tuple[str, ...]

    @property
    def result(self) -> Any:
        """What it answered at the end of a job that did not fail."""
        return self.message["result"]


def supervise(  # noqa: PLR0913 (each limit is one)
    command: Sequence[str],
    request: bytes,
    *,
    timeout: float | None = None,
    memory_limit: int | None = None,
    progress: Callable[[CompileProgress], object] | None = None,
    cancelled: threading.Event | None = None,
    tidy: Callable[[str], str | None] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    shares_children: bool = False,
    first_word: float | None = None,
) -> Answer:
    """Start a process, wait for its answer and end it.

    Args:
        command: The program and its arguments.
        request: What it reads from its standard input.
        timeout: Seconds after which it is ended; None for never.
        memory_limit: Bytes of resident memory at which it is ended; None for no limit. It is looked at 20 times a
            second.
        progress: Called at once, about twice a second, and when the answer is there.
        cancelled: Ends the process when it is set.
        tidy: Called with each line of the log, in threads; returns what is kept of it, or None.
        env: Its environment; None for this process's own.
        cwd: Its working directory; None for this process's own.
        shares_children: Whether the processes that it starts serve others too, and are not ended with it.
        first_word: Seconds within which it has to say something; None where it may be silent.

    Raises:
        SilentError: It did not say anything within `first_word`.
        CompileTimeoutError: It took longer.
        CompileMemoryError: It held more memory.
        CompilationError: It ended without an answer, cannot be started, or was cancelled; or there is a memory limit
            and this system does not tell what a process holds.
    """
    if memory_limit is not None and read_memory(os.getpid()).now is None:
        raise CompilationError(
            "memory_limit: this system does not tell how much memory a process holds (expected /proc on Linux, "
            "GetProcessMemoryInfo on Windows). Compile without memory_limit"
        )
    began = time.monotonic()
    try:
        process = subprocess.Popen(  # noqa: S603 (the callers run programs of ours)
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            # Ctrl-C in the terminal is for the caller, who ends the process: OpenVINO would not.
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            start_new_session=sys.platform != "win32",
        )
    except OSError as error:
        raise CompilationError(f"cannot start {command[0]}: {error.strerror or error}") from error
    with Hearing(process, request, tidy, shares_children=shares_children) as hearing:
        watch = _Watch(process, hearing, began, progress)
        while not hearing.answered.wait(_TICK) and not _has_ended(process):
            watch.look()
            if cancelled is not None and cancelled.is_set():
                raise CompilationError(f"the compilation was cancelled after {watch.elapsed:.1f} s, and was ended")
            if timeout is not None and watch.elapsed >= timeout:
                raise CompileTimeoutError(
                    f"the compilation was not done after {watch.elapsed:.1f} s, and was ended "
                    f"(limit: {round(timeout, 3):g} s). {hearing.say_log()}"
                )
            if first_word is not None and hearing.line is None and watch.elapsed >= first_word:
                raise SilentError(f"{command[0]} said nothing within {first_word:g} s, and was ended")
            if memory_limit is not None:
                _check_memory(watch, memory_limit, hearing)
        watch.finish()
    if hearing.answer is None:
        raise CompilationError(
            f"the compilation's process ended with {_describe_exit(process.returncode)} after {watch.elapsed:.1f} s, "
            f"without an answer. {hearing.say_log()}"
        )
    return Answer(hearing.answer, watch.elapsed, watch.peak, tuple(hearing.log))


def _check_memory(watch: _Watch, limit: int, hearing: Hearing) -> None:
    held = max(watch.peak or 0, watch.memory.now or 0)
    if held > limit:
        raise CompileMemoryError(
            f"the compilation held {held / 1e6:.0f} MB after {watch.elapsed:.1f} s, more than its limit of "
            f"{limit / 1e6:.0f} MB, and was ended. {hearing.say_log()}"
        )


class _Watch:
    """The time and the memory of a process, as far as they have been seen."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        hearing: Hearing,
        began: float,
        progress: Callable[[CompileProgress], object] | None,
    ) -> None:
        self.memory = Memory(None, None)
        self.peak: int | None = None
        self.elapsed = 0.0
        self._process = process
        self._hearing = hearing
        self._began = began
        self._progress = progress
        self._next_beat = 0.0

    def look(self) -> None:
        self.elapsed = time.monotonic() - self._began
        self.memory = read_memory(self._process.pid)
        self.peak = max(filter(None, (self.peak, *self.memory)), default=None)
        if self._progress is not None and self.elapsed >= self._next_beat:
            self._next_beat = self.elapsed + BEAT
            self._progress(CompileProgress(self.elapsed, self.memory.now, self._hearing.line))

    def finish(self) -> None:
        self._next_beat = 0
        self.look()  # the process waits for its end: this is its peak


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    if sys.platform == "win32":
        return process.poll() is not None
    # It stays a zombie: nothing else can get its number, or that of its group, before the group is killed.
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # the program reaps its children itself, or ignores SIGCHLD
        return True


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.strsignal(-code) if -code in set(signal.Signals) else None
    return f"signal {-code} ({name})" if name else f"signal {-code}"
