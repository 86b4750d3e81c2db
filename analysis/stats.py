"""Statistics of runs. The run, a fresh process, is the sample; medians and rank intervals, because times are skewed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

WANTED_COVERAGE = 0.95
RUNS_FOR_95_PERCENT = 6
"""1 - 2^(1-6) is the first coverage of at least WANTED_COVERAGE."""


@dataclass(frozen=True)
class Interval:
    """A median and an interval for it."""

    median: float
    low: float | None
    """None when a single run gives no interval."""
    high: float | None
    coverage: float
    """The probability that such an interval holds the true median; below WANTED_COVERAGE for fewer than 6 runs."""
    runs: int


def median_interval(values: Sequence[float]) -> Interval:
    """The median and its narrowest rank interval of at least WANTED_COVERAGE, else the whole range with what it covers.

    Distribution-free: the number of values below the true median is binomial(n, 1/2). Three runs cover 75%, six 96.9%.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n < 2:  # noqa: PLR2004
        return Interval(float(ordered[0]), None, None, 0.0, n)
    rank = max([1, *(k for k in range(1, n // 2 + 1) if _coverage(n, k) >= WANTED_COVERAGE)])
    return Interval(
        float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[n - rank]), _coverage(n, rank), n
    )


def _coverage(n: int, rank: int) -> float:
    """Probability that the median lies between the `rank`-th smallest and the `rank`-th largest of n."""
    return float(1 - 2 * binom.cdf(rank - 1, n, 0.5))
