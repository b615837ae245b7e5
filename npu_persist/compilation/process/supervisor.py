"""Run one job in a process: limit its time and memory, read its messages, and end it.

When `supervise` returns or raises, the process and its children are gone and the pipes are closed, whatever it was
doing; Ctrl-C ends it too. Its output is kept only as far as it is needed, however much there is.

The protocol: the caller writes the request to the process's standard input and keeps that open. When standard input
ends, the caller is dead, and the process must end as well; on Windows a job object ends it, with what it started after
it had read the request. The process writes JSON objects to its standard output, one
a line:

    {"stage": "compile"}                       what it does now, for progress; any number of them
    {"message": ...}                           anything, for `on_message`; any number of them
    {"result": ...}   or   {"failure": ...}    once, at the end; then it waits until it is ended, so that its peak
                                               memory can be read

Any other line there, and every line on its standard error, is its log.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from npu_persist.compilation.process.memory import read_memory
from npu_persist.compilation.process.output import OutputReader
from npu_persist.errors import CompilationError, CompileCrashError, CompileMemoryError, CompileTimeoutError
from npu_persist.progress import BEAT

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from npu_persist.compilation.process.job_object import Job

_TICK = 0.05
"""Seconds between two checks of the limits."""

_EXCEPTION = 0xC0000000
"""From here on an exit code is the exception that ended a process of Windows."""

T = TypeVar("T")


class SilentError(CompilationError):
    """A process that has to write a first line wrote none: it was ended when its time for that was over, or died."""

    has_died: bool = False


@dataclass(frozen=True)
class Limits:
    """What ends a process early, and the callback for its progress.

    Attributes:
        timeout: Seconds after which it is ended; None for never.
        memory_limit: Bytes of resident memory at which it is ended, checked 20 times a second; None for no limit.
        cancelled: Ends the process when it is set.
        report: Called at once, about twice a second and at the end with the memory and the last line, as in
            `250 MB, compile`. What it raises ends the process.
    """

    timeout: float | None = None
    memory_limit: int | None = None
    cancelled: threading.Event | None = None
    report: Callable[[str], object] | None = None


@dataclass(frozen=True)
class ProcessResult(Generic[T]):
    """The result of a process.

    Attributes:
        result: The result; None after a failure.
        failure: What the process says went wrong; None after a result.
        seconds: How long it took, the start of the process included.
        peak_memory: The most resident memory that it held, in bytes; None where it is not known.
        log: Its last lines.
    """

    result: T
    failure: Any
    seconds: float
    peak_memory: int | None
    log: tuple[str, ...]


def supervise(  # noqa: PLR0913 (how a process is started, and what it is asked)
    command: Sequence[str],
    request: bytes,
    limits: Limits | None = None,
    *,
    name: str = "the compilation",
    on_message: Callable[[Any], object] | None = None,
    tidy: Callable[[str], str | None] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    shares_children: bool = False,
    first_line: float | None = None,
) -> ProcessResult[Any]:
    """Start a process, wait for its result and end it.

    Args:
        command: The program and its arguments.
        request: What it reads from its standard input.
        limits: What ends it early; None for nothing.
        name: What errors call it.
        on_message: Called with each message, in order and in the thread of the caller. What it raises ends the process.
        tidy: Called with each line of the log, in threads; returns what is kept of it, or None.
        env: Its environment; None for this process's own.
        cwd: Its working directory; None for this process's own.
        shares_children: Whether the processes that it starts serve others too, and are not ended with it.
        first_line: Seconds within which it has to write something; None where it may be silent.

    Raises:
        SilentError: It wrote nothing within `first_line`, or died before.
        CompileTimeoutError: It took longer than its limit.
        CompileMemoryError: It held more memory than its limit.
        CompileCrashError: It ended without an answer.
        CompilationError: It cannot be started, or was cancelled; or there is a memory limit and this system does not
            say how much memory a process holds.
    """
    limits = limits or Limits()
    if limits.memory_limit is not None and read_memory(os.getpid()).now is None:
        raise CompilationError(
            "memory_limit: this system does not say how much memory a process holds (expected /proc on Linux, "
            "GetProcessMemoryInfo on Windows). Compile without memory_limit"
        )
    messages: SimpleQueue[Any] | None = None if on_message is None else SimpleQueue()
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
    end = partial(_end_one, process) if shares_children else _hold(process)
    with OutputReader(process, request, end, tidy=tidy, messages=messages) as output:
        monitor = _ProcessMonitor(process, output, began, limits, name)
        while not output.answered.wait(_TICK) and not _has_ended(process):
            _deliver(messages, on_message)
            monitor.check()
            if first_line is not None and output.line is None and monitor.seconds >= first_line:
                raise SilentError(f"{command[0]} wrote nothing within {first_line:g} s and was terminated")
        monitor.finish()  # the process waits to be ended: this is its peak
    _deliver(messages, on_message)
    if output.answer is None:
        how = f"ended with {_describe_exit(process.returncode)} after {monitor.seconds:.1f} s"
        if first_line is not None and output.line is None:
            silence = SilentError(f"{command[0]} {how}, before it wrote anything")
            silence.has_died = True
            raise silence
        raise CompileCrashError(f"{name}'s process {how}, without an answer. {output.describe_log()}")
    return ProcessResult(
        output.answer.get("result"), output.answer.get("failure"), monitor.seconds, monitor.peak, tuple(output.log)
    )


def _deliver(messages: SimpleQueue[Any] | None, on_message: Callable[[Any], object] | None) -> None:
    while messages is not None and on_message is not None and not messages.empty():
        on_message(messages.get())


class _ProcessMonitor:
    """Checks a process's limits, and remembers its time and memory."""

    def __init__(
        self, process: subprocess.Popen[bytes], output: OutputReader, began: float, limits: Limits, name: str
    ) -> None:
        self.peak: int | None = None
        self.seconds = 0.0
        self._memory: int | None = None
        self._process = process
        self._output = output
        self._began = began
        self._limits = limits
        self._name = name
        self._next_report = 0.0

    def check(self) -> None:
        """Report, and raise where a limit is reached."""
        self._measure()
        limits = self._limits
        if limits.cancelled is not None and limits.cancelled.is_set():
            raise CompilationError(f"{self._name} was cancelled after {self.seconds:.1f} s, and was ended")
        if limits.timeout is not None and self.seconds >= limits.timeout:
            raise CompileTimeoutError(
                f"{self._name} was not done after {self.seconds:.1f} s, and was ended "
                f"(limit: {round(limits.timeout, 3):g} s). {self._output.describe_log()}"
            )
        held = max(self.peak or 0, self._memory or 0)
        if limits.memory_limit is not None and held > limits.memory_limit:
            raise CompileMemoryError(
                f"{self._name} held {held / 1e6:.0f} MB after {self.seconds:.1f} s, more than its limit of "
                f"{limits.memory_limit / 1e6:.0f} MB, and was ended. {self._output.describe_log()}"
            )

    def finish(self) -> None:
        self._next_report = 0
        self._measure()

    def _measure(self) -> None:
        self.seconds = time.monotonic() - self._began
        memory = read_memory(self._process.pid)
        self._memory = memory.now
        self.peak = max(filter(None, (self.peak, *memory)), default=None)
        if self._limits.report is not None and self.seconds >= self._next_report:
            self._next_report = self.seconds + BEAT
            held = "" if memory.now is None else f"{memory.now / 1e6:.0f} MB"
            self._limits.report(", ".join(filter(None, (held, self._output.line))))


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    if sys.platform == "win32" or not hasattr(os, "waitid"):  # which macOS has since Python 3.13
        return process.poll() is not None
    # It stays a zombie: nothing else can get its number, or that of its group, before the group is killed.
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # the program reaps its children itself, or ignores SIGCHLD
        return True


def _describe_exit(code: int) -> str:
    if code >= 0:
        # Windows' exceptions, such as 0xC0000005: https://learn.microsoft.com/openspecs/windows_protocols/ms-erref
        return f"exit code {code:#010X}" if code >= _EXCEPTION else f"exit code {code}"
    name = signal.strsignal(-code) if -code in set(signal.Signals) else None
    return f"signal {-code} ({name})" if name else f"signal {-code}"


def _end_one(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _hold(process: subprocess.Popen[bytes]) -> Callable[[], None]:
    """Return what ends a process that has just been started, and its children."""
    if sys.platform == "win32":
        from npu_persist.compilation.process.job_object import Job

        try:
            return partial(_end_job, process, Job(process))
        except OSError as error:
            with process:
                process.kill()
            raise CompilationError(f"cannot put a process into a job object: {error.strerror or error}") from error
    return partial(_end_group, process)


def _end_job(process: subprocess.Popen[bytes], job: Job) -> None:
    job.end()
    process.wait()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # reaped already
        pass
    except PermissionError:  # macOS, of a group of zombies
        process.kill()
    process.wait()
