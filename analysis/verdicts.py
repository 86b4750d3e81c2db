"""Has a configuration become slower? A verdict from the interval of a ratio, against a threshold.

Two questions with two errors. An alarm that is none costs a night's work, so `regressed` and `improved` ask that the
interval excludes "no change" at a level corrected for all comparisons of the gate, and that the change itself is beyond
the threshold. `ok` is a promise about one configuration: with 95% probability it did not lose as much as the threshold.
What can be said to neither is `inconclusive`. `python -m tests.perf.gate` measures how often each is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from analysis.metrics import Metric
from analysis.samples import Samples
from analysis.stats import LEVEL, Interval, corrected, runs_needed, spread

_ONE_SIDED = 2 * LEVEL - 1
"""An interval of 90% has 95% above its lower end."""


class Verdict(Enum):
    """What the gate says of a configuration."""

    OK = "ok"
    REGRESSED = "regressed"
    IMPROVED = "improved"
    INCONCLUSIVE = "inconclusive"
    MISSING = "missing"
    """It ran in the baseline and did not, or failed, in the candidate."""


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on."""

    verdict: Verdict
    change: Interval
    """candidate / baseline, at the level that holds for all comparisons of the gate together."""
    advice: str
    """What to do about an inconclusive one; else empty."""


def judge(metric: Metric, baseline: Samples, candidate: Samples, threshold: float, comparisons: int) -> Judgement:
    """The verdict on one metric of one configuration; `threshold` is a share (0.05 for 5%)."""
    change = candidate.over(baseline, corrected(LEVEL, comparisons))
    if change.low is None or change.high is None:
        return Judgement(Verdict.INCONCLUSIVE, change, "one run has no interval: run at least 2 more a side")
    probable = candidate.over(baseline, _ONE_SIDED)
    assert probable.low is not None
    assert probable.high is not None
    fallen, risen = change.value <= 1 - threshold, change.value >= 1 + threshold
    surely_lower, surely_higher = change.high < 1, change.low > 1
    if metric.higher_is_better:
        worse, better = fallen and surely_lower, risen and surely_higher
        held = probable.low > 1 - threshold
    else:
        worse, better = risen and surely_higher, fallen and surely_lower
        held = probable.high < 1 + threshold
    if worse:
        return Judgement(Verdict.REGRESSED, change, "")
    if better:
        return Judgement(Verdict.IMPROVED, change, "")
    if held:
        return Judgement(Verdict.OK, change, "")
    return Judgement(Verdict.INCONCLUSIVE, change, _advice(baseline, candidate, threshold))


def _advice(baseline: Samples, candidate: Samples, threshold: float) -> str:
    samples = [*baseline.above, *baseline.below, *candidate.above, *candidate.below]
    runs, varies = min(baseline.runs, candidate.runs), spread(samples)
    needed = runs_needed(varies or 0.0, threshold, _ONE_SIDED)
    have = f"{runs} runs of {varies or 0:.1%} spread cannot tell {threshold:.0%}"
    if needed is None:
        return f"{have}, and a thousand could not: find out what disturbs them"
    if needed > runs:
        return f"{have}: run {needed - runs} more a side"
    return f"the change is close to {threshold:.0%}: run {runs} more a side"
