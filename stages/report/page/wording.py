"""Numbers and findings in plain words."""

from __future__ import annotations

from stages.report.page.content import Difference
from stages.scoring.bootstrap import PairedBootstrap

__all__ = ["ap_text", "bytes_text", "count_text", "difference_sentence", "is_significant", "seconds_text", "signed_text"]

_IN_MINUTES = 7199.5
_UNITS = ("B", "kB", "MB", "GB", "TB")


def ap_text(value: float) -> str:
    """An AP with three digits; a dash for COCO's -1, which means that there is nobody of that size."""
    return "-" if value < 0 else f"{value:.3f}"


def signed_text(value: float) -> str:
    """A difference of AP with its sign; what rounds to zero has none."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text


def bytes_text(size: float) -> str:
    """A size in decimal units, with three digits that count."""
    index = 0
    while size >= 999.5 and index < len(_UNITS) - 1:
        size, index = size / 1000, index + 1
    digits = 0 if index == 0 or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {_UNITS[index]}"


def count_text(count: int) -> str:
    """A whole number with thin groups of thousands."""
    return f"{count:,}"


def seconds_text(seconds: float) -> str:
    """A duration in the unit that a person would say it in."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < _IN_MINUTES:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def is_significant(bootstrap: PairedBootstrap) -> bool:
    """Whether the 95 % interval leaves zero out."""
    return bootstrap.low > 0 or bootstrap.high < 0


def difference_sentence(difference: Difference) -> str:
    """What a paired bootstrap says about two methods, and whether it says anything."""
    found = difference.bootstrap
    a, b = difference.name_a, difference.name_b
    interval = (
        f"95 % interval {signed_text(found.low)} to {signed_text(found.high)}, over {count_text(found.num_images)} images"
    )
    if is_significant(found):
        verdict = "better" if found.difference > 0 else "worse"
        return f"The {b} is {verdict} than the {a} by {abs(found.difference):.3f} AP, and significantly so ({interval})."
    return (
        f"The {b} and the {a} differ by {signed_text(found.difference)} AP, which is NOT significant: "
        f"the choice of images alone explains as much ({interval})."
    )
