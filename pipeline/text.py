"""Tables and trees of values as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

__all__ = ["printable", "table", "tree", "values_text"]

_LINE = 100
"""A longer value is cut here."""
_WHOLE = 1e6
"""A number from here on is shown as a whole number, because six digits would cut it."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A table whose columns are as wide as their widest cell, two spaces apart; columns in ``right`` are right-aligned."""
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
    """A mapping as indented lines; a list of mappings shows its first one and the number of the others."""
    lines = []
    for name, below in value.items():
        label, shown = printable(name), below
        if isinstance(below, list) and below and isinstance(below[0], Mapping):
            label, shown = f"{label}[0{f' and {len(below) - 1} more' if len(below) > 1 else ''}]", below[0]
        if isinstance(shown, Mapping) and shown:
            lines += [f"{indent}{label}:", tree(shown, f"{indent}  ")]
        elif isinstance(shown, str):
            lines.append(f"{indent}{label}: {printable(shown)}")
        else:
            (text,) = values_text(shown)
            more = f"... ({len(text)} characters)" if len(text) > _LINE else ""
            lines.append(f"{indent}{label}: {text[:_LINE]}{more}")
    return "\n".join(lines)


def values_text(*values: object) -> list[str]:
    """Values as JSON with numbers of six digits, or of all digits if two different values would look equal."""
    texts = [json.dumps(json.loads(json.dumps(value), parse_float=_rounded)) for value in values]
    return texts if len(set(texts)) == len(texts) else [json.dumps(value) for value in values]


def _rounded(number: str) -> float:
    value = float(number)
    return float(f"{value:.6g}") if abs(value) < _WHOLE else round(value)


def printable(text: str) -> str:
    """The text with control characters escaped: an entry may come from another person and must not control the terminal."""
    return text if text.isprintable() else json.dumps(text)
