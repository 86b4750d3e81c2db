"""Statistics of runs. The run, a fresh process, is the sample.

Rates, times and sizes are positive, and what disturbs a run multiplies them, so everything is done on logarithms. The
figure of several runs is their geometric mean, which estimates the median of a log-normal distribution; its interval is
Student's, that of a ratio Welch's, as Georges, Buytaert and Eeckhout ask for few runs (OOPSLA 2007). They hold what
they promise from two runs a side on. Medians with bootstrapped intervals do not: a resampled median cannot leave the
range of the runs, so three cover 75% instead of 95%, and gates cry wolf (`python -m tests.perf.gate`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

LEVEL = 0.95
"""The probability with which an interval holds the true value, unless something else is said."""

MOST_RUNS = 1000
"""`runs_needed` looks no further."""

Sample = Sequence[float]
"""One figure of each run of a configuration; all positive."""


@dataclass(frozen=True)
class Interval:
    """A figure of several runs with an interval for its true value."""

    value: float
    low: float | None
    """None where a single run gives no interval."""
    high: float | None
    level: float
    """The probability that such an interval holds the true value."""
    runs: int
    """Of the side that has the fewest."""

    def excludes(self, value: float) -> bool:
        """True when there is an interval and it does not hold `value`."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def typical(values: Sample, level: float = LEVEL) -> Interval:
    """The geometric mean of runs, exp(m), with Student's interval exp(m -+ t s / sqrt(n)) for n logarithms of mean m
    and standard deviation s."""
    return ratio([values], [], level=level)


def ratio(above: Sequence[Sample], below: Sequence[Sample], *, scale: float = 1.0, level: float = LEVEL) -> Interval:
    """scale x product of the typical values of `above` / product of those of `below`.

    Speed-up is one sample over one other; the change of an efficiency has two above and two below. Every sample varies:
    the variances s^2/n of the logarithms add up, with the degrees of freedom of Welch and Satterthwaite. Raises
    ValueError for an empty sample or a value that is not positive.
    """
    samples = [(_logarithms(values), sign) for side, sign in ((above, 1), (below, -1)) for values in side]
    centre = math.log(scale) + sum(sign * float(logs.mean()) for logs, sign in samples)
    fewest = min(len(logs) for logs, _ in samples)
    if fewest < 2:  # noqa: PLR2004
        return Interval(math.exp(centre), None, None, level, fewest)
    parts = [(float(logs.var(ddof=1)) / len(logs), len(logs) - 1) for logs, _ in samples]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Interval(math.exp(centre), math.exp(centre), math.exp(centre), level, fewest)
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    reach = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)
    # A few runs that differ widely reach further than a float does.
    low, high = max(centre - reach, -700.0), min(centre + reach, 700.0)
    return Interval(math.exp(centre), math.exp(low), math.exp(high), level, fewest)


def corrected(level: float, comparisons: int) -> float:
    """The level each of several intervals needs for all of them to be right together with `level` (Bonferroni)."""
    return 1 - (1 - level) / max(comparisons, 1)


def spread(samples: Iterable[Sample]) -> float | None:
    """Run-to-run spread: pooled standard deviation of the logarithms, about the coefficient of variation. None where
    no sample has two runs."""
    logs = [_logarithms(values) for values in samples if len(values) > 1]
    if not logs:
        return None
    squares = sum(float(values.var(ddof=1)) * (len(values) - 1) for values in logs)
    return math.sqrt(squares / sum(len(values) - 1 for values in logs))


def runs_needed(runs_spread: float, effect: float, level: float = LEVEL) -> int | None:
    """Runs a side after which the interval of a ratio reaches no further than `effect` (0.05 for 5%).

    None when MOST_RUNS do not do.
    """
    for runs in range(2, MOST_RUNS + 1):
        if _reach(runs_spread, runs, level) <= math.log1p(effect):
            return runs
    return None


def smallest_effect(runs_spread: float, runs: int, level: float = LEVEL) -> float:
    """What the interval of a ratio of two sides with `runs` each reaches: smaller changes cannot be shown."""
    return math.expm1(min(_reach(runs_spread, runs, level), 700))


def _reach(runs_spread: float, runs: int, level: float) -> float:
    return float(stdtrit(2 * (runs - 1), (1 + level) / 2)) * runs_spread * math.sqrt(2 / runs)


def _logarithms(values: Sample) -> npt.NDArray[np.float64]:
    if not len(values) or min(values) <= 0:
        raise ValueError(f"a figure of runs is positive, not {list(values)}")
    return np.array([math.log(value) for value in values])
