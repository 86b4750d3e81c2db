"""The nights of a history: which runs share one state of the machine and are one point."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pandas as pd

GAP = timedelta(hours=6)
"""Time without a run after which the next run of the same experiment belongs to another night."""
LONGEST = timedelta(days=1)
"""Time from the first run of a night after which the next run belongs to another one."""


def nights(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """The runs of each night, in the order in which the nights began; `runs` are in the order of their start.

    A sweep runs each task of an experiment once, so its runs are one night, however long they took or waited for nodes.
    `bench.run` may use one experiment name every night, as may sweeps into several directories: GAP and LONGEST then
    separate the nights. Days play no part, so a night may cross midnight.
    """
    groups: list[pd.DataFrame] = []
    for _, experiment in runs.groupby("experiment", sort=False):
        sweep = experiment["sweep_task"].notna()
        if experiment[sweep & (experiment["status"] == "ok")]["sweep_task"].duplicated().any():
            sweep[:] = False
        groups += [experiment[sweep], *_separate(experiment[~sweep])]
    return sorted((group for group in groups if len(group)), key=lambda group: group["started_at"].iloc[0])


def _separate(runs: pd.DataFrame) -> Iterable[pd.DataFrame]:
    """Yield runs as nights, by GAP and LONGEST."""
    ends = runs[["started_at", "ended_at"]].max(axis=1).cummax()
    first = 0
    for row in range(1, len(runs)):
        started = runs["started_at"].iloc[row]
        if started - ends.iloc[row - 1] > GAP or started - runs["started_at"].iloc[first] >= LONGEST:
            yield runs.iloc[first:row]
            first = row
    yield runs.iloc[first:]
