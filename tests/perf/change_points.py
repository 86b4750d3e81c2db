"""How often change points are false and how soon true ones are found: `python -m tests.perf.change_points`.

Simulates series of one log-normal value per night and prints two tables in Markdown, which takes about a quarter of an
hour on two cores. All seeds are fixed. A number after the command is a level other than the default one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from analysis.changepoints import LEVEL, MIN_SEGMENT, change_points

SERIES_ONCE, SERIES_NIGHTLY, SERIES_STEP = 500, 100, 100
SERIES_SHORT_ONCE, SERIES_SHORT_NIGHTLY, SERIES_SHORT_STEP = 1000, 300, 50
NIGHTS, MOST_NIGHTS = 100, 20
STEP, LARGE_STEP, SHORT = 1.05, 1.1, 10
SHORT_SERIES, STEPS = (6, 8, 10, 12, 20, 50), (1.05, 1.1, 1.2, 1.5)
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


def found_at_once(level: float, noise: Noise, nights: int, number: int) -> int:
    """Change points in a series that has none."""
    return len(change_points(noise.series([1, number], nights).tolist(), level=level))


def alarms(level: float, noise: Noise, nights: int, number: int) -> int:
    """Nights on which a change point turns up that is not near any of an earlier night, in a series that has none."""
    values = noise.series([2, number], nights).tolist()
    known: list[int] = []
    count = 0
    for night in range(2 * MIN_SEGMENT, nights + 1):
        points = change_points(values[:night], level=level)
        count += any(not near(known, point) for point in points)
        known += points
    return count


def first_alarm(level: float, noise: Noise, number: int) -> float:
    """The night of the first false alarm in a series that is looked at every night; infinite where there is none."""
    values = noise.series([2, number], SHORT_SERIES[-1]).tolist()
    nights = range(2 * MIN_SEGMENT, len(values) + 1)
    return next((night for night in nights if change_points(values[:night], level=level)), float("inf"))


def sees(level: float, noise: Noise, step: float, nights: int, number: int) -> bool:
    """Whether a step in the middle of a series is detected."""
    values = noise.series([5, number], nights)
    values[nights // 2 :] *= step
    return near(change_points(values.tolist(), level=level), nights // 2)


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

    def rate(work: Callable[[float, Noise, int, int], float], series: int, noise: Noise) -> str:
        counts = each(pool, partial(work, level, noise, NIGHTS), series)
        return f"{counts.mean():.3f} ({counts.sum():.0f} in {series} series)"

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


def short_rows(pool: ProcessPoolExecutor, level: float, noise: Noise) -> Iterator[tuple[str, list[str]]]:
    """The second table's rows for one noise: a name, and a cell for each of SHORT_SERIES."""

    def share(work: Callable[..., float], series: int, *fixed: float) -> list[str]:
        counts = [each(pool, partial(work, level, noise, *fixed, nights), series) for nights in SHORT_SERIES]
        return [f"{(count > 0).mean():.1%}" for count in counts]

    def delays(step: float, nights: int) -> str:
        found = each(pool, partial(delay, level, noise, step, nights), SERIES_SHORT_STEP)
        return nights_text(np.quantile(found, 0.5, method="higher"))

    yield "stable: change points, looked at once", share(found_at_once, SERIES_SHORT_ONCE)
    for step in STEPS:
        yield f"step of {step - 1:.0%} in the middle: seen", share(sees, SERIES_SHORT_STEP, step)
    alarms_at = each(pool, partial(first_alarm, level, noise), SERIES_SHORT_NIGHTLY)
    yield "stable: false alarm so far, looked at every night", [f"{(alarms_at <= n).mean():.1%}" for n in SHORT_SERIES]
    for step in reversed(STEPS):
        yield f"step of {step - 1:.0%} after as many nights: delay", [delays(step, nights) for nights in SHORT_SERIES]


def main() -> int:
    """Prints the tables."""
    level = float(sys.argv[1]) if len(sys.argv) > 1 else LEVEL
    print(
        f"Level {level}, segments of at least {MIN_SEGMENT} nights; {SERIES_STEP} series where a cell says no number."
    )
    print(f"Outliers: one night in {1 / OUTLIERS:.0f} is {1 - OUTLIER:.0%} lower. Found: within {NEAR} nights of it.\n")
    print(f"| | {' | '.join(NOISES)} |\n|---|{'---|' * len(NOISES)}")
    with ProcessPoolExecutor() as pool:
        for name, cell in rows(pool, level).items():
            print(f"| {name} | {' | '.join(cell(noise) for noise in NOISES.values())} |", flush=True)
        print(
            f"\nStable: {SERIES_SHORT_ONCE} series looked at once, {SERIES_SHORT_NIGHTLY} every night; "
            f"steps: {SERIES_SHORT_STEP} series.\n"
        )
        print(f"| | {' | '.join(f'{nights} nights' for nights in SHORT_SERIES)} |\n|---|{'---|' * len(SHORT_SERIES)}")
        for title, noise in [*NOISES.items()][:2]:
            for name, cells in short_rows(pool, level, noise):
                print(f"| {title}, {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
