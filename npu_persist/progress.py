"""Tells how far a long persist is: a callback in code, a line a stage on a terminal.

The library never prints by itself: without a callback, stages are shown only when standard error is a terminal.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

log = logging.getLogger(__name__)

STAGES = ("example", "trace", "convert", "write", "check", "publish", "compile")
"""The stages of `persist`, in order; the last one only with `targets`."""


@dataclass(frozen=True)
class Progress:
    """One event: a stage began, moved or ended.

    Attributes:
        stage: one of `STAGES`.
        elapsed: seconds since the stage began.
        done: whether it has ended.
        fraction: how much of the stage is done, 0 to 1, or None where that is unknown.

    """

    stage: str
    elapsed: float
    done: bool
    fraction: float | None = None


ProgressCallback = Callable[[Progress], None]


class Reporter:
    """Times the stages and passes them on."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback if callback is not None else (_show if sys.stderr.isatty() else None)
        self._started = 0.0
        self._stage = ""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report the begin and the end of a stage."""
        self._stage, self._started = name, time.monotonic()
        self._send(Progress(name, 0.0, done=False))
        yield
        elapsed = time.monotonic() - self._started
        log.info("%s took %.2f s", name, elapsed)
        self._send(Progress(name, elapsed, done=True))

    def moved(self, fraction: float | None) -> None:
        """Report that the running stage goes on, done by `fraction` if that is known."""
        self._send(Progress(self._stage, time.monotonic() - self._started, done=False, fraction=fraction))

    def _send(self, event: Progress) -> None:
        if self._callback is not None:
            self._callback(event)


def _show(event: Progress) -> None:
    percent = "" if event.fraction is None else f"{event.fraction:4.0%}"
    end = "\n" if event.done else ""
    sys.stderr.write(f"\r{event.stage:<8} {event.elapsed:7.1f} s {percent}{end}")
    sys.stderr.flush()
