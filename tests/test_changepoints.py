"""Change points: known answers, a naive energy statistic, false alarms, what changes nothing."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.changepoints import MIN_SEGMENT, change_points, energies, ratios, shows_step

WOBBLE = [1.0, 1.01, 0.99, 1.005, 0.995, 1.012, 0.988, 1.002, 0.998, 1.007]


def wobbling(*levels: float) -> list[float]:
    """Ten nights at each level, which differ by about a percent."""
    return [level * part for level in levels for part in WOBBLE]


def noise(seed: int, nights: int, spread: float = 0.02) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(0, spread, nights))


def naive_energy(left: list[float], right: list[float]) -> float:
    n, m = len(left), len(right)
    across = sum(abs(a - b) for a in left for b in right) / (n * m)
    within = [[abs(a - b) for a, b in combinations(side, 2)] for side in (left, right)]
    return n * m / (n + m) * (2 * across - sum(sum(pairs) / len(pairs) for pairs in within))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((100, 110), [10]),
        ((110, 100), [10]),
        ((100, 100, 110, 110), [20]),
        ((100, 110, 125), [10, 20]),
        ((100, 120, 100), [10, 20]),
        ((100, 100, 120, 100, 100), [20, 30]),
        ((100, 90, 100, 110, 100), [10, 20, 30, 40]),
        ((100, 100, 100), []),
    ],
)
def test_levels_are_found_where_they_begin(levels, expected):
    assert change_points(wobbling(*levels)) == expected


def test_a_new_level_is_found_on_its_third_night():
    stable = wobbling(100, 100)
    assert [change_points(stable + [120.0, 121.0, 119.0][:nights]) for nights in range(4)] == [[], [], [], [20]]


@pytest.mark.parametrize("nights", range(6, 21))
def test_a_series_that_halves_is_found_from_six_nights_on(nights):
    """Also on the third night of the new level, which the permutations of a short series cannot show."""
    for start in {nights // 2, nights - MIN_SEGMENT}:
        values = noise(nights, nights, 0.005)
        values[start:] /= 2
        assert change_points(values) == [start]


def test_false_alarms_of_short_series_are_rare():
    alarms = [bool(change_points(noise(seed, nights, 0.05))) for nights in (6, 7, 8, 10, 12) for seed in range(200)]
    assert sum(alarms) <= 6


@pytest.mark.parametrize("place", range(8))
def test_one_outlier_in_a_short_series_is_no_change(place):
    values = WOBBLE[:8]
    values[place] *= 0.5
    assert change_points(values) == []


@pytest.mark.parametrize(
    ("values", "ratio", "expected"),
    [
        (WOBBLE[:5], 100.0, False),
        (WOBBLE[:6], 1.5, True),
        (WOBBLE[:6], 1.01, False),
        ([1.0] * 6, 1.01, True),
        ([1.0, 2.0, 1.4, 2.5, 1.1, 1.7, 0.9], 1.5, False),
        ([100.0, 1.0] * 10 + WOBBLE * 2, 1.5, True),
    ],
)
def test_a_step_shows_where_the_newest_values_are_enough_and_alike(values, ratio, expected):
    assert shows_step(values, ratio) is expected


@pytest.mark.parametrize("points", range(2 * MIN_SEGMENT))
def test_too_few_points_have_no_change(points):
    assert change_points([1.0, 1.0, 1.0, 100.0, 100.0][:points]) == []


@pytest.mark.parametrize("points", [6, 40])
def test_a_constant_series_has_no_change(points):
    assert change_points([0.1] * points) == []


@pytest.mark.parametrize("place", [0, 1, 10, 20, 37, 38, 39])
def test_one_outlier_is_no_change_wherever_it_lies(place):
    values = wobbling(100, 100, 100, 100)
    values[place] *= 0.5
    assert change_points(values) == []


@pytest.mark.parametrize("place", [0, 10, 20, 38])
def test_two_bad_nights_in_a_row_are_no_change(place):
    values = wobbling(100, 100, 100, 100)
    values[place : place + 2] = [70.0, 71.0]
    assert change_points(values) == []


def test_an_outlier_does_not_hide_a_change():
    values = wobbling(100, 100, 110, 110)
    values[5], values[31] = 60.0, 180.0
    assert change_points(values) == [20]


def test_stable_noise_seldom_has_a_change():
    found = [change_points(noise(seed, 40)) for seed in range(150)]
    assert sum(map(bool, found)) <= 2


def test_the_level_is_the_share_of_stable_series_with_a_change():
    found = [change_points(noise(seed, 15), level=0.1) for seed in range(300)]
    assert 20 <= sum(map(bool, found)) <= 40


def test_a_step_of_two_and_a_half_spreads_is_found():
    places = []
    for seed in range(20):
        values = noise(seed, 32)
        values[20:] *= 1.05
        places.append(change_points(values))
    assert sum(len(found) == 1 and abs(found[0] - 20) <= 3 for found in places) >= 17


def test_a_stricter_level_finds_less():
    values = [*wobbling(100, 100), 103.0, 102.0, 104.0]
    assert [change_points(values, level=level) for level in (0.05, 1e-4)] == [[20], []]


@given(st.lists(st.floats(-5, 5), min_size=2 * MIN_SEGMENT, max_size=14))
@settings(max_examples=50, deadline=None)
def test_energies_are_those_of_a_naive_loop(values):
    found = energies(np.array([values, values[::-1]]))
    n = len(values)
    assert found.shape == (2, n - 2 * MIN_SEGMENT + 1, n - 2 * MIN_SEGMENT + 1)
    for row, series in zip(found, (values, values[::-1]), strict=True):
        for split in range(MIN_SEGMENT, n - MIN_SEGMENT + 1):
            for end in range(2 * MIN_SEGMENT, n + 1):
                long_enough = end - split >= MIN_SEGMENT
                expected = naive_energy(series[:split], series[split:end]) if long_enough else 0
                assert row[split - MIN_SEGMENT, end - 2 * MIN_SEGMENT] == pytest.approx(expected, abs=1e-9)


def test_energy_by_hand():
    """Across 9 pairs of distance 2, none within: 3 * 3 / 6 * (2 * 2)."""
    assert energies(np.array([[1.0, 1, 1, 3, 3, 3]])).tolist() == [[[6.0]]]


def test_ratio_by_hand():
    """The energy 3 * 3 / 6 * (2 * 4 - 2 / 3 - 4 / 3) over the mean distance of the right side, 4 / 3."""
    assert ratios(np.array([[0.0, 1, 0, 4, 6, 4]])).tolist() == [[[pytest.approx(1.5 * (2 * 13 / 3 - 2) / (4 / 3))]]]


@given(st.lists(st.floats(-5, 5), min_size=2 * MIN_SEGMENT, max_size=12, unique=True))
@settings(max_examples=30, deadline=None)
def test_ratios_are_energies_over_the_larger_mean_distance(values):
    n = len(values)
    quotients = ratios(np.array([values]))[0]
    for split in range(MIN_SEGMENT, n - MIN_SEGMENT + 1):
        for end in range(split + MIN_SEGMENT, n + 1):
            sides = values[:split], values[split:end]
            spread = max(np.mean([abs(a - b) for a, b in combinations(side, 2)]) for side in sides)
            if spread > 1e-3:
                quotient = quotients[split - MIN_SEGMENT, end - 2 * MIN_SEGMENT]
                assert quotient * spread == pytest.approx(naive_energy(*sides), abs=1e-6)


def test_one_outlier_makes_no_energy():
    assert np.abs(energies(np.array([[0.0, 0, 0, 7, 0, 0, 0, 0]]))).max() == pytest.approx(0, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1), factor=st.sampled_from([1e-12, 1e-3, 0.3, 7.0, 1e9]), step=st.floats(0.8, 1.25))
@settings(max_examples=30, deadline=None)
def test_units_change_nothing_and_equal_input_gives_equal_output(seed, factor, step):
    values = noise(seed, 30)
    values[15:] *= step
    found = change_points(values, level=0.02)
    assert change_points(values * factor, level=0.02) == found
    assert change_points(values.tolist(), level=0.02) == found


@given(lengths=st.lists(st.integers(8, 14), min_size=1, max_size=3), ratio=st.sampled_from([0.6, 0.9, 1.1, 2.0]))
@settings(max_examples=8, deadline=None)
def test_clear_steps_are_found_exactly_also_backwards_and_as_rates(lengths, ratio):
    """Nights differ by turns, by about 0.1%; the changes of seconds are those of their reciprocals."""
    nights = np.arange(sum(lengths))
    values = np.repeat(ratio ** np.arange(len(lengths)), lengths) * (1 + (-1) ** nights * (0.001 + 1e-6 * nights))
    steps = np.cumsum(lengths)[:-1].tolist()
    assert change_points(values.tolist()) == steps
    assert change_points((1 / values).tolist()) == steps
    assert change_points(values[::-1].tolist()) == sorted(len(values) - step for step in steps)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_values_without_a_logarithm_are_errors(bad):
    with pytest.raises(
        ValueError, match=rf"^value 2 is {bad}; change points need finite numbers above 0: leave it out$"
    ):
        change_points([1.0, 2.0, bad, 3.0])


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, float("nan")])
def test_a_level_that_is_no_probability_is_an_error(level):
    with pytest.raises(ValueError, match=rf"^level is {level}; it must lie between 0 and 1$"):
        change_points([1.0] * 10, level=level)
