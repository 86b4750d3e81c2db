"""Whether the step times of a run are those of one steady state, for many runs at once: each a row of a matrix.

The thresholds were chosen by simulation: steady log-normal noise of 1% to 5% trips each check in less than 1 run in 100
with 10 iterations, and in less than 1 in 1000 from 30 iterations on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_ITERS = 9
"""Of fewer, a single slow step is half of a third."""

_LEAST_SIDE, _LEAST_GAP, _LEAST_SEPARATION = 0.2, 0.05, 4.0
_LEAST_DRIFT, _DRIFT_STANDARD_ERRORS = 0.02, 5.0
_LEAST_EXCESS, _EXCESS_JITTERS = 0.1, 5.0

_MEDIAN_STANDARD_ERROR = 1.2533
"""Standard error of a median of normal values, in standard deviations / sqrt(n): sqrt(pi / 2)."""


def gaps(times_s: Floats) -> Floats:
    """The distance of two kinds of steps over the median step, a row a run; NaN where all steps are of one kind.

    The halves of a normal distribution are 1.596 standard deviations apart and 0.603 wide, which is 2.65 times their
    width; those of a uniform one, and so of a steady drift, 3.46 times. Few iterations show more than that by chance:
    of 10 normal ones one run in a thousand reaches 8 times, of 30 it is 4.4.
    """
    iters = times_s.shape[1]
    low, middle, high = np.quantile(times_s, [0.1, 0.5, 0.9], axis=1)
    slow = times_s > (low + high)[:, None] / 2
    share = slow.mean(axis=1)
    slow_s = (times_s * slow).sum(axis=1) / np.maximum(slow.sum(axis=1), 1)
    fast_s = (times_s * ~slow).sum(axis=1) / (~slow).sum(axis=1)
    inside = times_s - np.where(slow, slow_s[:, None], fast_s[:, None])
    width_s = np.sqrt((inside**2).sum(axis=1) / (iters - 2))
    gap_s = slow_s - fast_s
    apart = gap_s > np.maximum(_LEAST_GAP * middle, _LEAST_SEPARATION * (1 + 8 / iters) * width_s)
    return np.where(apart & (share >= _LEAST_SIDE) & (share <= 1 - _LEAST_SIDE), gap_s / middle, np.nan)


def drifts(times_s: Floats) -> Floats:
    """The last third's median over the first third's, less 1, a row a run; NaN where that is noise.

    The noise comes from the differences of neighbours, since drift itself widens the deviation from the whole run's
    median. |x - y| of normal values has a median of 0.9539 standard deviations.
    """
    third = times_s.shape[1] // 3
    first_s, last_s = np.median(times_s[:, :third], axis=1), np.median(times_s[:, -third:], axis=1)
    noise_s = np.median(np.abs(np.diff(times_s, axis=1)), axis=1) / 0.9539
    error_s = _MEDIAN_STANDARD_ERROR * noise_s * np.sqrt(2 / third)
    change_s = last_s - first_s
    real = np.abs(change_s) > np.maximum(_LEAST_DRIFT * first_s, _DRIFT_STANDARD_ERRORS * error_s)
    return np.where(real, change_s / first_s, np.nan)


def excesses(times_s: Floats) -> Floats:
    """How much slower the first tenth of the iterations is than the rest, a row a run; NaN where that is noise."""
    tenth = max(times_s.shape[1] // 10, 1)
    early_s, rest = np.median(times_s[:, :tenth], axis=1), times_s[:, tenth:]
    rest_s = np.median(rest, axis=1)
    jitter_s = 1.4826 * np.median(np.abs(rest - rest_s[:, None]), axis=1)
    real = early_s - rest_s > np.maximum(_LEAST_EXCESS * rest_s, _EXCESS_JITTERS * jitter_s)
    return np.where(real, early_s / rest_s - 1, np.nan)
