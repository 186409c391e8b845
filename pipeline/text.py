"""Facts as people read them in a terminal: aligned tables, trees of values, sizes and ages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["age_text", "plural", "printable", "size_text", "table", "tree", "values_text"]

_LINE = 100
"""A list of plain values that is no longer than this stands on one line."""
_WHOLE = 1e6
"""From here on six digits are less than a whole number has."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; those named in ``right`` are aligned there."""
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(line, widths, header, strict=True)
        ).rstrip()
        for line in lines
    )


def tree(value: Mapping[str, object], indent: str = "  ") -> str:
    """A mapping as indented lines; of a list of mappings the first stands for all."""
    return "\n".join(_lines(value, indent))


def _lines(value: Mapping[str, object], indent: str) -> Iterator[str]:
    for name, below in value.items():
        label, shown = printable(name), below
        if isinstance(below, list) and below and isinstance(below[0], Mapping):
            label, shown = f"{label}[0{f' and {len(below) - 1} more' if len(below) > 1 else ''}]", below[0]
        if isinstance(shown, Mapping) and shown:
            yield f"{indent}{label}:"
            yield from _lines(shown, f"{indent}  ")
        else:
            yield f"{indent}{label}: {_inline(shown)}"


def _inline(value: object) -> str:
    if isinstance(value, str):
        return printable(value)
    (text,) = values_text(value)
    return text if len(text) <= _LINE else f"{text[:_LINE]}... ({len(text)} characters)"


def values_text(*values: object) -> list[str]:
    """JSON values with numbers in six digits, which is more than is looked at; in all of them where else two were one."""
    texts = [json.dumps(_rounded(value)) for value in values]
    return texts if len(set(texts)) == len(texts) else [json.dumps(value) for value in values]


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < _WHOLE else round(value)
    if isinstance(value, Mapping):
        return {name: _rounded(below) for name, below in value.items()}
    return [_rounded(below) for below in value] if isinstance(value, list) else value


def printable(text: str) -> str:
    """The text, with what would move the cursor or colour the terminal escaped: an entry may come from elsewhere."""
    return text if text.isprintable() else json.dumps(text)


def size_text(size: int) -> str:
    """Bytes in three digits: ``512 B``, ``1.2 MB``, ``97 GB``."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def age_text(seconds: float) -> str:
    """How long ago, in the largest unit of which there are two: ``90 s``, ``47 h``, ``3 d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def plural(count: int, thing: str) -> str:
    """Such as ``1 file`` and ``1,204 files``; ``entry`` becomes ``entries``."""
    many = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else many}"
