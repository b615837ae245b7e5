"""Progress on a terminal, in code, and nowhere else."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from npu_persist.progress import Progress, Reporter

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(reporter: Reporter) -> None:
    with reporter.stage("trace"):
        reporter.moved(0.5)


def test_a_callback_gets_each_step() -> None:
    events: list[Progress] = []
    run(Reporter(events.append))
    assert [(event.stage, event.done, event.fraction) for event in events] == [
        ("trace", False, None),
        ("trace", False, 0.5),
        ("trace", True, None),
    ]
    assert events[-1].elapsed >= 0


def test_nothing_is_written_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    run(Reporter(None))
    assert stream.getvalue() == ""


def test_a_terminal_shows_a_line_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    run(Reporter(None))
    assert stream.getvalue().count("\n") == 1
    assert "50%" in stream.getvalue()
    assert stream.getvalue().split("\r")[-1].startswith("trace")
