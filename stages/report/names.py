"""The networks of a report: the name of each in a table, in a sentence and in a figure, and its colour."""

from __future__ import annotations

from dataclasses import dataclass

from stages.report.page.content import Who

__all__ = ["NAMES", "NetworkName"]


@dataclass(frozen=True)
class NetworkName:
    """How the report names one network."""

    row: str
    """In the first column of a table."""
    sentence: str
    """In a sentence, after "the", and in the legend of a curve."""
    who: Who
    """Its colour."""
    short: str = ""
    """In captions and in the joints' figure; empty for networks that only stand in tables."""


NAMES = {
    "primary": NetworkName("Primary teacher (PT)", "primary teacher", "primary", "PT"),
    "senior": NetworkName("Senior teacher (ST), with the mask", "senior teacher", "senior", "ST"),
    "senior without mask": NetworkName("ST without the mask", "senior teacher without its mask", "other"),
    "base": NetworkName("Base of the senior", "base of the senior", "other"),
    "control": NetworkName("Control: trained like ST, without masks", "control trained without masks", "other"),
    "student": NetworkName("Student", "student", "student", "student"),
    "baseline": NetworkName("Baseline: the student without teachers", "baseline", "baseline", "baseline"),
}
"""By the key of the network in ``stages.teachers.evaluations``, the part of a teacher, or the arm of a student."""
