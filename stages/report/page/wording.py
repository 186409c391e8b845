"""Scores and findings as text."""

from __future__ import annotations

from stages.humanize import count_text
from stages.report.page.content import Difference
from stages.scoring.bootstrap import PairedBootstrap

__all__ = ["ap_text", "difference_sentence", "is_significant", "signed_text"]


def ap_text(value: float) -> str:
    """An AP with three digits; a dash for COCO's -1, which means that no instance has that size."""
    return "-" if value < 0 else f"{value:.3f}"


def signed_text(value: float) -> str:
    """A difference of AP with its sign; a value that rounds to zero has no sign."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text


def is_significant(bootstrap: PairedBootstrap) -> bool:
    """Whether the 95 % interval excludes zero."""
    return bootstrap.low > 0 or bootstrap.high < 0


def difference_sentence(difference: Difference) -> str:
    """The result of a paired bootstrap of two networks in one sentence."""
    found = difference.bootstrap
    a, b = difference.name_a, difference.name_b
    interval = (
        f"95 % interval {signed_text(found.low)} to {signed_text(found.high)}, over {count_text(found.num_images)} images"
    )
    if is_significant(found):
        verdict = "better" if found.difference > 0 else "worse"
        return f"The {b} is significantly {verdict} than the {a}, by {abs(found.difference):.3f} AP ({interval})."
    return (
        f"The {b} and the {a} differ by {signed_text(found.difference)} AP, which is NOT significant: "
        f"the choice of images alone can explain it ({interval})."
    )
