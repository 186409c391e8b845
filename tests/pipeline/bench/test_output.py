"""Requirements and their output: verdicts, tables, figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.bench.output import FIGURES, figure_text, ratio_text, save_figures, table
from pipeline.bench.plot import save_plot
from pipeline.bench.results import Ask, Part, Ratio, Row

PART = Part(
    "steps",
    "a step",
    "a step without teachers",
    (
        Row("no teachers", 83.4, "ms"),
        Row("cached", 84.0, "ms", Ratio(1.0072, (1.0012, 1.0311)), Ask("ratio", most=1.03)),
        Row("online", 210.0, "ms", Ratio(2.518, (2.5, 2.53)), Ask("ratio", least=0.95, most=1.05)),
        Row("exact", 12_345.6, "ms", Ratio(148.03)),
    ),
    ("drawn instances",),
    drawn="ratio",
)


@pytest.mark.parametrize(
    ("ask", "value", "met"),
    [
        (Ask("value", least=50_000), 50_000.0, True),
        (Ask("value", least=50_000), 49_999.9, False),
        (Ask("value", most=200), 200.0, True),
        (Ask("value", most=200), 200.1, False),
        (Ask("value", least=0.95, most=1.05), 0.94, False),
        (Ask("value", least=0.95, most=1.05), 1.0, True),
        (Ask("value", most=200), float("nan"), False),
    ],
)
def test_a_value_meets_its_bound_or_not(ask: Ask, value: float, met: bool) -> None:
    assert Row("row", value, "bytes", None, ask).is_met is met


def test_a_requirement_on_the_ratio_ignores_the_value() -> None:
    assert Row("row", 5.0, "ms", Ratio(1.02), Ask("ratio", most=1.03)).is_met is True
    assert Row("row", 1.0, "ms", Ratio(1.04), Ask("ratio", most=1.03)).is_met is False
    assert Row("row", 1.0, "ms", Ratio(1.04)).is_met is None


def test_a_table_shows_each_requirement_beside_its_figure() -> None:
    lines = [line.split("  ") for line in table(PART).splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows == [
        ["steps: a step"],
        ["ratio", "95 % interval", "asked"],
        ["no teachers", "83.4 ms"],
        ["cached", "84 ms", "1.007", "1.001 to 1.031", "ratio at most 1.03", "met"],
        ["online", "210 ms", "2.518", "2.500 to 2.530", "ratio 0.95 to 1.05", "NOT met"],
        ["exact", "12,346 ms", "148"],
        ["ratio: times a step without teachers"],
        ["drawn instances"],
    ]


def test_numbers_have_three_digits_and_ratios_near_one_four() -> None:
    assert [figure_text(value) for value in (0.04215, 17.64, 104_448.0, 99.96)] == ["0.0421", "17.6", "104,448", "100"]
    assert [ratio_text(value) for value in (0.01543, 1.00349, 9.9, 656.2)] == ["0.0154", "1.003", "9.900", "656"]


def test_figures_are_plain_json_with_the_verdicts(tmp_path: Path) -> None:
    save_figures(tmp_path, [PART], {"bench": "cache", "quick": False})
    found = json.loads((tmp_path / FIGURES).read_text())
    assert (found["bench"], found["quick"]) == ("cache", False)
    [part] = found["parts"]
    assert part["rows"][0] == {"name": "no teachers", "value": 83.4, "unit": "ms", "ratio": None, "ask": None, "met": None}
    assert part["rows"][1]["ratio"] == {"value": 1.0072, "interval": [1.0012, 1.0311]}
    assert [row["met"] for row in part["rows"]] == [None, True, False, None]


def test_parts_of_both_kinds_are_drawn(tmp_path: Path) -> None:
    values = Part("sizes", "bytes", "", (Row("ours", 140.0, "bytes", None, Ask("value", most=200)), Row("other", 3.0, "s")))
    save_plot(tmp_path / "bench.png", [PART, values], title="a machine")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
