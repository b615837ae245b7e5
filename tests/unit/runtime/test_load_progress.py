"""What `load` tells a progress callback."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist import load
from npu_persist.progress import Reporter
from npu_persist.store import Store
from tests.support.graphs import publish_affine
from tests.support.loads import is_right

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist import Progress


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path)
    publish_affine(found)
    return found


def test_a_compilation_begins_beats_and_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from npu_persist.compilation.local import compile_graph
    from npu_persist.runtime import sources

    events: list[Progress] = []
    has_beaten = threading.Event()

    def note(event: Progress) -> None:
        events.append(event)
        if len(events) >= 5:
            has_beaten.set()

    def compile_slowly(*args: Any) -> Any:
        assert has_beaten.wait(60)
        return compile_graph(*args)

    monkeypatch.setattr("npu_persist.progress.BEAT", 0.01)
    monkeypatch.setattr(sources, "compile_graph", compile_slowly)
    assert is_right(load("affine", "CPU", progress=note, store=store))
    assert {event.stage for event in events} == {"compile"}
    assert not any(event.is_finished for event in events[:-1])
    assert events[-1].is_finished
    assert events[-1].detail == "CPU"


def test_what_is_in_the_cache_has_nothing_to_tell(store: Store) -> None:
    load("affine", "CPU", store=store)
    events: list[Progress] = []
    load("affine", "CPU", progress=events.append, store=store)
    assert events == []


def test_what_the_callback_raises_ends_the_load(store: Store) -> None:
    def refuse(event: Progress) -> None:
        raise ZeroDivisionError(event.stage)

    with pytest.raises(ZeroDivisionError, match="compile"):
        load("affine", "CPU", progress=refuse, store=store)


def test_nobody_listening_costs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reporter, "stage", lambda *_args, **_options: pytest.fail("somebody reports"))
    assert is_right(load("affine", "CPU", store=store))
