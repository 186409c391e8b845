"""Words that the documents and the sources avoid, because a plain word says the same."""

from __future__ import annotations

__all__ = ["UNPLAIN"]

UNPLAIN = [
    "whoever",
    "beneath",
    "anew",
    "is told",
    "are told",
    "somebody who",
    "nobody can tell",
    "that which",
    "counts as not there",
]
