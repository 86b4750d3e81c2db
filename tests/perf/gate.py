"""How often the regression gate is right: `python -m tests.perf.gate`.

Simulates log-normal runs and judges them with the code that `analysis.regress` uses. Prints how often a gate of 20
configurations in which nothing changed raises an alarm, the operating curve (how often a slow-down of a given size is
found in such a gate), and why the intervals are not bootstrapped medians.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from analysis.metrics import METRICS
from analysis.samples import Samples
from analysis.stats import LEVEL, Interval, corrected, typical
from analysis.verdicts import Verdict, judge

Runs = npt.NDArray[np.float64]
RATE = METRICS["images_per_s"]
THRESHOLD, CONFIGURATIONS, GATES, TRIALS = 0.05, 20, 1000, 1000
SPREADS, RUNS = (0.02, 0.05), (3, 5, 10)
SLOWDOWNS = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
RESAMPLES = 4000


def runs(random: np.random.Generator, spread: float, count: int, slowdown: float = 0.0) -> Runs:
    """Rates of `count` runs."""
    return (1 - slowdown) * random.lognormal(0, spread, count)


def verdict(random: np.random.Generator, spread: float, count: int, slowdown: float = 0.0) -> Verdict:
    """Of one configuration in a gate of CONFIGURATIONS."""
    baseline, candidate = runs(random, spread, count), runs(random, spread, count, slowdown)
    judged = judge(RATE, Samples([baseline.tolist()]), Samples([candidate.tolist()]), THRESHOLD, CONFIGURATIONS)
    return judged.verdict


def unchanged(random: np.random.Generator, spread: float, count: int, gates: int = GATES) -> dict[str, float]:
    """Shares of gates with an alarm and of gates that are ok as a whole, and of configurations that are ok."""
    found = [[verdict(random, spread, count) for _ in range(CONFIGURATIONS)] for _ in range(gates)]
    return {
        "alarm": float(np.mean([Verdict.REGRESSED in gate for gate in found])),
        "all_ok": float(np.mean([all(one is Verdict.OK for one in gate) for gate in found])),
        "ok": float(np.mean([one is Verdict.OK for gate in found for one in gate])),
    }


def power(random: np.random.Generator, spread: float, count: int, slowdown: float, trials: int = TRIALS) -> float:
    """Share of slowed-down configurations that the gate calls regressed."""
    found = [verdict(random, spread, count, slowdown) is Verdict.REGRESSED for _ in range(trials)]
    return float(np.mean(found))


def medians(random: np.random.Generator, values: Runs) -> Runs:
    """Medians of resampled runs."""
    found: Runs = np.median(random.choice(values, (RESAMPLES, len(values))), axis=1)
    return found


def bootstrap(random: np.random.Generator, values: Runs) -> tuple[float, float]:
    """95% percentile interval of the median."""
    low, high = np.quantile(medians(random, values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def student(_random: np.random.Generator, values: Runs) -> tuple[float, float]:
    """The interval that the analysis uses."""
    found: Interval = typical(values.tolist())
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def coverage(
    random: np.random.Generator, count: int, interval: Callable[[np.random.Generator, Runs], tuple[float, float]]
) -> float:
    """How often an interval holds the true median, 1."""
    found = (interval(random, runs(random, SPREADS[0], count)) for _ in range(TRIALS))
    return float(np.mean([low <= 1 <= high for low, high in found]))


def bootstrap_alarms(random: np.random.Generator, spread: float, count: int, comparisons: int) -> float:
    """Share of unchanged configurations that a bootstrap of the ratio of medians, corrected alike, calls regressed."""
    alarms = 0
    for _ in range(comparisons):
        before, after = runs(random, spread, count), runs(random, spread, count)
        high = np.quantile(medians(random, after) / medians(random, before), (1 + corrected(LEVEL, CONFIGURATIONS)) / 2)
        alarms += bool(high < 1 and np.median(after) <= (1 - THRESHOLD) * np.median(before))
    return alarms / comparisons


def main() -> int:
    """Prints the tables as Markdown."""
    random = np.random.default_rng(20)
    print(f"Nothing changed, {CONFIGURATIONS} configurations a gate, threshold {THRESHOLD:.0%}, {GATES} gates a row:\n")
    print("| run-to-run spread | runs a side | gates with a false alarm | gates all ok | configurations ok |")
    print("|---|---|---|---|---|")
    for spread in SPREADS:
        for count in RUNS:
            found = unchanged(random, spread, count)
            print(f"| {spread:.0%} | {count} | {found['alarm']:.1%} | {found['all_ok']:.0%} | {found['ok']:.1%} |")
    print(f"\nFound (`regressed`), by true slow-down, in a gate of {CONFIGURATIONS}; {TRIALS} trials a cell:\n")
    print(
        "| run-to-run spread | runs a side | " + " | ".join(f"{slower:.3g}%" for slower in np.multiply(100, SLOWDOWNS))
    )
    print("|---|---|" + "---|" * len(SLOWDOWNS))
    for spread in SPREADS:
        for count in RUNS:
            cells = (f"{power(random, spread, count, slowdown):.1%}" for slowdown in SLOWDOWNS)
            print(f"| {spread:.0%} | {count} | " + " | ".join(cells) + " |")
    print(f"\nWhat an interval of {LEVEL:.0%} covers, {TRIALS} trials a cell:\n")
    print("| runs | Student on logarithms | bootstrap of the median |")
    print("|---|---|---|")
    for count in (*RUNS, 20):
        print(f"| {count} | {coverage(random, count, student):.1%} | {coverage(random, count, bootstrap):.1%} |")
    each = bootstrap_alarms(random, SPREADS[1], 5, 10 * TRIALS)
    print(
        f"\nA gate of bootstrapped medians, 5 runs of {SPREADS[1]:.0%}: {each:.2%} of unchanged configurations alarm, "
        f"{1 - (1 - each) ** CONFIGURATIONS:.1%} of gates of {CONFIGURATIONS}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
