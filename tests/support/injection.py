"""Runs functions with a fault at their n-th system call: killed there, interrupted as by Ctrl-C, or given an error.

    with Injector("npu_persist.cli.main") as injector:
        run = injector.run("npu_persist.cli.main:main", [["list"]], roots=[home], fault=Fault("kill", 3))

An injector is a process that has imported what the functions need, forks for each of them and answers the fork's calls.
`python -m tests.support.injection MODULE…` is that process.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.system_calls import CHANGING, READING, Calls, watch_calls, why_not

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

UNTYPED = 70
"""Exit code of a function that ended with an error of another package or of Python."""

_CREATING = {"create", "creat", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat"}
_RENAMING = {"rename", "renameat", "renameat2"}
_WRITING = {"write", "pwrite64", "writev", "pwritev", "sendfile", "copy_file_range", "clone", "fallocate", "ftruncate"}
_SYNCING = {"fsync", "fdatasync"}
_OPENING = {"create", "creat", "open", "openat2"}
_CHANGING = {*CHANGING, "create", "clone"} - {"ioctl"}

MEETS: dict[str, set[str]] = {
    "kill": _CHANGING,
    "interrupt": _CHANGING,
    "ENOSPC": _CREATING | _RENAMING | _WRITING | _SYNCING,
    "EDQUOT": _CREATING | _RENAMING | _WRITING | _SYNCING,
    "EIO": _CHANGING,
    "EINTR": _WRITING | {"create", "open", "flock", "read", "pread64"},
    "EMFILE": _OPENING,
    "ENOLCK": {"flock"},
    # Not `stat`, which only OpenVINO's std::filesystem uses here: where that fails it aborts the process (2026.4.1).
    "unreadable": {*READING, "open"} - {"mmap", "stat"},
    "unmappable": {"mmap"},
    "full disk": _CREATING | _WRITING,
    "no descriptors": _OPENING,
    "no locks": {"flock"},
}
"""The faults, each with the calls that it can meet."""

LASTING = {"full disk": errno.ENOSPC, "no descriptors": errno.EMFILE, "no locks": errno.ENOLCK}
"""The error numbers of those that last: later calls meet them too."""

ERRORS: dict[str, int] = {
    **{kind: getattr(errno, kind) for kind in MEETS if kind.startswith("E")},
    **LASTING,
    "unreadable": errno.EIO,
    "unmappable": errno.ENOMEM,
}
"""The error numbers of all that are errors."""


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th of the calls that it can meet, from 1."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {'from' if self.kind in LASTING else 'at'} {self.number}"


@dataclass(frozen=True)
class Run:
    """What came of a function.

    Attributes:
        code: Its exit code; of one that was killed, minus the signal.
        output: What it wrote to stdout and stderr.
        calls: Name and path of each call below the roots.
        changed_elsewhere: Files outside of the roots that it changed.
        met: The call that met the fault; None if it ended before.
        hung: Whether it, or a process that it started, made no call for a minute and did not end.
    """

    code: int
    output: str
    calls: list[tuple[str, str]]
    changed_elsewhere: list[str]
    met: tuple[str, str] | None
    hung: bool

    def count(self, kind: str) -> int:
        """Return how many of the calls a fault can meet."""
        return sum(name in MEETS[kind] for name, _ in self.calls)


class Injector:
    """A process that runs functions with faults: `modules` are those that it imports.

    Attributes:
        problem: Why no calls can be watched here; None if they can.
    """

    def __init__(self, *modules: str, env: dict[str, str] | None = None) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {}), "PYTHONPATH": path},
        )
        self.problem: str | None = self._read()

    def run(
        self,
        function: str,
        arguments: Sequence[Any],
        *,
        roots: Sequence[Path],
        fault: Fault | None = None,
        env: dict[str, str] | None = None,
    ) -> Run:
        """Run `module:function`, with a fault at its calls below `roots`."""
        assert self._process.stdin is not None
        request = {
            "function": function,
            "arguments": [str(one) if isinstance(one, Path) else one for one in arguments],
            "roots": [os.path.realpath(root) for root in roots],
            "fault": None if fault is None else asdict(fault),
            "env": env or {},
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        told = self._read()
        told["calls"] = [(name, path) for name, path in told["calls"]]
        told["met"] = None if told["met"] is None else tuple(told["met"])
        return Run(**told)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the injector ended"
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)


def main(*modules: str) -> None:
    """Serve an `Injector`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in modules:
        importlib.import_module(module)
    print(json.dumps(why_not()), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), file=answers, flush=True)


def _run(
    function: str, arguments: list[Any], roots: list[str], fault: dict[str, Any] | None, env: dict[str, str]
) -> dict[str, Any]:
    output = os.memfd_create("output")
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        os._exit(_be_watched(function, arguments, env, output, theirs))
    theirs.close()
    _, (descriptor, *_), _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    try:
        told = _answer(child, Calls(descriptor), roots, None if fault is None else Fault(**fault))
    finally:
        os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    size = os.lseek(output, 0, os.SEEK_END)
    text = os.pread(output, size, 0).decode("utf-8", "replace")
    os.close(output)
    return {"code": code, "output": text, **told}


def _be_watched(
    function: str, arguments: list[Any], env: dict[str, str], output: int, supervisor: socket.socket
) -> int:
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(env)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        module, _, name = function.partition(":")
        called = getattr(importlib.import_module(module), name)
        descriptor = watch_calls()
        socket.send_fds(supervisor, [b"x"], [descriptor])
        os.close(descriptor)
        return _call(called, arguments)
    except BaseException:  # noqa: BLE001 (all that is no error of this package is a violation)
        traceback.print_exc()
        return UNTYPED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _call(called: Any, arguments: list[Any]) -> int:
    from npu_persist.errors import NpuPersistError

    try:
        result = called(*arguments)
    except NpuPersistError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return result if isinstance(result, int) else 0


def _answer(child: int, calls: Calls, roots: list[str], fault: Fault | None) -> dict[str, Any]:
    seen: list[tuple[str, str]] = []
    elsewhere: set[str] = set()
    threads = {child}
    met: tuple[str, str] | None = None
    number = 0
    hung = False
    try:
        for call in calls:
            threads.add(call.thread)
            error = 0
            if any(call.path == root or call.path.startswith(f"{root}/") for root in roots):
                seen.append((call.name, call.path))
                if fault is not None and call.name in MEETS[fault.kind]:
                    number += 1
                    if number == fault.number or (fault.kind in LASTING and number > fault.number):
                        met = met or (call.name, call.path)
                        error = ERRORS.get(fault.kind, 0)
                        if fault.kind == "kill":
                            os.kill(call.thread, signal.SIGKILL)
                            continue
                        if fault.kind == "interrupt":
                            os.kill(child, signal.SIGINT)
                            error = errno.EINTR if call.thread == child else 0  # only the main thread runs handlers
            elif call.is_change and call.path and not call.path.startswith(("/memfd:", "/dev/", "/proc/")):
                elsewhere.add(call.path)
            calls.answer(call, error)
    except TimeoutError:
        hung = True
        for thread in threads:
            with suppress(ProcessLookupError):
                os.kill(thread, signal.SIGKILL)
    return {"calls": seen, "changed_elsewhere": sorted(elsewhere), "met": met, "hung": hung}


if __name__ == "__main__":
    main(*sys.argv[1:])
