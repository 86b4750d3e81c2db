"""Change points of a metric that is measured again and again, such as a step time every night.

E-divisive: Matteson and James, "A nonparametric approach for multiple change point analysis of multivariate data",
Journal of the American Statistical Association 109, 2014. Hierarchical bisection by the energy statistic (alpha = 1),
each split tested by permutation. Values enter by their logarithms, so a change is a ratio and units do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.002
"""Probability that a series without a change is split when it is looked at once. A trade: looked at every night, 300
such series of 100 nights gave 8 false alarms, and a step of 5% at a spread of 2% was found after 5 nights (median, of
tests/perf/change_points.py). A higher level finds it about a night sooner and alarms more often."""
MIN_SEGMENT = 3
"""Points in a segment, at least. A bad night has a normal neighbour at its side then, and so have two bad nights."""
_EXCEEDANCES = 3
_FIRST_BATCH, _BATCH_ELEMENTS = 32, 1 << 15
_TIE = 1e-9


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


def _bisect(logs: Floats, start: int, level: float) -> list[int]:
    split = _significant_split(logs, level) if len(logs) >= 2 * MIN_SEGMENT else None
    if split is None:
        return []
    return [*_bisect(logs[:split], start, level), start + split, *_bisect(logs[split:], start + split, level)]


def _significant_split(logs: Floats, level: float) -> int | None:
    """The split of the highest energy, or None where so high a split is likely in the same values in random order.

    The sequential test of Besag and Clifford ("Sequential Monte Carlo p-values", Biometrika 78, 1991): it ends with the
    third order that reaches the observed energy, after few orders where nothing changed; its level is exact.
    """
    observed = energies(logs[None])[0]
    # Sums in another order differ in their last digits; without this, orders that tie with the observed one may not.
    enough = observed.max() - _TIE * np.ptp(logs)
    # Were the orders drawn the same for every series, the test would be too strict or too lax for all of them alike.
    rng = np.random.default_rng(np.argsort(logs, kind="stable"))
    exceeded, left, batch = 0, math.ceil(_EXCEEDANCES / level) - 1, _FIRST_BATCH
    while left > 0:
        size = min(batch, left, max(1, _BATCH_ELEMENTS // len(logs) ** 2))
        orders = logs[rng.random((size, len(logs))).argsort(axis=1)]
        exceeded += int(np.count_nonzero(energies(orders).max(axis=(1, 2)) >= enough))
        if exceeded >= _EXCEEDANCES:
            return None
        left -= size
        batch *= 2
    return MIN_SEGMENT + int(np.argmax(observed.max(axis=1) >= enough))


def energies(series: Floats) -> Floats:
    """Of each row x and each pair of a split s and an end e, the energy between x[:s] and x[s:e], in the rows' unit.

    Element [row, s - MIN_SEGMENT, e - 2 * MIN_SEGMENT]; 0 where x[s:e] is too short. Matteson and James compare with
    ends before the last so that a level that came and went again is not hidden by its return.
    """
    n = series.shape[1]
    sums = np.abs(series[:, :, None] - series[:, None, :])
    np.cumsum(sums, axis=1, out=sums)
    np.cumsum(sums, axis=2, out=sums)
    own = np.einsum("bii->bi", sums)
    splits, ends = slice(MIN_SEGMENT - 1, n - MIN_SEGMENT), slice(2 * MIN_SEGMENT - 1, n)
    shared, left, right = _weights(n)
    found = sums[:, splits, ends] * shared
    found -= own[:, splits, None] * left
    found -= own[:, None, ends] * right
    return found


@lru_cache(maxsize=256)
def _weights(n: int) -> tuple[Floats, Floats, Floats]:
    """What sums over x[:s] by x[:e], x[:s] by x[:s] and x[:e] by x[:e] count for in the energy of s and e.

    Means within a side are over pairs of different points: one outlier then makes no energy, in a side of any size.
    """
    split = np.arange(MIN_SEGMENT, n - MIN_SEGMENT + 1)[:, None]
    size = np.arange(2 * MIN_SEGMENT, n + 1) - split
    allowed = size >= MIN_SEGMENT
    size = np.maximum(size, MIN_SEGMENT)
    scale = allowed * split * size / (split + size)
    across, within_left, within_right = 2 / (split * size), 1 / (split * (split - 1)), 1 / (size * (size - 1))
    return scale * (across + 2 * within_right), scale * (across + within_left + within_right), scale * within_right
