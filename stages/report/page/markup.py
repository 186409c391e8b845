"""The few pieces of HTML that the page is made of; every text that goes in is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from stages.report.page.content import Tile, Who
from stages.report.page.overlays import data_uri

__all__ = ["Cell", "Row", "definitions", "details", "escape", "paragraph", "section", "table", "tiles"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: words stand on the left, numbers on the right."""

    text: str
    words: bool = False
    who: Who | None = None
    """Whose dot stands in front."""
    code: bool = False
    best: bool = False


Row = Sequence[Cell | str]
"""A row of a table; a plain string is a number's cell."""


def section(anchor: str, title: str, *parts: str) -> str:
    """A part of the page with its heading; ``parts`` are HTML."""
    return f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def paragraph(text: str, *, quiet: bool = False) -> str:
    """A paragraph of plain text."""
    return f"<p{_classes(quiet=quiet)}>{escape(text)}</p>"


def details(summary: str, *parts: str) -> str:
    """Something that opens on a click; ``parts`` are HTML."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def definitions(meanings: Mapping[str, str]) -> str:
    """Words and what they mean."""
    pairs = (f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in meanings.items())
    return f"<dl>{''.join(pairs)}</dl>"


def table(head: Sequence[str], rows: Sequence[Row]) -> str:
    """A table that scrolls sideways where the screen is narrow; a column is of words where its first cell is."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    words = [bool(cells) and cells[0][column].words for column in range(len(head))]
    titles = "".join(f"<th{_classes(text=left)}>{escape(text)}</th>" for text, left in zip(head, words, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: Cell) -> str:
    dot = f'<span class="dot {cell.who}"></span>' if cell.who else ""
    text = f"<code>{escape(cell.text)}</code>" if cell.code else escape(cell.text)
    return f"<td{_classes(text=cell.words, best=cell.best)}>{dot}{text}</td>"


def _classes(**on: bool) -> str:
    """The class attribute with the names that are on; nothing without any."""
    names = " ".join(name for name, wanted in on.items() if wanted)
    return f' class="{names}"' if names else ""


def tiles(pictures: Sequence[Tile]) -> str:
    """Pictures side by side, each with its caption."""
    shown = (
        f'<figure><img src="{data_uri(tile.picture_hw3)}" alt="{escape(tile.caption)}" '
        f'width="{tile.picture_hw3.shape[1]}" height="{tile.picture_hw3.shape[0]}">'
        f"<figcaption>{escape(tile.caption)}</figcaption></figure>"
        for tile in pictures
    )
    return f'<div class="tiles">{"".join(shown)}</div>'
