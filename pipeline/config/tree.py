"""A configuration before validation: nested sections as dicts."""

from __future__ import annotations

from typing import Any

__all__ = ["Tree", "merged"]

Tree = dict[str, Any]


def merged(base: Tree, over: Tree) -> Tree:
    """``over`` merged into ``base``: sections key by key; any other value, a list too, replaces the one in ``base``."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
