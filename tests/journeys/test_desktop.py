"""The window of `examples/desktop`, driven on a virtual screen: it loads, cancels, falls back and answers."""

from __future__ import annotations

import gc
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from openvino import opset13 as ops

from npu_persist.bundle.graph_records import Port
from npu_persist.store import Store
from tests.support.graphs import make_model, parameter, write_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from npu_persist import Progress
    from tests.support.hub_server import HubServer

SCRIPT = Path(__file__).parents[2] / "examples" / "desktop" / "deploy.py"
SHAPES = ["circle", "triangle", "square", "star", "cross"]
LINE = [[(20.0, 20.0), (300.0, 200.0)]]


@pytest.fixture(scope="module")
def desktop() -> Iterator[ModuleType]:
    """The example's module, and a screen for its windows."""
    pytest.importorskip("tkinter", reason="this Python has no tkinter; .ci/run installs it")
    if not SCRIPT.exists():
        pytest.skip("the examples are not here: a checkout has them")
    if sys.platform != "linux" or shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb, the virtual screen; .ci/run installs it")
    spec = importlib.util.spec_from_file_location("desktop_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "900x700x24", "-nolisten", "tcp"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as screen,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert screen.stdout is not None
        patch.setenv("DISPLAY", f":{screen.stdout.readline().strip()}")
        yield module
        screen.terminate()


@pytest.fixture
def open_window(desktop: ModuleType) -> Iterator[Callable[..., Any]]:
    windows = []

    def open_one(reference: str = "shapes", device: str = "CPU", **options: Any) -> Any:
        windows.append(desktop.Window(reference, device, **options))
        return windows[-1]

    yield open_one
    while windows:
        if not windows[-1].is_closed:
            windows[-1].close()
        windows.pop()
    gc.collect()  # Tcl aborts where another thread, that of the next load, collects a window


@pytest.fixture
def publish(store_home: Path) -> Callable[[], Path]:
    """Publishes a stand-in for the example's network: some function of the segments."""

    def make() -> Path:
        store = Store(store_home)
        segments, likely = Port("segments", "float32", (1, 64, 4)), Port("likely", "float32", (1, 5))
        node = parameter(segments)
        weights = np.linspace(-0.01, 0.01, 20, dtype=np.float32).reshape(4, 5)
        mean = ops.reduce_mean(node, ops.constant(np.array([1], np.int64)), keep_dims=False)
        result = ops.softmax(ops.matmul(mean, ops.constant(weights), transpose_a=False, transpose_b=False), axis=1)
        with store.stage() as staging:
            graph = make_model([node], [("likely", result)])
            manifest = write_graph(staging, graph, [segments], [likely], name="shapes")
            described = msgspec.structs.replace(manifest, metadata={"shapes": SHAPES})
            (staging / "manifest.json").write_bytes(described.to_json())
            return store.publish(staging).path

    return make


def says(window: Any, text: str) -> Callable[[], bool]:
    return lambda: text in str(window.status["text"])


@pytest.fixture
def shown(desktop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the window said of its progress, each for however short a time."""
    texts: list[str] = []
    show = desktop.Window._show_progress

    def record(window: Any, event: Progress) -> None:
        show(window, event)
        texts.append(str(window.status["text"]))

    monkeypatch.setattr(desktop.Window, "_show_progress", record)
    return texts


def test_loads_and_answers_what_is_drawn(desktop: ModuleType, publish: Any, open_window: Any) -> None:
    publish()
    window = open_window()
    desktop.draw(window, LINE)  # while it loads: answered as soon as it can be
    assert (window.strokes[0][0], window.strokes[0][-1]) == tuple(LINE[0])
    desktop.wait_until(window, says(window, "Preparing for this device, "))
    desktop.wait_until(window, lambda: window.is_settled)
    assert window.status["text"] == "Ready. Runs on CPU."
    assert window.reason["text"] == ""
    assert not window.button.winfo_ismapped()
    expected = window.model(desktop.make_segments(window.strokes, 64))[0]
    assert list(window.answers) == SHAPES
    np.testing.assert_allclose(list(window.answers.values()), expected, atol=0.02)
    window.clear()
    assert (window.strokes, window.answers) == ([], {})


def test_falls_back_and_says_why(desktop: ModuleType, publish: Any, open_window: Any) -> None:
    publish()
    window = open_window(device="NPU", fallback=("CPU",))
    desktop.wait_until(window, lambda: window.model is not None)
    assert window.status["text"] == "Ready. Runs on CPU instead of NPU."
    assert "no NPU on this machine" in window.reason["text"]


def test_says_why_it_cannot_load_and_tries_again(desktop: ModuleType, publish: Any, open_window: Any) -> None:
    window = open_window()
    desktop.wait_until(window, says(window, "could not be loaded"))
    assert "no bundle 'shapes'" in window.reason["text"]
    publish()
    window.button.invoke()
    desktop.wait_until(window, lambda: window.model is not None)


def test_cancels_a_compilation(desktop: ModuleType, publish: Any, open_window: Any, shown: list[str]) -> None:
    publish()
    window = open_window()
    desktop.wait_until(window, lambda: any(text.startswith("Preparing") for text in shown))
    window.button.invoke()
    desktop.wait_until(window, says(window, "Cancelled."))
    assert window.model is None
    window.button.invoke()
    desktop.wait_until(window, lambda: window.model is not None)


def test_pulls_with_progress_and_cancels_that(  # noqa: PLR0913, PLR0917 (fixtures)
    desktop: ModuleType, publish: Any, open_window: Any, hub: HubServer, store_home: Path, shown: list[str]
) -> None:
    folder = publish()
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "model.bin"]
    hub.put("ci/shapes", {file.relative_to(folder).as_posix(): file.read_bytes() for file in files})
    window = open_window("hf://ci/shapes", store=store_home / "other")
    window.cancel()
    desktop.wait_until(window, says(window, "Cancelled."))
    assert window.model is None
    window.button.invoke()
    desktop.wait_until(window, lambda: window.model is not None)
    assert any(text.startswith("Downloading: ") for text in shown)


def test_closes_while_it_loads(publish: Any, open_window: Any) -> None:
    publish()
    window = open_window()
    window.close()
    assert window.is_closed
    assert not window.is_loading


@pytest.mark.parametrize(
    "strokes",
    [
        LINE,
        [[(1.0, 1.0), (1.0, 1.0)]],
        [[(5.0, 5.0)], [(0.0, 0.0), (9.0, 0.0), (9.0, 9.0)]],
        [[(float(place), 0.0), (float(place), 3.0)] for place in range(100)],
    ],
    ids=["line", "dot", "with a click", "more than it takes"],
)
def test_any_drawing_becomes_so_many_segments(desktop: ModuleType, strokes: Any) -> None:
    segments = desktop.make_segments(strokes, 64)
    assert (segments.shape, segments.dtype) == ((1, 64, 4), np.float32)
    points = np.array([point for stroke in strokes if len(stroke) > 1 for point in stroke])
    ends = segments.reshape(-1, 2)
    assert (ends >= points.min(axis=0)).all()
    assert (ends <= points.max(axis=0)).all()
    assert ends[0].tolist() == points[0].tolist()
