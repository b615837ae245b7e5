"""This side of a worker: start it, tell it what to do, hear what it says, end it.

The promise: a worker that fails, dies or is not needed any more leaves nothing behind: no process, no pipe; and Ctrl-C
is heard while one is waited for, on Windows too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from npu_persist.benchmark.wire import END, encode, pack_arrays, unpack_error
from npu_persist.errors import DeviceWarning, InferenceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np

    from npu_persist.benchmark.results import Case

_START = (
    "import sys; sys.path[:] = sys.argv[1:]; sys.argv[1:] = []; from npu_persist.benchmark.worker import main; main()"
)
"""Not `-m`: the worker imports from where this process does, whatever has been done to its path."""

_NEW_GROUP = 0x00000200
"""Windows' CREATE_NEW_PROCESS_GROUP, which `subprocess` has there only."""

_TICK = 0.1
"""Seconds after which a wait looks up: on Windows a wait without end is deaf to Ctrl-C."""

_PATIENCE = 60.0
"""Seconds that a worker has to end by itself: it may be writing what it compiled to the compile cache."""


def make_spec(  # noqa: PLR0913 (what a worker needs to know)
    case: Case,
    reference: str,
    home: Path | str,
    *,
    requests: int | None = None,
    inputs: Mapping[str, np.ndarray[Any, Any]] | None = None,
    random: bool = False,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    linger: bool = False,
) -> dict[str, Any]:
    """Return what a worker is told to load.

    Args:
        case: The configuration.
        reference: What its bundle is loaded by.
        home: The directory of the store, with the compile cache.
        requests: Inferences under way at a time; None for 1 with LATENCY, else what the device calls optimal.
        inputs: An array for each input; None for the golden sample, or random ones where there is none.
        random: Random inputs although there is a golden sample.
        seed: Of the random inputs.
        config: OpenVINO properties.
        linger: Whether it stays until what it compiled is in the compile cache.

    Raises:
        UsageError: An input is no array of numbers.
    """
    return {
        "reference": reference,
        "device": case.device,
        "hint": case.hint,
        "store": str(home),
        "requests": requests,
        "inputs": None if inputs is None else pack_arrays(inputs),
        "random": random,
        "seed": seed,
        "config": dict(config or {}),
        "linger": linger,
    }


@contextlib.contextmanager
def started(label: str, spec: Mapping[str, Any]) -> Iterator[Subject]:
    """Start a worker, and end it: as a user's process ends, or by force after an error and Ctrl-C."""
    subject = Subject(label, spec)
    patience = 0.0
    try:
        yield subject
        patience = _PATIENCE
    finally:
        subject.close(patience=patience)


class Subject:
    """A worker process that loads one configuration and is measured. `started` makes one and ends it.

    Attributes:
        label: What it is called in errors.
        ready: What it told when it had loaded and answered once; see `worker.Subject.ready`.
        began: `time.perf_counter()` just before its process was started.
    """

    def __init__(self, label: str, spec: Mapping[str, Any]) -> None:
        """Start the process, and wait until it is ready.

        Args:
            label: What it is called in errors.
            spec: What `worker.Subject` loads.

        Raises:
            UsageError: A value of the spec cannot be sent.
            NpuPersistError: What loading or the first call raised there.
        """
        try:
            line = encode({"spec": spec})
        except TypeError as error:
            raise UsageError(f"config: values must be texts, numbers or booleans to reach a worker: {error}") from error
        self.label = label
        # Ctrl-C reaches the whole foreground group: in a group of its own the worker leaves it to this process.
        alone: dict[str, Any] = (
            {"creationflags": _NEW_GROUP} if sys.platform == "win32" else {"start_new_session": True}
        )
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self.began = time.perf_counter()
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own code)
            [sys.executable, "-c", _START, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **alone
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._write(line)
            self.ready: dict[str, Any] = self._hear("ready")
        except BaseException:
            self.close(patience=0)
            raise

    def run(self, seconds: float, interval: float) -> Iterator[tuple[str, Any]]:
        """Let it run; give `("interval", [seconds, latencies])` as they come, at last `("done", facts)`."""
        self._write(encode({"run": {"seconds": seconds, "interval": interval}}))
        while True:
            kind, content = self._next()
            yield kind, content
            if kind == "done":
                return

    def profile(self, runs: int) -> dict[str, Any]:
        """Let it run layer by layer, and return what that showed."""
        self._write(encode({"layers": {"runs": runs}}))
        profile: dict[str, Any] = self._hear("profile")
        return profile

    def close(self, *, patience: float) -> None:
        """End the process, by force if it does not within `patience` seconds."""
        process = self._process
        try:
            if patience:
                self._write(END)
            with contextlib.suppress(OSError):  # it is dead, and did not read all that was written
                process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
            if patience:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
        finally:
            if process.poll() is None:
                if sys.platform == "win32":
                    process.kill()
                else:
                    os.killpg(process.pid, signal.SIGKILL)  # and what it may have started itself
            process.wait()
            self._reader.join()

    def _read(self) -> None:
        with self._process.stdout as pipe:  # type: ignore[union-attr]  # it is a pipe
            for line in pipe:
                self._lines.put(line)
        self._lines.put(b"")

    def _write(self, line: bytes) -> None:
        try:
            self._process.stdin.write(line)  # type: ignore[union-attr]  # it is a pipe
            self._process.stdin.flush()  # type: ignore[union-attr]
        except OSError:  # it is gone; what it said last is waiting to be read, and says more than a broken pipe
            return

    def _hear(self, kind: str) -> Any:
        found, content = self._next()
        if found != kind:
            raise InferenceError(f"{self.label}: expected {kind!r} of the measuring process, got {found!r}")
        return content

    def _next(self) -> tuple[str, Any]:
        while True:
            try:
                line = self._lines.get(timeout=_TICK)
            except Empty:
                continue
            if not line.endswith(b"\n"):
                code = self._process.wait()
                raise InferenceError(
                    f"{self.label}: the process that was measured ended with {_describe_exit(code)}, without a word. "
                    "What it printed on stderr may say more; too little memory is a common cause"
                )
            ((kind, content),) = json.loads(line).items()
            if kind == "warning":
                warnings.warn(content, DeviceWarning, stacklevel=2)
            elif kind == "error":
                raise unpack_error(content)
            else:
                return kind, content


def _describe_exit(code: int) -> str:
    return f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
