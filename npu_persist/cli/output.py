"""Output of the command line: data as text or JSON on stdout; notes, progress, warnings and errors on stderr.

What is shown is made of lines. A line may hold text from elsewhere (a manifest, a hub's answer): `Output` shows its
line breaks, and whatever else would steer a terminal, as escape sequences. Colour is added after that, to headings.
Progress shows on terminals only; colour too, and never with NO_COLOR (https://no-color.org).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npu_persist.progress import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TextIO

    from npu_persist.progress import ProgressPrinter

_BOLD, _RED, _YELLOW = "1", "31", "33"
"""Parameters of the escape sequences (ECMA-48, SGR)."""

_ROUNDS_TO_NEXT_UNIT = 999.5
"""From here on three digits would read 1000."""


class Heading(str):
    """A line that is a heading."""

    __slots__ = ()


class Output:
    """One command's output."""

    def __init__(self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._printer: ProgressPrinter | None = None

    def show(self, data: object, text: str | Callable[[], str | Sequence[str]]) -> None:
        """Write the command's data to stdout: as JSON, or as the text, which is a line or several."""
        if self.as_json:
            import json

            import msgspec

            # No NaN: it is not JSON, and other languages' parsers refuse it.
            shown = json.dumps(msgspec.to_builtins(data, enc_hook=_to_builtin), indent=2, allow_nan=False) + "\n"
        else:
            made = text if isinstance(text, str) else text()
            lines = [made] if isinstance(made, str) and made else made
            shown = "".join(self._format_line(line) for line in lines)
        if shown:
            self._write(self._stdout, shown)

    def note(self, text: str) -> None:
        """Write something to stderr that is not data."""
        self._write(self._stderr, _format_block(text))

    def warning(self, text: str) -> None:
        """Write a warning to stderr."""
        self._write(self._stderr, f"{_paint('warning:', _YELLOW, self._stderr)} {_format_block(text)}")

    def error(self, text: str) -> None:
        """Write an error to stderr."""
        self._write(self._stderr, f"{_paint('error:', _RED, self._stderr)} {_format_block(text.rstrip())}")

    @property
    def progress(self) -> ProgressPrinter | None:
        """The printer to pass as `progress=`; None where stderr is not a terminal."""
        if self._printer is None and self._stderr.isatty():
            from npu_persist.progress import ProgressPrinter

            self._printer = ProgressPrinter(self._stderr)
        return self._printer

    def finish(self) -> None:
        """Flush both streams, so that a closed pipe or a full disk can still be reported."""
        self._close_progress()
        self._stdout.flush()
        self._stderr.flush()

    def _format_line(self, line: str) -> str:
        text = one_line(line)
        return f"{_paint(text, _BOLD, self._stdout) if isinstance(line, Heading) else text}\n"

    def _write(self, stream: TextIO, text: str) -> None:
        self._close_progress()
        # A Windows console of an old code page cannot show every name that a manifest can hold.
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _close_progress(self) -> None:
        if self._printer is not None:  # stdout is usually the same terminal
            self._printer.close()


def _to_builtin(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def pick(record: object, *names: str) -> dict[str, Any]:
    """Return attributes of a record by name, as JSON shows them; None for those that it does not have."""
    return {name: getattr(record, name, None) for name in names}


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table with its header as a heading; none without rows. See `format_table`."""
    first, *lines = format_table(header, rows, right=right)
    return [Heading(first), *lines] if rows else []


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Return a title as a heading, and indented lines."""
    return [Heading(title), *(f"  {line}".rstrip() for line in lines)]


def join_blocks(blocks: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of all blocks, with an empty line between two; blocks without lines are left out."""
    return [line for block in blocks if block for line in ("", *block)][1:]


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> list[str]:
    """Return the lines of an aligned table, the header first."""
    cells = [list(header), *(list(map(one_line, row)) for row in rows)]
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


def _format_block(text: str) -> str:
    """Return a message of several lines with all but the first indented: none of them looks like one of ours."""
    first, *others = map(one_line, text.split("\n"))
    return "".join([f"{first}\n", *(f"{line if line.startswith('  ') else f'  {line}'.rstrip()}\n" for line in others)])


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


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, never as 1.2e+03."""
    return f"{value:.{digits}g}" if value < 10**digits - 0.5 else f"{value:.0f}"


def _paint(text: str, colour: str, stream: TextIO) -> str:
    plain = (
        not stream.isatty()
        or bool(os.environ.get("NO_COLOR"))
        or os.environ.get("TERM") == "dumb"
        # Only the newer Windows terminal takes escape sequences without being asked first.
        or (sys.platform == "win32" and "WT_SESSION" not in os.environ)
    )
    return text if plain else f"\x1b[{colour}m{text}\x1b[0m"
