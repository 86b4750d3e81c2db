"""Verdicts by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.metrics import METRICS
from analysis.samples import Samples
from analysis.verdicts import Verdict, judge
from tests.perf.gate import power, unchanged

RATE, STEP = METRICS["images_per_s"], METRICS["step_time_p95_s"]
STEADY = [100.0, 100.5, 99.5, 100.2, 99.8]


def verdict(factor: float, metric: str = "images_per_s", values: list[float] = STEADY, comparisons: int = 1) -> Verdict:
    candidate = Samples([[factor * value for value in values]])
    return judge(METRICS[metric], Samples([values]), candidate, 0.05, comparisons).verdict


@pytest.mark.parametrize(
    ("factor", "rate", "time"),
    [
        (0.9, Verdict.REGRESSED, Verdict.IMPROVED),
        (0.96, Verdict.OK, Verdict.OK),
        (1.0, Verdict.OK, Verdict.OK),
        (1.04, Verdict.OK, Verdict.OK),
        (1.1, Verdict.IMPROVED, Verdict.REGRESSED),
    ],
)
def test_steady_runs_are_judged_by_the_threshold(factor: float, rate: Verdict, time: Verdict) -> None:
    assert verdict(factor) is rate
    assert verdict(factor, "step_time_p95_s") is time


def test_what_runs_cannot_show_is_inconclusive_and_says_how_many_could() -> None:
    noisy = [100.0, 110.0, 90.0]
    found = judge(RATE, Samples([noisy]), Samples([[0.93 * value for value in noisy]]), 0.05, 1)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.advice == "3 runs of 10.0% spread cannot tell 5%: run 21 more a side"
    near = judge(RATE, Samples([STEADY]), Samples([[0.951 * value for value in STEADY]]), 0.05, 1)
    assert near.advice == "the change is close to 5%: run 5 more a side"
    alone = judge(RATE, Samples([[1.0]]), Samples([[0.5]]), 0.05, 1)
    assert (alone.verdict, alone.advice) == (
        Verdict.INCONCLUSIVE,
        "one run has no interval: run at least 2 more a side",
    )


def test_an_alarm_must_hold_among_all_comparisons() -> None:
    values = [100.0, 104.0, 97.0, 102.0]
    assert verdict(0.93, values=values) is Verdict.REGRESSED
    assert verdict(0.93, values=values, comparisons=1000) is Verdict.INCONCLUSIVE


def test_an_efficiency_varies_with_its_base_case_too() -> None:
    steady, shaky = Samples([STEADY], [STEADY], 0.5), Samples([STEADY], [[100.0, 130.0, 80.0]], 0.5)
    assert judge(METRICS["efficiency"], steady, steady, 0.05, 1).verdict is Verdict.OK
    assert judge(METRICS["efficiency"], steady, shaky, 0.05, 1).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("spread", "count"), [(0.02, 5), (0.02, 10), (0.05, 5), (0.05, 10)])
def test_at_most_one_gate_in_twenty_cries_wolf(spread: float, count: int) -> None:
    """120 gates of 20 unchanged configurations each: 12 alarms are 2.4 standard deviations over 5%."""
    assert unchanged(np.random.default_rng(7), spread, count, gates=120)["alarm"] * 120 <= 12


def test_a_slow_down_of_a_tenth_is_found() -> None:
    assert power(np.random.default_rng(7), 0.02, 5, 0.1, trials=400) >= 0.95
