"""Progress of long work: one event type for every verb, and a printer for terminals, notebooks and log files."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

BEAT = 0.5
"""Seconds between two events of a stage that cannot tell how far it is."""


def one_line(text: str) -> str:
    r"""Return a text as people are shown it in one line: what would steer a terminal becomes an escape sequence.

    That are line breaks, other control characters, invisible characters of format (some change the direction of
    text) and surrogates. A tab becomes a space.

    >>> print(one_line("unet\nok, signed by acme"))
    unet\nok, signed by acme
    """
    if text.isprintable():
        return text
    from unicodedata import category

    return "".join(
        character
        if character.isprintable() or category(character) in {"Zs", "Co"}
        else " "
        if character == "\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )


class Progress(msgspec.Struct, frozen=True):
    """One event: a stage began, went on or ended.

    Attributes:
        stage: The current stage: "trace", "convert", "write", "check", "publish", "compile", "pull", "push", "measure".
        done: How much of the stage is done, in `unit`.
        total: The amount of work; None while that is unknown. The last event of a stage has `done == total`.
        unit: What is counted: "bytes", "files", "compilations"; "" if the stage is a single step.
        seconds: Seconds since the stage began.
        detail: The current item: a file, a target, the compiler's last line.
    """

    stage: str
    done: float
    total: float | None
    unit: str
    seconds: float
    detail: str = ""

    @property
    def fraction(self) -> float | None:
        """How much of the stage is done, 0 to 1; None while that is unknown."""
        return None if self.total is None else self.done / self.total if self.total else 1.0

    @property
    def is_finished(self) -> bool:
        """Whether this is the stage's last event."""
        return self.total is not None and self.done >= self.total


ProgressCallback = Callable[[Progress], object]
"""Called with each event, by one thread at a time. What it raises ends the work."""


class Stage:
    """A stage that is running; `Reporter.stage` makes it."""

    def __init__(self, callback: ProgressCallback | None, name: str, total: float | None, unit: str) -> None:
        self._callback = callback
        self._began = time.perf_counter()  # Windows' other clock stands still for 15 ms
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._last = Progress(name, 0, total, unit, 0.0)

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.perf_counter() - self._began

    def update(self, done: float | None = None, *, total: float | None = None, detail: str | None = None) -> None:
        """Report the stage's progress; omitted values do not change."""
        if self._callback is None:
            return
        with self._lock:
            last = self._last
            self._last = Progress(
                last.stage,
                last.done if done is None else done,
                last.total if total is None else total,
                last.unit,
                self.seconds,
                last.detail if detail is None else detail,
            )
            self._callback(self._last)

    def _finish(self) -> None:
        total = self._last.total
        if total is None:
            total = self._last.done or 1
        if not self._last.is_finished or self._last.seconds == 0:
            self.update(total, total=total)

    def _beat(self, stopped: threading.Event) -> None:
        while not stopped.wait(BEAT):
            try:
                self.update()
            except BaseException as error:  # noqa: BLE001 (raised where the stage ends, in the thread that began it)
                self._error = error
                return


class Reporter:
    """Reports the stages of one piece of work to a callback; without one it costs nothing.

    Args:
        callback: Called with each event.
    """

    def __init__(self, callback: ProgressCallback | None) -> None:
        self.callback = callback

    @contextlib.contextmanager
    def stage(self, name: str, *, total: float | None = None, unit: str = "", beats: bool = False) -> Iterator[Stage]:
        """Report the beginning and the end of a stage; a stage that raises has no end.

        Args:
            name: The stage.
            total: How much there is to do.
            unit: What is counted.
            beats: Whether to report from a thread twice a second, for work that blocks without telling how far it is.
        """
        stage = Stage(self.callback, name, total, unit)
        if self.callback is None:
            yield stage
            return
        stage.update()
        stopped = threading.Event()
        thread = threading.Thread(target=stage._beat, args=(stopped,), name=f"progress of {name}", daemon=True)  # noqa: SLF001
        if beats:
            thread.start()
        try:
            yield stage
        finally:
            stopped.set()
            if beats:
                thread.join()
        if stage._error is not None:  # noqa: SLF001
            raise stage._error  # noqa: SLF001
        stage._finish()  # noqa: SLF001


