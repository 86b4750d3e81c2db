"""Intervals against figures worked out by hand, by scipy's own tests, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.stats import corrected, ratio, runs_needed, smallest_effect, spread, typical

RUNS = st.lists(st.floats(0.5, 2.0), min_size=2, max_size=12)


def test_the_typical_run_by_hand() -> None:
    """10, 11 and 12: the cube root of 1320, and t(2) = 4.303 standard errors of the logarithms."""
    found = typical([10.0, 12.0, 11.0])
    assert found.value == pytest.approx(1320 ** (1 / 3))
    logs = np.log([10, 11, 12])
    reach = 4.302653 * logs.std(ddof=1) / math.sqrt(3)
    assert found.low == pytest.approx(1320 ** (1 / 3) * math.exp(-reach))
    assert found.high == pytest.approx(1320 ** (1 / 3) * math.exp(reach))
    assert (found.level, found.runs) == (0.95, 3)


def test_a_ratio_is_welchs_on_logarithms() -> None:
    below, above = [10.0, 12.0, 11.0], [20.0, 22.0, 25.0, 21.0]
    found = ratio([above], [below], level=0.9)
    welch = scipy_stats.ttest_ind(np.log(above), np.log(below), equal_var=False).confidence_interval(0.9)
    assert found.value == pytest.approx((20 * 22 * 25 * 21) ** (1 / 4) / 1320 ** (1 / 3))
    assert (found.low, found.high) == pytest.approx((math.exp(welch.low), math.exp(welch.high)))
    assert found.runs == 3


def test_all_samples_of_a_ratio_of_ratios_vary() -> None:
    """Four samples of the same spread and size: twice the variance of two."""
    one, other = [1.0, 1.1], [2.0, 2.2]
    two = ratio([one], [other])
    four = ratio([one, one], [other, other], scale=4.0)
    assert four.value == pytest.approx(1.0)
    assert two.high is not None
    assert four.high is not None
    # Two samples: df 2, t 4.303. Four: df 4, t 2.776, standard error sqrt(2) times as large.
    expected = math.log(two.high / two.value) * math.sqrt(2) * 2.776445 / 4.302653
    assert math.log(four.high) == pytest.approx(expected, rel=1e-5)


def test_one_run_has_no_interval_and_equal_runs_have_one_of_no_width() -> None:
    alone = ratio([[3.0]], [[1.0, 1.1]])
    assert (alone.low, alone.high, alone.runs) == (None, None, 1)
    assert not alone.excludes(1)
    same = ratio([[3.0, 3.0]], [[2.0, 2.0]])
    assert (same.value, same.low, same.high) == pytest.approx((1.5, 1.5, 1.5))
    assert same.excludes(1)


@pytest.mark.parametrize("values", [[], [0.0, 1.0], [-1.0]])
def test_what_is_no_figure_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        typical(values)


def test_wild_runs_do_not_overflow() -> None:
    found = typical([1e-300, 1e300])
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.value < found.high < math.inf


@given(above=RUNS, below=RUNS, factor=st.floats(1e-3, 1e3))
def test_scale_and_order_do_not_matter(above: list[float], below: list[float], factor: float) -> None:
    plain = ratio([above], [below])
    scaled = ratio([[factor * value for value in reversed(above)]], [[factor * value for value in sorted(below)]])
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx((plain.value, plain.low, plain.high), rel=1e-6)


@given(above=RUNS, below=RUNS)
def test_the_inverse_ratio_has_the_inverse_interval(above: list[float], below: list[float]) -> None:
    there, back = ratio([above], [below]), ratio([below], [above])
    assert there.low is not None
    assert back.high is not None
    assert there.value * back.value == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)
    assert there.low <= there.value <= back.value**-1 * (1 + 1e-9)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_intervals_cover_as_often_as_they_say(count: int) -> None:
    random = np.random.default_rng(count)
    trials = 2000
    hits = 0
    for values in random.lognormal(0, 0.3, size=(trials, count)):
        found = typical(values.tolist())
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.0 <= found.high
    assert abs(hits / trials - 0.95) < 0.02  # four standard deviations of the count


def test_more_runs_never_widen_the_interval_in_expectation() -> None:
    random = np.random.default_rng(3)
    widths = []
    for count in range(2, 13):
        found = [typical(values.tolist()) for values in random.lognormal(0, 0.05, size=(2000, count))]
        widths.append(np.mean([math.log((each.high or 0) / (each.low or 1)) for each in found]))
    assert widths == sorted(widths, reverse=True)


def test_a_corrected_level_shares_the_error() -> None:
    assert corrected(0.95, 20) == pytest.approx(0.9975)
    assert corrected(0.95, 0) == 0.95


def test_spread_pools_what_varies() -> None:
    logs = np.log([1.0, 1.1])
    assert spread([[1.0, 1.1], [5.0, 5.5], [3.0]]) == pytest.approx(logs.std(ddof=1))
    assert spread([[1.0], [2.0]]) is None


def test_runs_needed_are_the_first_that_do() -> None:
    """2% spread and 5%: t(12) x 0.02 x sqrt(2/7) = 2.33%, and so down to t(4) x 0.02 x sqrt(2/3) = 4.53% < 4.88%."""
    assert runs_needed(0.02, 0.05) == 3
    assert runs_needed(0.05, 0.05) == 10
    assert smallest_effect(0.05, 10) <= 0.05 < smallest_effect(0.05, 9)
    assert runs_needed(5.0, 0.001) is None
    assert smallest_effect(0.02, 3) == pytest.approx(math.expm1(2.776445 * 0.02 * math.sqrt(2 / 3)), rel=1e-5)
