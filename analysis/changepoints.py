"""Change points of a metric that is measured again and again, such as a step time every night.

Hierarchical bisection. A split of the series is judged by the energy statistic (alpha = 1) of E-divisive: Matteson and
James, "A nonparametric approach for multiple change point analysis of multivariate data", Journal of the American
Statistical Association 109, 2014. Two tests decide whether it is significant. The permutation test of E-divisive
assumes nothing about the noise, but a short series has too few orders: six points can never be significant. The second
test, for short series, divides the energy by the larger mean distance within the two sides and draws from the normal
distribution; it finds a clear step from six points on. Values enter by their logarithms, so a change is a ratio and
units do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.002
"""Probability that a series without a change is split when it is looked at once. A trade
between false alarms and delay: tests/perf/change_points.py measures both."""
MIN_SEGMENT = 3
"""Points in a segment, at least. A bad night has a normal neighbour at its side then, and so have two bad nights."""
_SHARE = 0.6
"""Part of the level for each of the two tests of a short series: they often agree, so both together have about the
whole level (tests/perf/change_points.py)."""
_LONG = 30
"""Points from which the permutation test is enough. It is then the only one, because outliers do not deceive it."""
_EXCEEDANCES = 3
_FIRST_BATCH, _BATCH_ELEMENTS = 32, 1 << 15
_TIE = 1e-9
_RECENT = 20
"""Points of which `shows_step` looks at the newest: more would take long and see more."""

Statistic = Callable[[Floats], Floats]
Draw = Callable[[int], Floats]


def change_points(values: Sequence[float], *, level: float = LEVEL) -> list[int]:
    """Indices at which a new segment begins, rising, of `values` in any unit, oldest first. The same for equal input.

    Empty when nothing changed or there are fewer than 2 * MIN_SEGMENT points. The time grows with the square of the
    points, and with 1 / level for each change found. ValueError for a value that is not a finite number above 0.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1")
    for index, value in enumerate(values):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"value {index} is {value}; change points need finite numbers above 0: leave it out")
    return _bisect(np.log(np.asarray(values, dtype=float)), 0, level)


