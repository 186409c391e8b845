"""Results of a benchmark: parts with rows; a row is a figure, with its ratio to a reference and its requirement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Ask", "Part", "Ratio", "Row"]


@dataclass(frozen=True)
class Ratio:
    """A ratio of two figures; for measurements, the median over rounds with its 95 % interval."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Ask:
    """A requirement: inclusive bounds of a row's value or ratio."""

    of: Literal["value", "ratio"]
    least: float | None = None
    most: float | None = None

    def is_met(self, figure: float) -> bool:
        """Whether ``figure`` is within the bounds; NaN is not."""
        return (self.least is None or figure >= self.least) and (self.most is None or figure <= self.most)

    def __str__(self) -> str:
        """Such as ``at least 50,000``."""
        if self.least is not None and self.most is not None:
            return f"{self.least:,g} to {self.most:,g}"
        return f"at most {self.most:,g}" if self.most is not None else f"at least {self.least:,g}"


@dataclass(frozen=True)
class Row:
    """One measurement."""

    name: str
    value: float
    unit: str
    ratio: Ratio | None = None
    ask: Ask | None = None

    def __post_init__(self) -> None:
        assert self.ratio is not None or self.ask is None or self.ask.of == "value", f"'{self.name}' has no ratio to ask for"

    @property
    def is_met(self) -> bool | None:
        """Whether the requirement is met; None without a requirement."""
        if self.ask is None:
            return None
        return self.ask.is_met(self.ratio.value if self.ask.of == "ratio" and self.ratio else self.value)


@dataclass(frozen=True)
class Part:
    """The rows of one part, and notes for the reader."""

    name: str
    title: str
    ratio_to: str
    """The reference of the ratios, unless the name of a row has another one; empty without ratios."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    drawn: Literal["value", "ratio"] = "value"
    """What the plot shows; only values in the unit of the first row, on a logarithmic scale."""

    def as_json(self) -> dict[str, Any]:
        """The part as plain JSON values, with the verdict on each ask."""
        return {**asdict(self), "rows": [{**asdict(row), "met": row.is_met} for row in self.rows]}
