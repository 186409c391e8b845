"""The figures of the page as SVG by matplotlib; colours and font come from the page's style sheet."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from stages.report.page.content import Curve, Difference, JointRow, Phase, Who
from stages.report.page.wording import signed_text

__all__ = ["curves_figure", "differences_figure", "joints_figure"]

# Matplotlib cannot draw CSS variables, so it draws unique colours, and ``_svg`` replaces them by variables.
_INK, _MUTED, _LINE = "#010203", "#010204", "#010205"
_COLOURS: dict[Who, str] = {
    "primary": "#010211",
    "senior": "#010212",
    "student": "#010213",
    "baseline": "#010214",
    "other": "#010215",
}
_VARIABLES = {_INK: "ink", _MUTED: "muted", _LINE: "line", **{colour: str(who) for who, colour in _COLOURS.items()}}
_MARKERS: dict[Who, str] = {"primary": "s", "senior": "D", "student": "o", "baseline": "v", "other": "x"}
_DASHES: dict[Who, str] = {"primary": "-", "senior": "--", "student": "-", "baseline": "--", "other": ":"}
_WIDTH_IN = 5.4
_FAR = 3.0
"""If the highest loss is more than this many times the lowest, the scale is logarithmic."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "odkd",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def differences_figure(differences: Sequence[Difference]) -> str:
    """Each difference with its interval, and a line at zero, which a significant interval does not cross."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(height_in=1.0 + 0.5 * len(differences))
        for row, item in enumerate(differences):
            found, colour = item.bootstrap, _COLOURS[item.who]
            axes.plot([found.low, found.high], [row, row], color=colour, linewidth=3, solid_capstyle="round")
            axes.plot([found.difference], [row], _MARKERS[item.who], color=colour, markersize=9)
            # The number stands on the side away from zero, so that the line at zero never crosses it.
            end, offset, side = (found.high, 8, "left") if found.difference >= 0 else (found.low, -8, "right")
            text: dict[str, Any] = {"textcoords": "offset points", "ha": side, "va": "center", "color": _INK}
            axes.annotate(signed_text(found.difference), (end, row), (offset, 0), **text)
        axes.margins(x=0.18)
        axes.axvline(0, color=_INK, linewidth=1)
        axes.set_yticks(range(len(differences)), [f"{item.name_b}\nminus {item.name_a}" for item in differences])
        axes.set_ylim(len(differences) - 0.5, -0.7)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference of AP, with 95 % interval")
        return _svg(figure, "Differences of AP with 95 % intervals")


def curves_figure(title: str, curves: Sequence[Curve], phases: Sequence[Phase] = ()) -> str:
    """Loss by epoch, with the phases of the schedule shaded."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(height_in=3.4)
        last = max(curve.epochs[-1] for curve in curves)
        for phase in phases:
            left, right = phase.first - 0.5, phase.last + 0.5
            axes.axvspan(left, right, color=_COLOURS[phase.who], alpha=0.13, linewidth=0)
            text: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top", "fontsize": 9}
            axes.annotate(phase.label, ((left + right) / 2, 0.985), **text)
        for curve in curves:
            # A curve of one epoch is a single point, which is invisible without a marker.
            marker = _MARKERS[curve.who] if len(curve.loss) < 2 else None
            style: dict[str, Any] = {
                "color": _COLOURS[curve.who],
                "linestyle": _DASHES[curve.who],
                "marker": marker,
                "linewidth": 2,
            }
            axes.plot(curve.epochs, curve.loss, label=curve.name, **style)
        _scale_losses(axes, [loss for curve in curves for loss in curve.loss])
        axes.set_xlim(0.5, last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("mean loss of the epoch")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=len(curves))
        return _svg(figure, title)


def _scale_losses(axes: Axes, losses: Sequence[float]) -> None:
    """Scale the loss axis: logarithmic if the loss falls far, plain numbers as labels, room above for the phase labels."""
    low, high = min(losses), max(losses)
    if low > 0 and high > _FAR * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(low * (low / high) ** 0.06, high * (high / low) ** 0.15)
    else:
        margin = (high - low) or high or 1.0
        axes.set_ylim(low - 0.06 * margin, high + 0.15 * margin)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def joints_figure(joints: Sequence[JointRow], series: Mapping[str, Who]) -> str:
    """For each joint, the share that each network finds."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(height_in=1.2 + 0.29 * len(joints))
        rows = np.arange(len(joints))
        shares = np.array([[joint.share[name] for name in series] for joint in joints])
        axes.hlines(rows, shares.min(axis=1), shares.max(axis=1), color=_LINE, linewidth=3)
        for index, (name, who) in enumerate(series.items()):
            style: dict[str, Any] = {"color": _COLOURS[who], "marker": _MARKERS[who], "linestyle": "none", "markersize": 7}
            axes.plot(shares[:, index], rows, label=name, alpha=0.9, **style)
        axes.set_yticks(rows, [joint.name.replace("_", " ") for joint in joints])
        axes.set_ylim(len(joints) - 0.5, -0.5)
        # Start the axis just below the lowest share, to show differences between high shares.
        axes.set_xlim(np.floor(shares.min() * 10) / 10 - 0.02, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("share of labelled joints with similarity >= .5")
        figure.legend(loc="outside upper center", ncols=2)
        return _svg(figure, "Share of each joint that is found, by network")


def _axes(*, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, description: str) -> str:
    """The figure as an ``svg`` element for HTML: without prolog, metadata and namespaces."""
    stream = io.StringIO()
    mpl.rcParams["svg.hashsalt"] = description  # makes the ids differ between the figures of a page
    figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # Ids of groups are the same in every figure, and the page must not repeat an id.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    text = f'<svg {box[0]} role="img" aria-label="{escape(description)}">{text[text.index(">") + 1 :]}'
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
