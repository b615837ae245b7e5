"""Output of the command line: data as text or JSON on stdout; notes, progress, warnings and errors on stderr.

Progress shows on terminals only; colour too, and never with NO_COLOR (https://no-color.org).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from npu_persist.progress import ProgressPrinter

_BOLD, _RED, _YELLOW = "1", "31", "33"
"""Parameters of the escape sequences (ECMA-48, SGR)."""

_UNSAFE = re.compile("(?!\x1b\\[(?:0|1|31|33)m)[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that would let text from elsewhere (a manifest, a hub's answer) control the terminal; not our colours."""

_ROUNDS_TO_NEXT_UNIT = 999.5
"""From here on three digits would read 1000."""


class Output:
    """One command's output."""

    def __init__(self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._printer: ProgressPrinter | None = None

    def show(self, data: object, text: str | Callable[[], str]) -> None:
        """Write the command's data to stdout."""
        if self.as_json:
            import json

            import msgspec

            # No NaN: it is not JSON, and other languages' parsers refuse it.
            shown = json.dumps(msgspec.to_builtins(data, enc_hook=_to_builtin), indent=2, allow_nan=False)
        else:
            shown = text if isinstance(text, str) else text()
        if shown:
            self._write(self._stdout, shown + "\n")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
        """Return a table with its header as a heading; nothing without rows. See `format_table`."""
        first, *lines = format_table(header, rows, right=right)
        return "\n".join([self.heading(first), *lines]) if rows else ""

    def section(self, title: str, lines: Sequence[str]) -> str:
        """Return a title as a heading, and indented lines."""
        return "\n".join([self.heading(title), *(f"  {line}".rstrip() for line in lines)])

    def heading(self, text: str) -> str:
        """Return `text` as a heading on stdout."""
        return _paint(text, _BOLD, self._stdout)

    def note(self, text: str) -> None:
        """Write something to stderr that is not data."""
        self._write(self._stderr, text + "\n")

    def warning(self, text: str) -> None:
        """Write a warning to stderr."""
        self._write(self._stderr, f"{_paint('warning:', _YELLOW, self._stderr)} {text}\n")

    def error(self, text: str) -> None:
        """Write an error to stderr."""
        self._write(self._stderr, f"{_paint('error:', _RED, self._stderr)} {text.rstrip()}\n")

    @property
    def progress(self) -> ProgressPrinter | None:
        """The printer to pass as `progress=`; None where stderr is not a terminal."""
        if self._printer is None and self._stderr.isatty():
            from npu_persist.progress import ProgressPrinter

            self._printer = ProgressPrinter(self._stderr)
        return self._printer

    def finish(self) -> None:
        """Flush both streams, so that a closed pipe or a full disk can still be reported."""
        self._write(self._stderr, "")
        self._stdout.flush()
        self._stderr.flush()

    def _write(self, stream: TextIO, text: str) -> None:
        if self._printer is not None:  # stdout is usually the same terminal
            self._printer.close()
        # A Windows console of an old code page cannot show every name that a manifest can hold.
        encoding = stream.encoding or "utf-8"
        text = _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _to_builtin(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def pick(record: object, *names: str) -> dict[str, Any]:
    """Return attributes of a record by name, as JSON shows them; None for those that it does not have."""
    return {name: getattr(record, name, None) for name in names}


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> list[str]:
    """Return the lines of an aligned table, the header first."""
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