class ProgressPrinter:
    """Shows progress: a bar on a terminal or in a notebook, one line for each finished stage in a log file.

    Pass it as `progress=`; use it as a context manager, or call `close`, to end a line that an error interrupted.

    Args:
        file: Where to write; None for standard error.

    Example:
        >>> import sys, torch, npu_persist
        >>> with npu_persist.ProgressPrinter(sys.stdout) as progress:
        ...     _ = npu_persist.persist(torch.nn.Linear(4, 2), "doc-bar", (torch.zeros(1, 4),), progress=progress)
        example ...
        trace ...
    """

    INTERVAL = 0.1
    """Seconds between two redraws."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._drawn = 0.0
        self._is_open = False
        self._notebook: Any = _find_notebook() if file is None else None
        self._display: Any = None

    def __call__(self, event: Progress) -> None:
        """Show an event."""
        if self._notebook is not None:
            self._show_in_notebook(event)
        elif self._is_terminal:
            self._draw(event)
        elif event.is_finished:
            self._write(f"{_describe(event)}\n")

    def close(self) -> None:
        """End the line that is being drawn."""
        if self._is_open:
            self._write("\n")
            self._is_open = False

    def __enter__(self) -> ProgressPrinter:  # noqa: PYI034 (Self is new in Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _stream(self) -> TextIO | None:
        return sys.stderr if self._file is None else self._file

    @property
    def _is_terminal(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # it is closed
            return False

    def _write(self, text: str) -> None:
        stream = self._stream
        if stream is not None:  # a Windows program without a console has none
            with contextlib.suppress(OSError, ValueError):  # closed, or a pipe that nobody reads: no reason to fail
                stream.write(text)
                stream.flush()

    def _is_due(self, event: Progress) -> bool:
        now = time.monotonic()
        if not event.is_finished and now - self._drawn < self.INTERVAL:
            return False
        self._drawn = 0.0 if event.is_finished else now
        return True

    def _draw(self, event: Progress) -> None:
        if not self._is_due(event):
            return
        import shutil

        width = max(shutil.get_terminal_size().columns - 1, 20)
        text = f"{_describe(event, with_bar=True)}"[:width]
        self._write(f"\r{text:<{width}}{chr(10) if event.is_finished else ''}")
        self._is_open = not event.is_finished

    def _show_in_notebook(self, event: Progress) -> None:
        if not self._is_due(event):
            return
        shown = {"text/plain": _describe(event, with_bar=True)}
        if self._display is None:
            self._display = self._notebook(shown, raw=True, display_id=True)
        else:
            self._display.update(shown, raw=True)
        if event.is_finished:
            self._display = None


def _find_notebook() -> Any:
    """Return IPython's `display` inside of a notebook's kernel, else None."""
    if "ipykernel" not in sys.modules:
        return None
    from importlib import import_module

    return import_module("IPython.display").display


def _describe(event: Progress, *, with_bar: bool = False) -> str:
    parts = [f"{event.stage:<8}"]
    if with_bar and event.fraction is not None and event.unit:
        filled = round(20 * min(event.fraction, 1.0))
        parts.append(f"{event.fraction:4.0%} |{'█' * filled}{' ' * (20 - filled)}|")
    if event.unit == "bytes":
        total = "" if event.total is None else f" of {event.total / 1e6:.1f} MB"
        parts.append(f"{event.done / 1e6:.1f} MB{total}")
    elif event.unit:
        total = "" if event.total is None else f" of {event.total:g}"
        parts.append(f"{event.done:g}{total} {event.unit}")
    parts.append(f"{event.seconds:.1f} s")
    if event.detail:
        parts.append(one_line(event.detail))
    return "  ".join(parts)
