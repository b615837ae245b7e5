from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from npu_persist.cli.output import (
    Heading,
    Output,
    format_fields,
    format_seconds,
    format_size,
    format_table,
    join_blocks,
    section,
    table,
)
from npu_persist.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    Outputs = Callable[..., tuple[Output, io.StringIO, io.StringIO]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class OldConsole(io.TextIOWrapper):
    """A Windows console of code page 1252."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="cp1252")


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> Outputs:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.platform", "linux")

    def make(kind: type[io.StringIO] = Terminal, *, as_json: bool = False) -> tuple[Output, io.StringIO, io.StringIO]:
        stdout, stderr = kind(), kind()
        return Output(as_json=as_json, stdout=stdout, stderr=stderr), stdout, stderr

    return make


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (4096, "4.1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (1_722_000_000, "1.72 GB"),
        (5 * 10**15, "5e+03 TB"),
    ],
)
def test_sizes(size: int, shown: str) -> None:
    assert format_size(size) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "0 s"), (0.4213, "0.421 s"), (59.4, "59.4 s"), (59.9, "1 min 00 s"), (125.2, "2 min 05 s")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


def test_table_is_aligned_without_trailing_space() -> None:
    assert format_table(["NAME", "SIZE", "NOTE"], [["a", "1", ""], ["long-name", "12345", "x"]], right=["SIZE"]) == [
        "NAME        SIZE  NOTE",
        "a              1",
        "long-name  12345  x",
    ]


def test_fields_are_aligned() -> None:
    assert format_fields({"a": "1", "long": "2", "none": ""}) == ["a     1", "long  2", "none"]
    assert format_fields({}) == []


def test_text_or_json_and_only_that_is_made(outputs: Outputs) -> None:
    output, stdout, _ = outputs(as_json=True)
    output.show({"name": "ünet"}, lambda: pytest.fail("made text for nobody"))
    assert json.loads(stdout.getvalue()) == {"name": "ünet"}
    output, stdout, _ = outputs()
    output.show(None, lambda: "text")
    output.show(None, "")
    assert stdout.getvalue() == "text\n"


def test_json_has_no_nan(outputs: Outputs) -> None:
    with pytest.raises(ValueError, match="JSON"):
        outputs(as_json=True)[0].show(float("nan"), "")


def test_colour_on_a_terminal(outputs: Outputs) -> None:
    output, stdout, stderr = outputs()
    output.error("bad")
    assert "\x1b[31merror:\x1b[0m bad\n" in stderr.getvalue()
    output.show({}, lambda: [Heading("X"), "x"])
    assert stdout.getvalue() == "\x1b[1mX\x1b[0m\nx\n"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    output, stdout, stderr = outputs()
    monkeypatch.setenv(variable, value)
    output.error("bad")
    output.warning("careful")
    assert stderr.getvalue() == "error: bad\nwarning: careful\n"
    output.show({}, lambda: Heading("X"))
    assert stdout.getvalue() == "X\n"


def test_an_empty_no_color_counts_as_none(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    output, stdout, _ = outputs()
    output.show({}, lambda: Heading("X"))
    assert stdout.getvalue() != "X\n"


def test_no_colour_and_no_progress_in_a_file(outputs: Outputs) -> None:
    output, _, stderr = outputs(io.StringIO)
    output.error("bad")
    assert stderr.getvalue() == "error: bad\n"
    assert output.progress is None


def test_progress_is_a_line_a_stage(outputs: Outputs) -> None:
    output, stdout, stderr = outputs()
    show = output.progress
    assert show is not None
    show(Progress("convert", 0, 1.0, "", 0.0))
    show(Progress("convert", 1, 1, "", 12.34))
    show(Progress("check", 0, None, "", 0.0))
    output.error("bad")
    # What is left on the screen: the last text after each carriage return.
    lines = [line.rsplit("\r", 1)[-1] for line in stderr.getvalue().split("\n")]
    assert lines[0].split() == ["convert", "12.3", "s"]
    assert lines[1].split() == ["check", "0.0", "s"]
    assert lines[2].endswith("bad")
    assert stdout.getvalue() == ""


def test_an_old_console_shows_what_it_can() -> None:
    stdout = OldConsole()
    output = Output(as_json=False, stdout=stdout, stderr=io.StringIO())
    output.show(None, "unet ≤ é")
    output.finish()
    stdout.seek(0)
    assert stdout.read() == "unet \\u2264 é\n"


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x1b[31m", "\n", "\r", "\x9b", "\u202e", "\u200b", "\u2028", "\U000e0041"]
)
def test_no_text_steers_the_terminal(outputs: Outputs, text: str) -> None:
    output, stdout, _ = outputs()
    hostile = f"a{text}b"
    shown = f"a{text.encode('unicode_escape').decode()}b"
    output.show({}, hostile)
    output.show({}, lambda: [Heading(hostile), *section(hostile, [hostile]), *table(["X", "Y"], [[hostile, "y"]])])
    assert [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in stdout.getvalue().split("\n")] == [
        shown,
        shown,
        shown,
        f"  {shown}",
        f"{'X':{len(shown)}}  Y",
        f"{shown}  y",
        "",
    ]


def test_the_lines_of_a_message_are_indented(outputs: Outputs) -> None:
    output, _, stderr = outputs(io.StringIO)
    for write in (output.note, output.warning, output.error):
        write("bad\nok, signed by acme\n  a: b\x1b[2J\r")
    rest = "bad\n  ok, signed by acme\n  a: b\\x1b[2J"
    assert stderr.getvalue() == f"{rest}\\r\nwarning: {rest}\\r\nerror: {rest}\n"


def test_blocks_are_apart() -> None:
    assert join_blocks([[], ["a", "b"], [], ["c"]]) == ["a", "b", "", "c"]
    assert join_blocks([]) == []
