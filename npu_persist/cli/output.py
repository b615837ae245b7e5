"""What the command line shows: one sink for data, notes, progress, warnings and errors.

The promise: data and nothing else goes to stdout, as text or, with `--json`, as one JSON document. Everything else goes
to stderr; progress only where that is a terminal. Colour only on terminals, and never under NO_COLOR
(https://no-color.org).
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TextIO

    from npu_persist.progress import Progress

_BOLD, _RED, _YELLOW, _DIM = "1", "31", "33", "2"
"""Parameters of the escape sequences (ECMA-48, SGR)."""

_BAR = 30
"""Width of a bar, in characters."""

_LINE = 79
"""Characters of a line that even the narrowest terminal shows in one piece."""

_UNSAFE = re.compile("(?!\x1b\\[(?:0|1|2|31|33)m)[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What lets a text from elsewhere (a manifest, a hub's answer) steer a terminal: all but the colours from here."""

_ROUNDS_TO_NEXT_UNIT = 999.5
"""From here on three digits would read 1000."""


class Beat(Protocol):
    """What `load` reports while a compilation runs in a process of its own."""

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""

    @property
    def memory(self) -> int | None:
        """Bytes of memory that it holds; None where that cannot be told."""

    @property
    def line(self) -> str | None:
        """The last line that it said itself; None before the first."""


class Output:
    """One command's output."""

    def __init__(self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._open_line = False
        self._open_bar = False

    def show(self, data: object, text: str | Callable[[], str]) -> None:
        """Write the command's data to stdout.

        Args:
            data: What `--json` writes; made of what JSON has.
            text: What people read; called only where it is wanted.
        """
        if self.as_json:
            # No NaN literal: other languages' parsers refuse it.
            shown = json.dumps(data, indent=2, allow_nan=False)
        else:
            shown = text if isinstance(text, str) else text()
        if shown:
            self._write(self._stdout, shown + "\n")

    def heading(self, text: str) -> str:
        """Return `text` as a heading on stdout."""
        return _paint(text, _BOLD, self._stdout)

    def note(self, text: str) -> None:
        """Tell a person something that is no data."""
        self._write(self._stderr, text + "\n")

    def warning(self, text: str) -> None:
        """Write a warning to stderr."""
        self._write(self._stderr, f"{_paint('warning:', _YELLOW, self._stderr)} {text}\n")

    def error(self, text: str, advice: str | None = None) -> None:
        """Write an error to stderr, and what to do next."""
        self._write(self._stderr, f"{_paint('error:', _RED, self._stderr)} {text.rstrip()}\n")
        if advice:
            self._write(self._stderr, f"{_paint('advice:', _DIM, self._stderr)} {advice}\n")

    def progress(self) -> Callable[[Progress], None] | None:
        """Return a callback that shows one line a stage, or None where nobody would see it."""
        return self._show_stage if self._stderr.isatty() else None

    def bar(self, fraction: float, text: str) -> None:
        """Show how much is done, 0 to 1, as a bar in place of the last one; nothing where nobody would see it."""
        if not self._stderr.isatty():
            return
        full = round(fraction * _BAR)
        self._write(self._stderr, "")
        self._stderr.write(f"  [{'#' * full}{'.' * (_BAR - full)}] {fraction:4.0%}  {text}"[:_LINE])
        self._stderr.flush()
        self._open_bar = True

    def beat(self) -> Callable[[Beat], None] | None:
        """Return a callback that shows how long a compilation takes, or None where nobody would see it."""
        return (lambda beat: self._show_beat("compiling", beat)) if self._stderr.isatty() else None

    def beats(self) -> Callable[[str, Beat], None] | None:
        """Return a callback that shows the same of compilations that have names, or None where nobody would see it."""
        return self._show_beat if self._stderr.isatty() else None

    def _show_beat(self, what: str, beat: Beat) -> None:
        held = "" if beat.memory is None else f", {format_size(beat.memory)}"
        said = f"  {beat.line}" if beat.line else ""
        self._write(self._stderr, "")
        self._stderr.write(f"  {what}{format_seconds(beat.elapsed):>12}{held}{said}"[:_LINE])
        self._stderr.flush()
        self._open_bar = True

    def finish(self) -> None:
        """Wipe the bar and flush both streams, so that a closed pipe or a full disk can still be reported."""
        self._write(self._stderr, "")
        self._stdout.flush()
        self._stderr.flush()

    def _show_stage(self, event: Progress) -> None:
        percent = "" if event.is_finished or event.fraction is None else f"{event.fraction:5.0%}"
        self._stderr.write(f"\r  {event.stage:<8}{format_seconds(event.seconds):>12}{percent:<5}")
        self._open_line = True
        if event.is_finished:
            self._stderr.write("\n")
            self._open_line = False
        self._stderr.flush()

    def _write(self, stream: TextIO, text: str) -> None:
        if self._open_bar:  # stdout is the same terminal as a rule
            self._stderr.write(f"\r{' ' * _LINE}\r")
            self._stderr.flush()
            self._open_bar = False
        if stream is self._stderr and self._open_line:
            stream.write("\n")
            self._open_line = False
        # A Windows console of an old code page cannot show every name that a manifest can hold.
        encoding = stream.encoding or "utf-8"
        text = _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> list[str]:
    """Return the lines of an aligned table, the header first.

    Args:
        header: Names of the columns.
        rows: Cells as text.
        right: Names of the columns that are aligned to the right: numbers.
    """
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ).rstrip()
        for row in cells
    ]


def format_fields(fields: Mapping[str, str]) -> list[str]:
    """Return one `name  value` line for each field, the values aligned."""
    width = max(map(len, fields), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in fields.items()]


def format_section(title: str, lines: Sequence[str]) -> str:
    """Return a title and its lines, indented below it."""
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])


def format_size(size: int) -> str:
    """Return a size in bytes for people: `999 B`, `1.72 GB`; powers of 1000, as on a disk's label."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < _ROUNDS_TO_NEXT_UNIT:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def format_seconds(seconds: float) -> str:
    """Return a duration for people: `0.42 s`, `12.3 s`, `2 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.3g} s"


def _paint(text: str, colour: str, stream: TextIO) -> str:
    plain = (
        not stream.isatty()
        or bool(os.environ.get("NO_COLOR"))
        or os.environ.get("TERM") == "dumb"
        # Only the newer Windows terminal takes escape sequences without being asked first.
        or (sys.platform == "win32" and "WT_SESSION" not in os.environ)
    )
    return text if plain else f"\x1b[{colour}m{text}\x1b[0m"
