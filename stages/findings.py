"""Findings: what is probably wrong with the data or with a teacher, although the run can go on.

A stage writes what it finds into the manifest of the entry that it makes. After each stage a run logs the findings of its
entries; ``metrics.json`` and the report list them as warnings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["WARNINGS", "Finding", "findings_in", "measured_findings"]

WARNINGS = "warnings"
"""The name of the findings in a manifest's measurements and in ``metrics.json``."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a careful engineer would want to know: what was seen, how often, an example, and what to do."""

    kind: str
    """What it is, for programs: one of a few words with underscores, such as ``exif_orientation``."""
    seen: str
    """What was seen, as a sentence without its full stop; it names the count and the example."""
    remedy: str
    """What the user can do about it, as a sentence without its full stop."""
    count: int
    """How many things have it."""
    of: int
    """How many things were looked at."""
    example: str
    """The name of one of them, such as an image file."""

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.seen}. {self.remedy}."


def measured_findings(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as a part of a manifest's measurements; empty if there are none."""
    return {WARNINGS: [asdict(finding) for finding in findings]} if findings else {}


def findings_in(measured: Mapping[str, Any]) -> list[Finding]:
    """The findings in a manifest's measurements."""
    return [Finding(**values) for values in measured.get(WARNINGS, [])]
