from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from stages.report.page.content import Difference, Page, Tile
from stages.report.page.render import render
from tests.support.page_sample import make_page

VOID = {"meta", "img", "br"}
NASTY = '<script>alert("x")</script>&\''


@pytest.fixture(scope="module")
def page() -> Page:
    return make_page()


@pytest.fixture(scope="module")
def html(page: Page) -> str:
    """The rendered page, shared by all tests that only read it."""
    return render(page)


class Elements(HTMLParser):
    """The tags of a page, with a check that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(html)
    assert parser.opened == []
    return parser.seen


def test_every_link_leads_to_a_section_and_every_section_has_a_link(html: str) -> None:
    seen = elements(html)
    ids = {attributes["id"] for tag, attributes in seen if tag == "section"}
    links = {(attributes["href"] or "").lstrip("#") for tag, attributes in seen if tag == "a"}
    assert ids == {"scores", "differences", "curves", "overlays", "worst", "joints", "cache", "data", "sources"} == links


def test_no_text_becomes_markup(page: Page) -> None:
    nasty = replace(
        page,
        name=NASTY,
        protocol=NASTY,
        decoder_reason=NASTY,
        settings_yaml=NASTY,
        command=NASTY,
        rows=[replace(row, name=NASTY) for row in page.rows],
        differences=[replace(item, name_a=NASTY) for item in page.differences],
        curves=[replace(curve, name=NASTY) for curve in page.curves],
        phases=[replace(phase, label=NASTY) for phase in page.phases],
        overlays=[replace(item, heading=NASTY, detail=NASTY) for item in page.overlays],
        worst=[replace(item, tiles=[Tile(NASTY, item.tiles[0].image_hw3)]) for item in page.worst],
        splits=[replace(split, quarantined={NASTY: 1}) for split in page.splits],
        entries=[replace(entry, title=NASTY, machine=NASTY) for entry in page.entries],
        versions={NASTY: NASTY},
        seconds={NASTY: 1.0},
    )
    html = render(nasty)
    assert "<script" not in html
    assert not {tag for tag, _ in elements(html)} & {"script", "link", "iframe", "object", "base"}
    assert html.count("&lt;script&gt;") >= 20


def test_the_page_loads_nothing_from_the_network(html: str) -> None:
    assert "http" not in html.lower()
    assert "url(" not in re.sub(r"url\(#", "", html)
    sources = [attributes["src"] or "" for tag, attributes in elements(html) if "src" in attributes]
    assert len(sources) == 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_ids_are_unique_although_the_page_has_several_figures(html: str) -> None:
    ids = [attributes["id"] for _, attributes in elements(html) if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_page_of_the_default_size_stays_small(page: Page) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 192, 3), np.uint8)
    # JPEG compresses noise worst; real images take a fifth of that.
    busy = replace(page.overlays[0], tiles=[Tile("tile", noise)] * 6)
    assert len(render(replace(page, overlays=[busy] * 8, worst=[replace(busy, tiles=busy.tiles[:2])] * 8))) < 5_000_000


def test_numbers_have_three_digits_and_a_size_without_instances_is_a_dash(html: str) -> None:
    row = re.search(r"<tr><td[^>]*><span[^>]*></span>Student, taught by PT and ST</td>(.*?)</tr>", html)
    assert row is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row[1])
    ap, rest = cells[0], cells[1:]
    assert ap == "0.643"
    assert rest == ["0.653", "0.663", "-", "0.683", "0.693", "centroid", "1.235 M", "1.074", "1.000", "96x128", "12.3"]


def test_the_four_compared_networks_have_cards_with_the_student_first(page: Page, html: str) -> None:
    cards = re.findall(r'<div class="card (\w+)">.*?<div class="value">([\d.]+)</div>', html)
    assert cards == [("student", "0.643"), ("baseline", "0.610"), ("primary", "0.700"), ("senior", "0.730")]
    assert page.protocol in html


def test_a_difference_that_is_not_significant_is_called_so(html: str) -> None:
    assert "The senior teacher is significantly better than the primary teacher, by 0.030 AP" in html
    assert "differ by +0.004 AP, which is NOT significant" in html


def test_the_cache_is_compared_with_dense_heatmaps(html: str) -> None:
    # 26112 / 333.25 = 78.4
    for text in ("500 kB", "333 B", "26.1 kB", ">78<", "75.3%", "7,500"):
        assert text in html


def test_a_student_alone_makes_a_page_too(page: Page) -> None:
    alone: list[Difference] = []
    html = render(
        replace(page, rows=page.rows[:1], differences=alone, teacher_curves=[], overlays=[], worst=[], splits=[], cache=[])
    )
    assert len(re.findall("<section", html)) == 9
    assert "The schedule uses no teacher" in html


@pytest.mark.parametrize("scheme", ["prefers-color-scheme: dark", "@media print", "max-width: 40rem"])
def test_the_style_serves_dark_screens_paper_and_phones(html: str, scheme: str) -> None:
    assert scheme in html
