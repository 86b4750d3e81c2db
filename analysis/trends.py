"""A metric over time, one point a night, with the points at which it changed and what else changed there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

import pandas as pd

from analysis.changepoints import MIN_SEGMENT, change_points
from analysis.configurations import Configuration, configurations, in_order, may_be, told_apart
from analysis.metrics import Metric
from analysis.provenance import changes
from analysis.samples import samples
from analysis.stats import Interval, typical


@dataclass(frozen=True)
class Point:
    """The runs of a configuration that belong to one experiment and started on one day: they share that night's state
    of the machine, so they are one point however many they are."""

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
    failed_since: datetime | None = None
    """The first night after the last point in which all of its runs failed."""

    @property
    def too_short(self) -> bool:
        """True when there are too few points for any change to be found."""
        return len(self.points) < 2 * MIN_SEGMENT

    @property
    def worse(self) -> bool:
        """True when the newest segment is worse than the one before it."""
        return bool(self.changes) and self.changes[-1].worse


def trends(runs: pd.DataFrame, metric: Metric) -> list[Trend]:
    """The trend of every configuration that has the metric, in the order of `configurations`."""
    points: dict[str, list[Point]] = {}
    newest: dict[str, Configuration] = {}
    failed_since: dict[str, datetime] = {}
    for night in _nights(runs):
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
        replace(_trend(one, points[one.key], metric), failed_since=failed_since.get(one.key))
        for one in in_order(told_apart(newest.values()))
    ]


def _nights(runs: pd.DataFrame) -> Iterable[pd.DataFrame]:
    """The runs of each experiment and day, in the order in which these began."""
    day = runs["started_at"].dt.floor("D")
    groups = [group for _, group in runs.groupby([runs["experiment"], day], sort=False)]
    return sorted(groups, key=lambda group: group["started_at"].iloc[0])


def _trend(one: Configuration, points: Sequence[Point], metric: Metric) -> Trend:
    values = [point.value.value for point in points]
    starts = [0, *change_points(values)]
    levels = [typical(values[start:end]).value for start, end in pairwise([*starts, len(values)])]
    found = [
        Change(
            at=points[start],
            ratio=new / old,
            worse=(new < old) is metric.higher_is_better,
            changed=changes(points[start - 1].machines, points[start].machines),
        )
        for start, (old, new) in zip(starts[1:], pairwise(levels), strict=True)
    ]
    return Trend(one, points, starts, levels, found)
