"""Plots of a benchmark: bar charts side by side, as PNG or SVG.

Matplotlib is used without pyplot, so that no window opens and no setting of the process changes.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_persist.errors import StoreError, UsageError
from npu_persist.files.filesystem import check_path

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMATS = (".png", ".svg")

_COLOURS = ("#0068b5", "#f0a020", "#5b8c3a", "#8c5bb0")
"""One for each group of bars; distinct for the colour-blind too, and in print."""

_INK, _PALE = "#222222", "#666666"


@dataclass(frozen=True)
class Bar:
    """One bar, and the text at its end."""

    value: float
    text: str
    reach: float | None = None
    """Where a thin line from the bar's end goes to: a percentile, a highest value."""


@dataclass(frozen=True)
class Chart:
    """Bars with a title that names the unit."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Picture:
    """Charts side by side, with the same bars from top to bottom."""

    title: str
    subtitle: str
    """Small print at the foot: what the numbers depend on."""
    labels: Sequence[str]
    """Names of the bars."""
    groups: Sequence[str]
    """The group of each bar, which gives it its colour; a legend names them if there are several."""
    charts: Sequence[Chart]


def check_plots(paths: Sequence[str]) -> None:
    """Check, before anything is measured, that plots can be drawn and written to these paths."""
    for path in map(Path, paths):
        check_path(path, "--plot")
        if path.suffix.lower() not in FORMATS:
            raise UsageError(f"--plot {path}: expected a name that ends in .png or .svg")
        if not path.absolute().parent.is_dir():
            raise StoreError(f"--plot {path}: the folder {path.absolute().parent} does not exist; create it first")
    if paths and importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib, which is not installed here: python -m pip install 'npu_persist[bench]'"
        )


def draw(paths: Sequence[str], picture: Picture) -> None:
    """Draw a picture into each of the files; an existing file is replaced."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = 10 + 0.09 * max(map(len, picture.labels)), 1.9 + 0.5 * len(picture.labels)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.04))
    FigureCanvasAgg(figure)
    # Names are not formulas: a $ in one is a $.
    figure.suptitle(picture.title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=_INK, parse_math=False)
    colours = dict(zip(dict.fromkeys(picture.groups), _COLOURS * len(picture.groups), strict=False))
    axes = figure.subplots(1, len(picture.charts), sharey=True, squeeze=False)[0]
    for axis, chart in zip(axes, picture.charts, strict=True):
        _draw_chart(axis, chart, picture.labels, [colours[group] for group in picture.groups])
    figure.supxlabel(picture.subtitle, x=0.012, ha="left", fontsize=8.5, color=_PALE, parse_math=False)
    if len(colours) > 1:
        from matplotlib.patches import Patch

        handles = [Patch(color=colour, label=group) for group, colour in colours.items()]
        figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), frameon=False, fontsize=9)
    for path in paths:
        _save(figure, path)


def _draw_chart(axis: Any, chart: Chart, labels: Sequence[str], colours: Sequence[str]) -> None:
    places = range(len(labels))
    axis.barh(places, [bar.value for bar in chart.bars], height=0.62, color=colours)
    for place, bar in zip(places, chart.bars, strict=True):
        end = bar.value if bar.reach is None else max(bar.reach, bar.value)
        if bar.reach is not None:
            axis.plot([bar.value, end], [place, place], color=_PALE, linewidth=1.2)
            axis.plot([end, end], [place - 0.14, place + 0.14], color=_PALE, linewidth=1.2)
        axis.annotate(
            bar.text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9, color=_INK
        )
    # Room for the texts to the right of the longest bar.
    longest = max(max(bar.value, bar.reach or 0) for bar in chart.bars)
    axis.set_xlim(0, 1.4 * longest or 1)
    axis.set_yticks(places, labels, fontsize=9.5, color=_INK, parse_math=False)
    axis.set_ylim(len(labels) - 0.45, -0.55)
    axis.set_title(chart.title, loc="left", fontsize=10, color=_INK, parse_math=False)
    axis.locator_params(axis="x", nbins=6)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8.5, colors=_PALE)
    axis.grid(axis="x", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color("#aaaaaa")


def _save(figure: Any, path: str) -> None:
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        figure.savefig(part, format=Path(path).suffix[1:].lower(), dpi=150)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}", errno=error.errno) from error
    finally:
        part.unlink(missing_ok=True)
