from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from stages.report.page.content import Curve, Difference, Page, Phase
from stages.report.page.figures import curves_figure, differences_figure, joints_figure
from tests.support.page_sample import bootstrap, make_page


@pytest.fixture(scope="module")
def page() -> Page:
    return make_page()


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ET.fromstring(re.sub("xlink:", "", svg)).iter("text")]


def figures(page: Page) -> list[str]:
    curves = curves_figure("Student", page.curves, page.phases)
    return [curves, differences_figure(page.differences), joints_figure(page.joints, page.joint_series)]


def test_a_figure_is_one_svg_element_that_scales(page: Page) -> None:
    for svg in figures(page):
        head = svg[: svg.index(">")]
        assert head.startswith("<svg viewBox=")
        assert "width=" not in head
        assert "http" not in svg
        assert ET.fromstring(re.sub("xlink:", "", svg)).tag == "svg"


def test_colours_are_those_of_the_page_in_light_and_dark(page: Page) -> None:
    svg = differences_figure(page.differences)
    for variable in ("ink", "senior", "student"):
        assert f"var(--{variable})" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", "".join(figures(page)))) <= {"#ffffff", "#000000"}


def test_axes_and_series_are_named(page: Page) -> None:
    curves, differences, joints = map(texts, figures(page))
    assert {"epoch", "mean loss of the epoch", "student", "PT", "ST"} <= set(curves)
    assert "difference of AP, with 95 % interval" in differences
    assert "+0.030" in differences
    assert {"left wrist", "nose", "student", "baseline"} <= set(joints)


def test_the_figure_of_a_difference_stands_away_from_zero() -> None:
    """Also where the interval reaches over zero, on the far end of it."""
    gain, loss = (Difference("student", "a", "b", bootstrap(value, 0.04)) for value in (0.03, -0.03))
    svg = differences_figure([gain, loss])
    placed = re.findall(r'text-anchor: (\w+)[^>]*x="([\d.]+)"[^>]*>([^<]+)</text>', svg)
    x = {text: (anchor, float(where)) for anchor, where, text in placed}
    ends = [tuple(map(float, pair)) for pair in re.findall(r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+)[^>]*stroke-linecap: round', svg)]
    (_, high), (low, _) = ends
    (zero,) = (where for text, (_, where) in x.items() if set(text) <= set("0."))
    assert x["+0.030"][0] == "start"
    assert zero < high < x["+0.030"][1]
    assert x["-0.030"][0] == "end"
    assert x["-0.030"][1] < low < zero


def test_a_phase_is_shaded_over_its_epochs_in_its_teachers_colour() -> None:
    curve = Curve("student", "student", [1, 2, 3], [0.4, 0.3, 0.2])
    svg = curves_figure("Student", [curve], [Phase(1, 1, "labels", "other"), Phase(2, 3, "ST", "senior")])
    shades = re.findall(
        r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [\d.]+ \nL ([\d.]+)[^"]*"[^>]*style="fill: var\(--(\w+)\); opacity: 0.13"', svg
    )
    assert [name for *_, name in shades] == ["other", "senior"]
    widths = [abs(max(map(float, x)) - min(map(float, x))) for *x, _ in shades]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)


def test_a_curve_that_begins_late_is_drawn_at_its_epochs() -> None:
    whole, late = (Curve("student", "student", epochs, [0.4, 0.3]) for epochs in ([1, 2], [9, 10]))
    assert "10" not in texts(curves_figure("Whole", [whole]))
    assert {"2", "10"} <= set(texts(curves_figure("Late", [late])))


def test_what_another_figure_is_drawn_with_stays_as_it_was(page: Page) -> None:
    before = dict(mpl.rcParams)
    figures(page)
    assert dict(mpl.rcParams) == before


def test_a_single_epoch_and_a_single_series_are_drawn(page: Page) -> None:
    assert "svg" in curves_figure("One", [Curve("primary", "PT", [1], [0.5])])
    assert "svg" in joints_figure(page.joints, {"student": "student"})
