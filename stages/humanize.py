"""Sizes, times, rates and counts as text for a reader."""

from __future__ import annotations

__all__ = ["age_text", "count_text", "duration", "plural", "rate_text", "size_text"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size_text(size: float, *, digits: int = 2) -> str:
    """Bytes in decimal units with at least ``digits`` significant digits: ``512 B``, ``1.2 MB``, ``120 MB``."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    # As many decimals as leave no more than ``digits`` digits after rounding; a byte has none.
    decimals = next((n for n in range(digits - 1, 0, -1) if round(value, n) < 10 ** (digits - n)), 0) if unit else 0
    return f"{value:.{decimals}f} {_UNITS[unit]}"


def duration(seconds: float, *, decimals: int = 0) -> str:
    """A length of time: ``12 s``, ``3 min 20 s``, ``2 h 05 min``; below a minute with ``decimals`` digits after the point."""
    whole = round(seconds)
    if round(seconds, decimals) < 60:
        return f"{seconds:.{decimals}f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def age_text(seconds: float) -> str:
    """A time ago, in the largest unit that counts at least two: ``90 s``, ``47 h``, ``3 d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def rate_text(rate: float) -> str:
    """A number per second: ``0.25/s``, ``3.1/s``, ``310/s``, ``1,200/s``."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{rate:.2f}/s"


def count_text(count: int) -> str:
    """A whole number with separated thousands: ``1,204``."""
    return f"{count:,}"


def plural(count: int, noun: str) -> str:
    """A count with its noun: ``1 file``, ``1,204 files``, ``0 entries``."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count_text(count)} {noun if count == 1 else many}"
