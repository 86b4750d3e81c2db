"""Words of a store, which may hold anything, made fit for where they are shown; and numbers made short."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from results.text import printable

_DIGITS = 5


def inert(text: object) -> str:
    """For plotly, which reads some HTML in its labels. The page's script undoes it for CSV."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def some(names: Sequence[str], most: int, between: str = ", ") -> str:
    """The first names of a list, and how many there are besides."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def short(value: float | None) -> float | None:
    """Five significant digits are more than any run repeats. What is not a finite number is None."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def shorts(values: Iterable[float | None]) -> list[float | None]:
    return [short(value) for value in values]
