from __future__ import annotations

import io
import sys
import time
import types
from typing import Any

import pytest

from npu_persist import progress as room
from npu_persist.progress import Progress, ProgressPrinter, Reporter, one_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def collect() -> tuple[list[Progress], Reporter]:
    events: list[Progress] = []
    return events, Reporter(events.append)


def test_a_stage_of_one_step_begins_and_ends() -> None:
    events, reporter = collect()
    with reporter.stage("trace"):
        pass
    assert [(event.stage, event.done, event.total, event.is_finished) for event in events] == [
        ("trace", 0, None, False),
        ("trace", 1, 1, True),
    ]


def test_a_stage_that_counts_ends_once() -> None:
    events, reporter = collect()
    with reporter.stage("pull", total=10, unit="bytes") as stage:
        stage.update(4, detail="model.xml")
        stage.update(10)
    assert [event.done for event in events] == [0, 4, 10]
    assert [event.fraction for event in events] == [0, 0.4, 1]
    assert events[-1].detail == "model.xml"
    assert sum(event.is_finished for event in events) == 1


def test_an_empty_stage_ends_too() -> None:
    events, reporter = collect()
    with reporter.stage("pull", total=0, unit="bytes"):
        pass
    assert events[-1].is_finished
    assert events[-1].fraction == 1


def test_a_stage_that_raises_has_no_end() -> None:
    events, reporter = collect()
    with pytest.raises(KeyError), reporter.stage("trace"):
        raise KeyError
    assert not any(event.is_finished for event in events)


def test_a_blocking_stage_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BEAT", 0.01)
    events, reporter = collect()
    with reporter.stage("compile", beats=True):
        deadline = time.monotonic() + 10
        while len(events) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(events) >= 5
    assert [event.seconds for event in events] == sorted(event.seconds for event in events)


def test_what_the_callback_raises_in_a_beat_is_raised_where_the_stage_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BEAT", 0.01)
    calls: list[Progress] = []

    def fail_later(event: Progress) -> None:
        calls.append(event)
        if len(calls) > 1:
            raise InterruptedError

    def work() -> None:
        with Reporter(fail_later).stage("compile", beats=True):
            deadline = time.monotonic() + 10
            while len(calls) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)

    with pytest.raises(InterruptedError):
        work()


def test_without_a_callback_no_thread_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("a thread was made")

    monkeypatch.setattr("threading.Thread", refuse)
    with Reporter(None).stage("compile", beats=True) as stage:
        stage.update(3)


def test_the_printer_writes_a_line_a_finished_stage_to_a_file() -> None:
    file = io.StringIO()
    reporter = Reporter(ProgressPrinter(file))
    with reporter.stage("trace"):
        pass
    with reporter.stage("pull", total=2_000_000, unit="bytes") as stage:
        stage.update(1_000_000, detail="model.bin")
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("trace")
    assert "2.0 MB of 2.0 MB" in lines[1]
    assert lines[1].endswith("model.bin")


def test_the_printer_redraws_one_line_on_a_terminal() -> None:
    file = Terminal()
    printer = ProgressPrinter(file)

    def fail() -> None:
        with printer, Reporter(printer).stage("pull", total=4, unit="files") as stage:
            stage.update(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    text = file.getvalue()
    assert text.startswith("\r")
    assert text.endswith("\n")  # so that what comes next starts a line
    assert text.count("\n") == 1


def test_control_characters_of_a_detail_do_not_reach_the_terminal() -> None:
    file = io.StringIO()
    ProgressPrinter(file)(Progress("pull", 1, 1, "files", 0.0, "\x1b[31mred\nnext"))
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().count("\n") == 1


def test_a_closed_stream_does_not_stop_the_work() -> None:
    file = io.StringIO()
    file.close()
    ProgressPrinter(file)(Progress("pull", 1, 1, "files", 0.0))


def test_the_printer_updates_one_display_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            assert raw
            shown.append(data)

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        shown.append(data)
        return Handle()

    fake: Any = types.ModuleType("IPython.display")
    fake.display = display
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    with Reporter(ProgressPrinter()).stage("trace"):
        pass
    assert [data["text/plain"][:5] for data in shown] == ["trace", "trace"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unet é 模型 😀", "unet é 模型 😀"),
        ("a\tb\xa0c\u3000d", "a b\xa0c\u3000d"),
        ("a\nb\r\x1b[31m\x7f\x85", "a\\nb\\r\\x1b[31m\\x7f\\x85"),
        ("\u202e\u2066\u200b\ufeff\xad\u2028\u2029", "\\u202e\\u2066\\u200b\\ufeff\\xad\\u2028\\u2029"),
        ("\ud800\udcff", "\\ud800\\udcff"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert one_line(shown) == shown
