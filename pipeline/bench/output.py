"""The results of a benchmark as text tables and as ``bench.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.bench.results import Part, Row
from storage_schemas.paths.local import LocalPath

__all__ = ["FIGURES", "figure_text", "ratio_text", "save_figures", "table"]

FIGURES = "bench.json"

_HEAD = ("", "", "ratio", "95 % interval", "asked", "")


def table(part: Part) -> str:
    """The part as text: one line for each row, in columns, and the notes below."""
    cells = [_HEAD, *((row.name, *_figures(row), *_verdict(row)) for row in part.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    # Names and verdicts are left-aligned, figures right-aligned.
    sides = "<>>><<"
    lines = [
        "  ".join(f"{text:{side}{width}}" for text, side, width in zip(line, sides, widths, strict=True)) for line in cells
    ]
    ratios = [f"  ratio: times {part.ratio_to}"] if part.ratio_to else []
    notes = [f"  {note}" for note in part.notes]
    return "\n".join([f"{part.name}: {part.title}", *(f"  {line.rstrip()}" for line in lines), *ratios, *notes])


def _figures(row: Row) -> tuple[str, str, str]:
    value = f"{figure_text(row.value)} {row.unit}"
    if row.ratio is None:
        return value, "", ""
    return value, ratio_text(row.ratio.value), " to ".join(map(ratio_text, row.ratio.interval or ()))


def _verdict(row: Row) -> tuple[str, str]:
    """The requirement of the row and whether it is met; both empty without a requirement."""
    if row.ask is None:
        return "", ""
    what = "ratio " if row.ask.of == "ratio" else ""
    return f"{what}{row.ask}", "met" if row.is_met else "NOT met"


def figure_text(value: float) -> str:
    """Three digits, or all digits before the point: ``0.042``, ``17.6``, ``104,448``."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio_text(value: float) -> str:
    """Such as ``1.003``, ``0.0154``, ``23.1``: near 1, three digits after the point are needed."""
    return f"{value:.3f}" if 0.1 <= value < 10 else figure_text(value)


def save_figures(folder: Path, parts: Sequence[Part], about: Mapping[str, Any]) -> None:
    """Write all parts as JSON."""
    content = {**about, "parts": [part.as_json() for part in parts]}
    LocalPath(folder / FIGURES).write_atomic((json.dumps(content, indent=1) + "\n").encode())