def shows_step(values: Sequence[float], ratio: float) -> bool:
    """Tell whether `change_points` would find a step by `ratio` in the middle of the newest values."""
    recent = np.asarray(values[-_RECENT:], dtype=float)
    recent[len(recent) // 2 :] *= ratio
    return bool(change_points(recent.tolist()))


def _bisect(logs: Floats, start: int, level: float) -> list[int]:
    split = _significant_split(logs, level) if len(logs) >= 2 * MIN_SEGMENT else None
    if split is None:
        return []
    return [*_bisect(logs[:split], start, level), start + split, *_bisect(logs[split:], start + split, level)]


def _significant_split(logs: Floats, level: float) -> int | None:
    """The best split by the first of the two tests that is significant; None where neither is."""
    extent = np.ptp(logs)
    if extent == 0:
        return None
    series = (logs - logs[0]) / extent
    # Were the draws the same for every series, the tests would be too strict or too lax for all of them alike.
    rng = np.random.default_rng(np.argsort(logs, kind="stable"))
    permuted: tuple[Statistic, Draw] = energies, lambda size: series[rng.random((size, len(series))).argsort(axis=1)]
    normal: tuple[Statistic, Draw] = ratios, lambda size: rng.standard_normal((size, len(series)))
    tests, share = ([permuted], 1.0) if len(series) >= _LONG else ([permuted, normal], _SHARE)
    for statistic, draw in tests:
        observed = statistic(series[None])[0]
        # Sums in another order differ in their last digits; without _TIE, orders that tie with `series` may not.
        enough = observed.max() - _TIE
        if _is_rare(enough, statistic, draw, len(series), share * level):
            return MIN_SEGMENT + int(np.argmax(observed.max(axis=1) >= enough))
    return None


def _is_rare(enough: float, statistic: Statistic, draw: Draw, points: int, level: float) -> bool:
    """Test whether drawn series reach a statistic of `enough` with a probability of at most `level`.

    The sequential test of Besag and Clifford ("Sequential Monte Carlo p-values", Biometrika 78, 1991): it ends with the
    third draw that reaches `enough`, after few draws where nothing changed; its level is exact.
    """
    exceeded, left, batch = 0, math.ceil(_EXCEEDANCES / level) - 1, _FIRST_BATCH
    while left > 0:
        size = min(batch, left, max(1, _BATCH_ELEMENTS // points**2))
        exceeded += int(np.count_nonzero(statistic(draw(size)).max(axis=(1, 2)) >= enough))
        if exceeded >= _EXCEEDANCES:
            return False
        left -= size
        batch *= 2
    return True


def energies(series: Floats) -> Floats:
    """Of each row x and each pair of a split s and an end e, the energy between x[:s] and x[s:e], in the rows' unit.

    Element [row, s - MIN_SEGMENT, e - 2 * MIN_SEGMENT]; 0 where x[s:e] is too short. Matteson and James compare with
    ends before the last so that a level that came and went again is not hidden by its return.
    """
    return _energies(_sums(series))


def ratios(series: Floats) -> Floats:
    """Each of the `energies` divided by the larger of the mean distances between two points of x[:s] and of x[s:e].

    The larger one, because a mean over both sides would hide the spread of a short side with two outliers.
    """
    sums, n = _sums(series), series.shape[1]
    own, across = _own(sums), sums[:, _splits(n), _ends(n)]
    split, size, _ = _sizes(n)
    left = own[:, _splits(n), None] / (split * (split - 1))
    right = (own[:, None, _ends(n)] - 2 * across + own[:, _splits(n), None]) / (size * (size - 1))
    smallest = _TIE * np.ptp(series, axis=1)[:, None, None]
    spreads: Floats = np.maximum(np.maximum(left, right), smallest)
    return _energies(sums) / spreads


def _sums(series: Floats) -> Floats:
    """Element [row, i, j]: the sum of the distances between x[:i + 1] and x[:j + 1]."""
    sums = np.abs(series[:, :, None] - series[:, None, :])
    np.cumsum(sums, axis=1, out=sums)
    np.cumsum(sums, axis=2, out=sums)
    return sums


def _energies(sums: Floats) -> Floats:
    own, n = _own(sums), sums.shape[1]
    shared, left, right = _weights(n)
    found = sums[:, _splits(n), _ends(n)] * shared
    found -= own[:, _splits(n), None] * left
    found -= own[:, None, _ends(n)] * right
    return found


def _own(sums: Floats) -> Floats:
    own: Floats = np.einsum("bii->bi", sums)
    return own


def _splits(n: int) -> slice:
    return slice(MIN_SEGMENT - 1, n - MIN_SEGMENT)


def _ends(n: int) -> slice:
    return slice(2 * MIN_SEGMENT - 1, n)


def _sizes(n: int) -> tuple[Floats, Floats, Floats]:
    """The sizes of x[:s] and x[s:e] of each s and e, and whether x[s:e] is long enough."""
    split = np.arange(MIN_SEGMENT, n - MIN_SEGMENT + 1, dtype=float)[:, None]
    size = np.arange(2 * MIN_SEGMENT, n + 1) - split
    return split, np.maximum(size, MIN_SEGMENT), (size >= MIN_SEGMENT).astype(float)


@lru_cache(maxsize=256)
def _weights(n: int) -> tuple[Floats, Floats, Floats]:
    """What sums over x[:s] by x[:e], x[:s] by x[:s] and x[:e] by x[:e] count for in the energy of s and e.

    Means within a side are over pairs of different points: one outlier then makes no energy, in a side of any size.
    """
    split, size, allowed = _sizes(n)
    scale = allowed * split * size / (split + size)
    across, within_left, within_right = 2 / (split * size), 1 / (split * (split - 1)), 1 / (size * (size - 1))
    return scale * (across + 2 * within_right), scale * (across + within_left + within_right), scale * within_right
