"""Which runs are one night of a history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pandas as pd
import pytest

from analysis.nights import nights

LATE = datetime(2026, 5, 1, 23, 50, tzinfo=timezone.utc)
"""Ten minutes before a day ends."""


def runs(hours: Sequence[float], *, length: float = 0.1, **columns: object) -> pd.DataFrame:
    """Runs that start so many hours after LATE and take `length` hours."""
    started = pd.Series([LATE + timedelta(hours=hour) for hour in hours])
    ended = started + timedelta(hours=length)
    frame = pd.DataFrame({"experiment": "e", "started_at": started, "ended_at": ended, "status": "ok"})
    return frame.assign(**{"sweep_task": None, **columns})


def sizes(*frames: pd.DataFrame) -> list[int]:
    """The number of runs of each night."""
    together = pd.concat(frames).sort_values("started_at", kind="stable").reset_index(drop=True)
    return [len(night) for night in nights(together)]


NIGHTLY = [24 * night + run / 5 for night in range(22) for run in range(4)]


def test_a_night_crosses_midnight_also_where_every_night_has_the_same_experiment() -> None:
    assert sizes(runs(NIGHTLY)) == [4] * 22
    assert sizes(runs(NIGHTLY, experiment=[f"nightly-{hour // 24}" for hour in NIGHTLY])) == [4] * 22


def test_runs_of_six_hours_are_one_night() -> None:
    """From 23:50, 05:55 and 12:00; the last ends at 18:00."""
    assert sizes(runs([24 * night + 6.08 * run for night in range(5) for run in range(3)], length=6)) == [3] * 5


def test_what_starts_a_day_after_the_first_run_is_another_night() -> None:
    """A run each hour, day and night, without a gap."""
    assert sizes(runs(range(72))) == [24] * 3


@pytest.mark.parametrize(("pause", "expected"), [(5.9, [2]), (6.1, [1, 1])])
def test_a_night_ends_after_six_hours_without_a_run(pause: float, expected: list[int]) -> None:
    assert sizes(runs([0, 2 + pause], length=2)) == expected


def test_a_long_run_covers_the_gap_after_a_short_one_that_started_later() -> None:
    assert sizes(runs([0, 1, 10], length=0).assign(ended_at=[LATE + timedelta(hours=h) for h in (9, 1.1, 11)])) == [3]


@pytest.mark.parametrize("names", [["am", "pm"], ["e", "e"]])
def test_two_experiments_per_day_are_two_nights_whatever_their_names(names: list[str]) -> None:
    morning = runs([24 * day + run for day in range(3) for run in range(3)], experiment=names[0])
    evening = runs([24 * day + 12 + run for day in range(3) for run in range(3)], experiment=names[1])
    assert sizes(morning, evening) == [3] * 6


def test_experiments_at_the_same_time_are_nights_of_their_own() -> None:
    assert sizes(runs([0, 1, 2]), runs([0.5, 1.5], experiment="other")) == [3, 2]


def test_a_sweep_is_one_night_however_long_it_waits_for_nodes() -> None:
    """The second task failed, and was tried again days later."""
    sweep = runs([0, 1, 30, 70], sweep_task=["a-1", "b-1", "a-2", "b-1"], status=["ok", "failed", "ok", "ok"])
    assert sizes(sweep) == [4]
    assert sizes(sweep, runs([200])) == [4, 1]


def test_sweeps_that_share_a_name_in_several_directories_are_nights_of_their_own() -> None:
    tasks = [f"{model}-1" for _ in range(3) for model in "abc"]
    assert sizes(runs([24 * day + run for day in range(3) for run in range(3)], sweep_task=tasks)) == [3] * 3


def test_a_run_without_an_end_ends_where_it_began() -> None:
    unknown = runs([0, 5, 12])
    unknown["ended_at"] = unknown["ended_at"].where(unknown["status"] != "ok")
    assert unknown["ended_at"].isna().all()
    assert sizes(unknown) == [2, 1]
