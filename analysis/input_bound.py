"""Which configurations wait for their input, and how much faster the same work is on images that cost nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from analysis.configurations import Configuration, differing
from analysis.metrics import number
from analysis.scaling import RATE
from analysis.stats import Interval, ratio
from analysis.words import count, short

_LEAST_SHARE = 0.05
"""Of the time: what waits less is not called bound by it."""

_FREE = "synthetic"
"""The data set that is made once and held in memory."""

_REFUSED = ("classes", "num_train_samples", "epochs", "target_accuracy", "lr_warmup_epochs")
"""Fields whose flags have no use on _FREE, or are refused: nothing is learned there."""

_OF_THE_DATA = ("dataset", "data_digest", "sharding", "cache", "learning_rate", *_REFUSED)
"""Fields in which a configuration may differ from the same work on _FREE."""


def sentences(found: Sequence[Configuration]) -> list[str]:
    """One for each workload that waits: about the configuration that waits most."""
    waiting: dict[str, list[tuple[float, Configuration]]] = defaultdict(list)
    for one in found:
        share = one.share("data_wait_share")
        if share is not None and share >= _LEAST_SHARE and one.samples[RATE]:
            waiting[one.workload].append((share, one))
    return [_sentence(workload, among, found) for workload, among in waiting.items()]


def _sentence(workload: str, among: Sequence[tuple[float, Configuration]], found: Sequence[Configuration]) -> str:
    share, worst = max(among, key=lambda pair: pair[0])
    others = f", and so {_are(len(among) - 1)}" if len(among) > 1 else ""
    said = f"{workload}: {short(worst)} is input-bound, {share:.0%} of its time is waiting for input{others}."
    if worst.setup["dataset"] == _FREE:
        return f"{said} That data costs nothing to read: the cores that compute leave none for the input."
    free = next((one for one in found if _same_work(one, worst) and one.samples[RATE]), None)
    if free is None:
        flags = [f"--{name.replace('_', '-')}" for name in _REFUSED if worst.setup[name] is not None]
        without = f" and without {', '.join(flags)}" if flags else ""
        return f"{said} How much that costs would show in runs of the same with --dataset {_FREE}{without}."
    gain = ratio([free.samples[RATE]], [worst.samples[RATE]])
    if gain.low is not None and not gain.excludes(1):
        return f"{said} On {_FREE} data the same cannot be told from it: {_times(gain)} as fast."
    return f"{said} The same on {_FREE} data is {_times(gain)} as fast."


def _same_work(one: Configuration, other: Configuration) -> bool:
    return one.setup["dataset"] == _FREE and not differing(one.setup, other.setup, _OF_THE_DATA)


def _times(gain: Interval) -> str:
    if gain.low is None or gain.high is None:
        return f"{number(gain.value)} times (a single run: no interval)"
    return f"{number(gain.value)} times ({number(gain.low)} to {number(gain.high)})"


def _are(others: int) -> str:
    return f"{'is' if others == 1 else 'are'} {count(others, 'other configuration')}"
