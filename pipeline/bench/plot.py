"""The plot of a benchmark: a panel for each part, a line for each row, and the requirements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipeline.bench.output import figure_text, ratio_text
from pipeline.bench.results import Part, Row

__all__ = ["PLOT", "save_plot"]

PLOT = "bench.png"

_INK, _MUTED, _LINE = "#1f2328", "#59636e", "#d1d9e0"
_PLAIN, _MET, _MISSED = "#7d8590", "#1a7f37", "#cf222e"
_WIDTH_IN = 9.0
_HEAD_IN, _PANEL_IN, _ROW_IN = 0.5, 1.0, 0.28
_DPI = 130
_LEGEND = "Vertical lines: requirements; green: met, red: not met"
_STYLE: Any = {
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "ytick.labelcolor": _INK,
}


def save_plot(path: Path, parts: Sequence[Part], *, title: str) -> None:
    """Draw the parts below each other, and write a PNG file."""
    shown = [(part, _shown(part)) for part in parts]
    heights = [_PANEL_IN + _ROW_IN * len(rows) for _, rows in shown]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, sum(heights) + _HEAD_IN), layout="constrained")
        panels = figure.subplots(len(shown), squeeze=False, height_ratios=heights)[:, 0]
        for axes, (part, rows) in zip(panels, shown, strict=True):
            _draw(axes, part, rows)
        figure.suptitle(f"{title}\n{_LEGEND}", x=0.01, ha="left", fontsize=10)
        figure.savefig(path, dpi=_DPI, facecolor="white")


def _shown(part: Part) -> list[Row]:
    """The rows with a ratio, or with a value in the unit of the first row."""
    if part.drawn == "ratio":
        return [row for row in part.rows if row.ratio is not None]
    return [row for row in part.rows if row.unit == part.rows[0].unit]


def _draw(axes: Axes, part: Part, rows: Sequence[Row]) -> None:
    for line, row in enumerate(rows):
        colour = {None: _PLAIN, True: _MET, False: _MISSED}[row.is_met]
        at, text = row.value, figure_text(row.value)
        if part.drawn == "ratio" and row.ratio is not None:
            at, interval = row.ratio.value, row.ratio.interval or ()
            text = f"{ratio_text(at)}  ({' to '.join(map(ratio_text, interval))})"
            axes.plot(interval, [line] * len(interval), color=colour, linewidth=4, solid_capstyle="round", alpha=0.4)
        axes.plot([at], [line], "o", color=colour, markersize=6)
        axes.annotate(text, (1.02, line), xycoords=("axes fraction", "data"), va="center", annotation_clip=False)
        _draw_ask(axes, part, row, line)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(f"{part.name}: {part.title}")
    axes.set_xlabel(f"times {part.ratio_to}" if part.drawn == "ratio" else rows[0].unit)
    if part.drawn == "value":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_ask(axes: Axes, part: Part, row: Row, line: int) -> None:
    if row.ask is None or row.ask.of != part.drawn:
        return
    for bound in (row.ask.least, row.ask.most):
        if bound is not None:
            axes.plot([bound, bound], [line - 0.4, line + 0.4], color=_INK, linewidth=1.5)
