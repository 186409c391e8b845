"""The page of an experiment as one HTML file without scripts or links to the network.

``template.html.j2`` holds the structure and the words; ``style.css`` serves light and dark screens, paper and phones.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.humanize import count_text, duration, size_text
from stages.report.page.content import AP_COLUMNS, Page, Scored, Who
from stages.report.page.figures import curves_figure, differences_figure, joints_figure
from stages.report.page.glossary import GLOSSARY
from stages.report.page.overlays import data_uri, joint_colours
from stages.report.page.wording import ap_text, difference_sentence, is_significant, signed_text

__all__ = ["render"]

_FOLDER = Path(__file__).parent
_CARDS: tuple[Who, ...] = ("student", "baseline", "primary", "senior", "other")
"""The order of the cards at the top of the page."""


def render(page: Page) -> str:
    """The whole page as HTML."""
    headlines = [row for row in page.rows if row.headline]
    return (
        _environment()
        .get_template("template.html.j2")
        .render(
            page=page,
            style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
            cards=sorted(headlines, key=_card_order),
            ap_columns=AP_COLUMNS,
            glossary=GLOSSARY,
            figures=_figures(page),
            joint_colours=_colours_by_joint(page),
            left_out=_left_out(page),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "ap": ap_text,
        "count": count_text,
        "data_uri": data_uri,
        "difference_sentence": difference_sentence,
        "duration": lambda seconds: duration(seconds, decimals=1),
        "percent": lambda share: f"{share:.1%}",
        "signed": signed_text,
        "size": lambda size: size_text(size, digits=3),
    }
    environment.tests["significant"] = is_significant
    return environment


def _card_order(row: Scored) -> int:
    return _CARDS.index(row.who)


def _figures(page: Page) -> dict[str, Markup]:
    """The figures as SVG, empty where the page has nothing to draw. ``figures`` escapes every text that it draws."""
    drawn = {
        "differences": differences_figure(page.differences) if page.differences else "",
        "curves": curves_figure("Student and baseline", page.curves, page.phases) if page.curves else "",
        "teacher_curves": curves_figure("Teachers", page.teacher_curves) if page.teacher_curves else "",
        "joints": joints_figure(page.joints, page.joint_series),
    }
    return {name: Markup(svg) for name, svg in drawn.items()}


def _colours_by_joint(page: Page) -> dict[str, tuple[int, int, int]]:
    names = [name.replace("_", " ") for name in page.skeleton.keypoints]
    return dict(zip(names, joint_colours(page.skeleton).tolist(), strict=True))


def _left_out(page: Page) -> list[tuple[str, str, str, int]]:
    """Records that are not used: split, kind, reason and number; the most frequent reason of each kind first."""
    return [
        (split.name, what, reason, number)
        for split in page.splits
        for what, counts in (("quarantined", split.quarantined), ("skipped by rule", split.skipped))
        for reason, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
