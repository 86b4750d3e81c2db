"""How often change points are false and how soon true ones are found: `python -m tests.perf.change_points`.

Simulates series of one log-normal value a night and prints a table in Markdown, which takes some minutes of all cores.
All seeds are fixed. A number after the command is a level other than the default one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from analysis.changepoints import LEVEL, MIN_SEGMENT, change_points

SERIES_ONCE, SERIES_NIGHTLY, SERIES_STEP = 500, 100, 100
NIGHTS, MOST_NIGHTS = 100, 20
STEP, LARGE_STEP, SHORT = 1.05, 1.1, 10
NEAR = 3
"""Nights by which a change point may miss the true one, and within which two found are the same one."""
OUTLIER, OUTLIERS = 0.85, 0.05


@dataclass(frozen=True)
class Noise:
    """What nights differ by when nothing changes."""

    spread: float
    """Standard deviation of the logarithm, from night to night."""
    outliers: float
    """Share of nights with a value of OUTLIER times what it would be."""

    def series(self, seed: list[int], nights: int) -> np.ndarray:
        rng = np.random.default_rng([*seed, round(1000 * self.spread), round(1000 * self.outliers)])
        values = np.exp(rng.normal(0, self.spread, nights))
        return np.where(rng.random(nights) < self.outliers, OUTLIER, 1) * values


NOISES = {
    "2% spread": Noise(0.02, 0),
    "5% spread": Noise(0.05, 0),
    "2% spread and outliers": Noise(0.02, OUTLIERS),
}


def near(points: list[int], place: int) -> bool:
    return any(abs(point - place) <= NEAR for point in points)


def found_at_once(level: float, noise: Noise, number: int) -> int:
    """Change points in a series that has none."""
    return len(change_points(noise.series([1, number], NIGHTS).tolist(), level=level))


def alarms(level: float, noise: Noise, number: int) -> int:
    """Nights on which a change point turns up that is not near any of an earlier night, in a series that has none."""
    values = noise.series([2, number], NIGHTS).tolist()
    known: list[int] = []
    nights = 0
    for night in range(2 * MIN_SEGMENT, NIGHTS + 1):
        found = change_points(values[:night], level=level)
        nights += any(not near(known, point) for point in found)
        known += found
    return nights


def delay(level: float, noise: Noise, step: float, before: int, number: int) -> float:
    """Nights with the new level until it is found, infinite when MOST_NIGHTS do not suffice."""
    values = noise.series([3, number], before + MOST_NIGHTS)
    values[before:] *= step
    for nights in range(1, MOST_NIGHTS + 1):
        if near(change_points(values[: before + nights].tolist(), level=level), before):
            return nights
    return float("inf")


def still_seen(level: float, noise: Noise, number: int) -> bool:
    """Whether both ends of a step that lasted SHORT nights after 30, and ended 20 nights ago, are found."""
    values = noise.series([4, number], 30 + SHORT + 20)
    values[30 : 30 + SHORT] *= STEP
    found = change_points(values.tolist(), level=level)
    return near(found, 30) and near(found, 30 + SHORT)


def each(pool: ProcessPoolExecutor, work: Callable[[int], float], series: int) -> np.ndarray:
    return np.array(list(pool.map(work, range(series), chunksize=5)), dtype=float)


def nights_text(nights: float) -> str:
    return f"{nights:.0f}" if np.isfinite(nights) else f"over {MOST_NIGHTS}"


def delays_text(delays: np.ndarray) -> str:
    middle, late = np.quantile(delays, [0.5, 0.9], method="higher")
    return f"{nights_text(middle)}, {nights_text(late)}, {(delays <= 10).mean():.0%}"


def rows(pool: ProcessPoolExecutor, level: float) -> dict[str, Callable[[Noise], str]]:
    """What the table's rows are called and how their cells are computed."""

    def rate(work: Callable[[float, Noise, int], float], series: int, noise: Noise) -> str:
        found = each(pool, partial(work, level, noise), series)
        return f"{found.mean():.3f} ({found.sum():.0f} in {series} series)"

    def delays(step: float, before: int, noise: Noise) -> str:
        return delays_text(each(pool, partial(delay, level, noise, step, before), SERIES_STEP))

    def seen(noise: Noise) -> str:
        return f"{each(pool, partial(still_seen, level, noise), SERIES_STEP).mean():.0%}"

    steps = {
        f"{step - 1:.0%} step after {before} nights: found after, median, 90th percentile, share in 10 nights": partial(
            delays, step, before
        )
        for step in (STEP, LARGE_STEP)
        for before in (20, 50)
    }
    return {
        f"change points in {NIGHTS} stable nights, looked at once": partial(rate, found_at_once, SERIES_ONCE),
        f"nights with a new false alarm in {NIGHTS}, looked at every night": partial(rate, alarms, SERIES_NIGHTLY),
        **steps,
        f"{STEP - 1:.0%} for {SHORT} nights: both ends seen 20 nights later": seen,
    }


def main() -> int:
    """Prints the table."""
    level = float(sys.argv[1]) if len(sys.argv) > 1 else LEVEL
    print(
        f"Level {level}, segments of at least {MIN_SEGMENT} nights; {SERIES_STEP} series where a cell says no number."
    )
    print(f"Outliers: one night in {1 / OUTLIERS:.0f} is {1 - OUTLIER:.0%} lower. Found: within {NEAR} nights of it.\n")
    print(f"| | {' | '.join(NOISES)} |\n|---|{'---|' * len(NOISES)}")
    with ProcessPoolExecutor() as pool:
        for name, cell in rows(pool, level).items():
            print(f"| {name} | {' | '.join(cell(noise) for noise in NOISES.values())} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
