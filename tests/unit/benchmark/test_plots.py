from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from npu_persist.benchmark.plots import Bar, Chart, Picture, check_plots, draw
from npu_persist.errors import StoreError, UsageError
from tests.support.processes import run_python

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

PICTURE = Picture(
    title="unet:1 costs $5 & more_than $6",
    subtitle="CPU: ran on CPU (A <B>)\nopenvino 2026.4.1",
    labels=["CPU LATENCY", "CPU THROUGHPUT"],
    groups=["LATENCY", "THROUGHPUT"],
    charts=[
        Chart("frames per second", [Bar(10, "10 fps"), Bar(20, "20 fps")]),
        Chart("latency in milliseconds", [Bar(100, "100 ms", 130), Bar(95, "95 ms", 400)]),
    ],
)


def widths(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]


def texts(path: Path) -> str:
    """The comments of an SVG hold its texts, whose letters are drawn as curves."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))  # noqa: S314 (written a moment ago)
    root = ET.parse(path, parser).getroot()  # noqa: S314
    return "\n".join(element.text or "" for element in root.iter(ET.Comment))  # type: ignore[arg-type]


def test_one_picture_is_drawn_in_both_formats(tmp_path: Path) -> None:
    png, svg = tmp_path / "a.png", tmp_path / "A.SVG"
    draw([str(png), str(svg)], PICTURE)
    height, width, _ = imread(png).shape
    assert width > height > 200
    assert png.read_bytes()[:4] == b"\x89PNG"
    shown = texts(svg)
    for text in (
        "unet:1 costs $5",
        "frames per second",
        "latency in milliseconds",
        "CPU THROUGHPUT",
        "95 ms",
        "2026.4",
    ):
        assert text in shown
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "A.SVG"}


def test_bars_are_as_long_as_their_values_and_their_texts_are_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw([str(tmp_path / "a.png")], PICTURE)
    (figure,) = figures
    fps, latency = figure.axes
    assert widths(fps) == [10, 20]
    assert widths(latency) == [100, 95]
    assert fps.patches[0].get_facecolor() != fps.patches[1].get_facecolor()
    assert fps.patches[0].get_facecolor() == latency.patches[0].get_facecolor()
    assert fps.get_ylim()[0] > fps.get_ylim()[1]  # the first is on top
    for axes in (fps, latency):
        for text in axes.texts:
            assert text.get_window_extent().x1 <= axes.get_window_extent().x1 + 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["LATENCY", "THROUGHPUT"]


def test_one_group_needs_no_legend(tmp_path: Path) -> None:
    one = Picture("t", "s", ["CPU"], [""], [Chart("fps", [Bar(0.0, "0")])])
    draw([str(tmp_path / "a.svg")], one)
    assert "legend" not in (tmp_path / "a.svg").read_text()


def test_nothing_global_changes(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib as mpl\n"
        # Not rcParams.items(): that decides on a backend.
        "before = repr(sorted(dict.items(mpl.rcParams), key=str))\n"
        "from npu_persist.benchmark.plots import *\n"
        "picture = Picture('t', 's', ['a'], ['b'], [Chart('c', [Bar(1, 'd')])])\n"
        f"draw([{str(tmp_path / 'a.png')!r}, {str(tmp_path / 'a.svg')!r}], picture)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert repr(sorted(dict.items(mpl.rcParams), key=str)) == before\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_an_old_picture_is_replaced_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    draw([str(path)], PICTURE)
    assert path.read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*folder\.png"):
        draw([str(tmp_path / "folder.png")], PICTURE)
    assert {found.name for found in tmp_path.iterdir()} == {"a.png", "folder.png"}


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    check_plots([])
    check_plots([str(tmp_path / "a.png"), str(tmp_path / "a.SVG")])
    with pytest.raises(UsageError, match=r"a\.jpg: expected a name that ends in \.png or \.svg"):
        check_plots([str(tmp_path / "a.jpg")])
    with pytest.raises(StoreError, match="does not exist"):
        check_plots([str(tmp_path / "absent" / "a.png")])


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(UsageError, match=r"pip install 'npu_persist\[bench\]'"):
        check_plots([str(tmp_path / "a.png")])
    check_plots([])
