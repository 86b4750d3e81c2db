"""Steady noise is left alone, and what is not steady is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from analysis.steadiness import Floats, drifts, excesses, gaps

CHECKS = (gaps, drifts, excesses)
RUNS = 500


def noise(iters: int, jitter: float, runs: int = RUNS) -> Floats:
    return np.random.default_rng(iters).lognormal(np.log(0.1), jitter, (runs, iters))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("jitter", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("iters", [10, 30, 50, 100])
def test_steady_noise_is_left_alone(check: Callable[[Floats], Floats], jitter: float, iters: int) -> None:
    assert np.count_nonzero(~np.isnan(check(noise(iters, jitter)))) < 0.01 * RUNS


@pytest.mark.parametrize("iters", [30, 100])
def test_hiccups_are_no_warning(iters: int) -> None:
    times_s = noise(iters, 0.02)
    times_s[np.arange(RUNS), np.random.default_rng(1).integers(1, iters, RUNS)] *= 3
    for check in CHECKS:
        assert np.count_nonzero(~np.isnan(check(times_s))) < 0.01 * RUNS, check.__name__


@pytest.mark.parametrize("iters", [10, 30, 100])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_two_levels_are_found_wherever_they_lie(iters: int, share: float) -> None:
    times_s = noise(iters, 0.01)
    times_s[:, :: round(1 / share)] *= 1.2
    found = gaps(times_s)
    assert np.count_nonzero(~np.isnan(found)) > 0.99 * RUNS
    assert np.nanmedian(found) == pytest.approx(0.2, abs=0.03)


def test_a_gap_is_the_distance_of_the_means_over_the_median() -> None:
    assert gaps(np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2, 1.2, 1.2, 1.2]])) == pytest.approx(0.2)
    rare = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2]])
    small = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.04, 1.04, 1.04, 1.04]])
    assert np.isnan(gaps(rare)).all()
    assert np.isnan(gaps(small)).all()


def test_a_line_has_no_two_levels() -> None:
    """The halves of a uniform distribution are 3.46 times as far apart as they are wide."""
    assert np.isnan(gaps(np.linspace(1.0, 1.5, 100)[None, :])).all()


@pytest.mark.parametrize("iters", [10, 30, 100])
@pytest.mark.parametrize("change", [0.2, -0.2])
def test_drift_is_found_in_both_directions(iters: int, change: float) -> None:
    found = drifts(noise(iters, 0.01) * np.linspace(1.0, 1.0 + change, iters))
    assert np.count_nonzero(~np.isnan(found)) > (0.99 if iters > 10 else 0.9) * RUNS
    assert np.nanmedian(found) == pytest.approx(2 / 3 * change, abs=0.03)


def test_a_drift_is_the_last_third_over_the_first() -> None:
    assert drifts(np.array([[1.0, 1.0, 1.0, 1.05, 1.05, 1.05, 1.1, 1.1, 1.1]])) == pytest.approx(0.1)
    small = np.array([[1.0, 1.0, 1.0, 1.01, 1.01, 1.01, 1.019, 1.019, 1.019]])
    assert np.isnan(drifts(small)).all()


@pytest.mark.parametrize("iters", [10, 30, 100])
def test_a_slow_beginning_is_found(iters: int) -> None:
    times_s = noise(iters, 0.01)
    times_s[:, : iters // 10] *= 1.5
    found = excesses(times_s)
    assert np.count_nonzero(~np.isnan(found)) > 0.99 * RUNS
    assert np.nanmedian(found) == pytest.approx(0.5, abs=0.03)
    assert np.isnan(excesses(times_s[:, ::-1])).all()
