"""A metric over time, one point a night, with the points at which it changed and what else changed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

import pandas as pd

from analysis.changepoints import change_points, shows_step
from analysis.configurations import Configuration, configurations, in_order, may_be, told_apart
from analysis.metrics import Metric
from analysis.nights import nights
from analysis.provenance import changes
from analysis.samples import samples
from analysis.stats import Interval, typical

LARGE_STEP = 1.5
"""Ratio of a change that is always to be seen, where a series is called steady."""


@dataclass(frozen=True)
class Point:
    """The runs of a configuration in one night (`analysis.nights`): they share that night's state of the machine, so
    they are one point however many they are."""

    started_at: datetime
    experiment: str
    value: Interval
    machines: frozenset[str]
    """`Results.runs.machine` of the runs."""


@dataclass(frozen=True)
class Change:
    """Where a segment ends and the next begins."""

    at: Point
    """The first point of the new segment."""
    ratio: float
    """Typical value of the new segment / of the one before."""
    worse: bool
    changed: Mapping[str, tuple[str, str]]
    """Provenance of the last point before -> of `at`."""


@dataclass(frozen=True)
class Trend:
    """One configuration over time."""

    configuration: Configuration
    """Its newest runs."""
    points: Sequence[Point]
    starts: Sequence[int]
    """Index of the first point of each segment, 0 first."""
    levels: Sequence[float]
    """Typical value of each segment."""
    changes: Sequence[Change]
    too_short: bool
    """True when nothing changed, and the points are too few, or differ too much, to show even LARGE_STEP."""
    failed_since: datetime | None = None
    """The first night after the last point in which all of its runs failed."""

    @property
    def worse(self) -> bool:
        """True when the newest segment is worse than the one before it."""
        return bool(self.changes) and self.changes[-1].worse


def trends(runs: pd.DataFrame, metric: Metric, threshold: float) -> list[Trend]:
    """The trend of every configuration that has the metric, in the order of `configurations`.

    Levels that differ by less than `threshold`, a share, are one.
    """
    points: dict[str, list[Point]] = {}
    newest: dict[str, Configuration] = {}
    failed_since: dict[str, datetime] = {}
    for night in nights(runs):
        found = configurations(night)
        values = samples(found, metric)
        started, experiment = night["started_at"].iloc[0].to_pydatetime(), str(night["experiment"].iloc[0])
        ran = {one.key for one in found if one.run_ids}
        failed_since = {key: since for key, since in failed_since.items() if key not in ran}
        for failed in (one for one in found if not one.run_ids):
            # What a run that failed early was to be is not all known: it may have been any of these.
            for key in (each.key for each in newest.values() if each.key not in ran and may_be(failed, each)):
                failed_since.setdefault(key, started)
        for one in found:
            if one.key in values:
                newest[one.key] = one
                points.setdefault(one.key, []).append(Point(started, experiment, values[one.key].value(), one.machines))
    return [
        replace(_trend(one, points[one.key], metric, threshold), failed_since=failed_since.get(one.key))
        for one in in_order(told_apart(newest.values()))
    ]


def _trend(one: Configuration, points: Sequence[Point], metric: Metric, threshold: float) -> Trend:
    values = [point.value.value for point in points]
    starts, levels = join_levels(values, [0, *change_points(values)], threshold)
    changed = [
        Change(
            at=points[start],
            ratio=new / old,
            worse=(new < old) is metric.higher_is_better,
            changed=changes(points[start - 1].machines, points[start].machines),
        )
        for start, (old, new) in zip(starts[1:], pairwise(levels), strict=True)
    ]
    worse = 1 / LARGE_STEP if metric.higher_is_better else LARGE_STEP
    return Trend(one, points, starts, levels, changed, too_short=not changed and not shows_step(values, worse))


def join_levels(values: Sequence[float], starts: Sequence[int], threshold: float) -> tuple[list[int], list[float]]:
    """Join neighbouring segments, the most alike first, until all differ by `threshold`.

    Returns the starts and the typical values of the segments. A drift in steps below the threshold still shows.
    """
    starts = [*starts]
    while True:
        levels = [typical(values[start:end]).value for start, end in pairwise([*starts, len(values)])]
        sizes = [abs(new / old - 1) for old, new in pairwise(levels)]
        if not sizes or min(sizes) >= threshold:
            return starts, levels
        del starts[1 + sizes.index(min(sizes))]
