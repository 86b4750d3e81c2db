from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.errors import UsageError, WorkloadError
from bench.measure import Schedule, measure
from strategies.base import Steps, WorkerClock


class World:
    """A clock that only moves when the fake device works, and a device that works when it is waited for."""

    lookahead = 0

    def __init__(self, losses: dict[int, list[float]] | None = None) -> None:
        self.now = 1_000
        self.events: list[str] = []
        self.losses = losses or {}
        self.calls = 0
        self.clock_set: dict[int, float] = {}
        """Call -> by how many s the clock of the steps was set while it ran."""

    def now_ns(self) -> int:
        self.events.append("clock")
        return self.now

    def run(self, num_batches: int) -> Callable[[], Sequence[Steps]]:
        self.events.append(f"run {num_batches}")
        self._queued = num_batches
        call, self.calls = self.calls, self.calls + 1
        loss = np.asarray(self.losses.get(call, [0.5] * num_batches), np.float32)
        compute_s = 0.005 + self.clock_set.get(call, 0)
        return lambda: self.parts(call, Steps(loss=loss, data_wait_s=0.001, compute_s=compute_s))

    def parts(self, _call: int, steps: Steps) -> Sequence[Steps]:
        return [steps]

    def synchronise(self) -> None:
        self.events.append("synchronise")
        self.now += 10_000_000 * self._queued


def measured(
    world: World, schedule: Schedule, rows: list[dict[str, Any]] | None = None, *, stop_after: int | None = None
) -> list[dict[str, Any]]:
    """The iterations, in `rows` also when it raises; an evaluation takes 1 s of the world's time."""
    rows = [] if rows is None else rows

    def on_epoch(epoch: int, train_s: float) -> bool:
        world.events.append(f"epoch {epoch} after {train_s:.4g} s")
        world.now += 1_000_000_000
        return epoch == stop_after

    measure(
        world,
        schedule,
        world,
        on_traced=lambda: world.events.append("traced"),
        on_warm=lambda: world.events.append("warm"),
        on_iter=lambda row, _steps: rows.append(row),
        on_epoch=on_epoch,
    )
    return rows


class Coordinator(World):
    """Two other processes perform the steps, by clocks of their own."""

    lookahead = 2
    set_between: ClassVar[dict[tuple[int, int], int]] = {}
    """(call, rank) -> by how many ns that rank's clock was set before."""

    def parts(self, call: int, steps: Steps) -> Sequence[Steps]:
        self.events.append(f"read {call}")
        self.now += 5_000_000  # what others perform is done when it can be read
        durations = {rank: 0.002 * rank + self.clock_set.get(call, 0) * (rank == 2) for rank in (1, 2)}
        starts = {rank: 100 * call + rank + self.set_between.get((call, rank), 0) for rank in (1, 2)}
        clocks = [WorkerClock(rank=rank, t_start_ns=starts[rank], duration_s=durations[rank]) for rank in (1, 2)]
        return [replace(steps, worker=clock) for clock in clocks]


def planned(schedule: Schedule) -> list[tuple[int, bool, int | None]]:
    return [(call.num_batches, call.warmup, call.epoch) for call in schedule.calls()]


SCHEDULE = Schedule(num_warmup_batches=6, num_batches_per_iter=4, num_iters=2)


def test_the_first_step_traces_alone_and_warm_up_keeps_its_count() -> None:
    assert planned(SCHEDULE) == [(1, True, None), (4, True, None), (1, True, None), (4, False, None), (4, False, None)]
    assert SCHEDULE.num_batches == 14
    shortest = Schedule(num_warmup_batches=1, num_batches_per_iter=9, num_iters=1)
    assert planned(shortest) == [(1, True, None), (9, False, None)]


def test_every_epoch_ends_with_a_call_of_its_own_and_warm_up_belongs_to_the_first() -> None:
    schedule = Schedule.of_epochs(3, 4, [8, 16, 23])
    assert planned(schedule) == [
        *[(1, True, None), (2, True, None)],
        *[(4, False, None), (1, False, 1)],
        *[(4, False, None), (4, False, 2)],
        *[(4, False, None), (3, False, 3)],
    ]
    assert (schedule.num_iters, schedule.num_batches) == (6, 23)
    assert sum(call.num_batches for call in schedule.calls()) == 23


def test_an_epoch_that_is_all_warm_up_is_refused() -> None:
    assert Schedule.of_epochs(7, 4, [8]).num_iters == 1
    with pytest.raises(UsageError, match="--num-warmup-batches 8 leaves no timed step of the first epoch, which has 8"):
        Schedule.of_epochs(8, 4, [8, 16])


def test_training_time_is_that_of_the_calls_but_the_first_and_of_no_evaluation() -> None:
    world = World()
    rows = measured(world, Schedule.of_epochs(3, 4, [8, 16]))
    told = [event for event in world.events if event.startswith("epoch")]
    assert told == ["epoch 1 after 0.07 s", "epoch 2 after 0.15 s"]
    assert sum(row["duration_s"] for row in rows[1:]) == pytest.approx(0.15)
    assert world.events[-1] == told[1]


def test_a_training_stops_where_it_is_told_to() -> None:
    world = World()
    rows = measured(world, Schedule.of_epochs(1, 4, [5, 9, 13]), stop_after=2)
    assert [row["num_batches"] for row in rows] == [1, 4, 4]
    assert world.events[-1] == "epoch 2 after 0.08 s"


def test_others_have_performed_every_step_of_an_epoch_before_its_evaluation() -> None:
    world = Coordinator()
    measured(world, Schedule.of_epochs(1, 1, [4, 6]))
    kept = [event for event in world.events if event.startswith(("run", "read", "epoch"))]
    assert kept == [
        *["run 1", "read 0", "run 1", "run 1", "run 1", "read 1", "read 2", "read 3"],
        # The device works when it is waited for and again while it is read; nobody waits between the calls.
        "epoch 1 after 0.045 s",
        *["run 1", "run 1", "read 4", "read 5", "epoch 2 after 0.075 s"],
    ]


def test_every_iteration_is_kept_with_its_own_time() -> None:
    rows = measured(World(), SCHEDULE)
    assert [row["iter"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["warmup"] for row in rows] == [True, True, True, False, False]
    assert [row["num_batches"] for row in rows] == [1, 4, 1, 4, 4]
    assert [row["duration_s"] for row in rows] == pytest.approx([0.01, 0.04, 0.01, 0.04, 0.04])
    assert [row["t_start_ns"] for row in rows] == [1_000, 10_001_000, 50_001_000, 60_001_000, 100_001_000]
    assert {(row["data_wait_s"], row["compute_s"]) for row in rows} == {(0.001, 0.005)}
    assert {row["loss"] for row in rows} == {0.5}


def test_the_clock_is_read_after_the_device_has_finished() -> None:
    world = World()
    measured(world, Schedule(num_warmup_batches=1, num_batches_per_iter=4, num_iters=1))
    one_call = ["clock", "run 1", "synchronise", "clock"]
    assert world.events == [*one_call, "traced", "warm", "clock", "run 4", "synchronise", "clock"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_after_it_was_recorded(bad: float) -> None:
    rows: list[dict[str, Any]] = []
    world = World({3: [0.5, 0.5, bad, 0.5]})
    with pytest.raises(WorkloadError, match="in step 3 of iteration 3"):
        measured(world, SCHEDULE, rows)
    assert len(rows) == 4
    assert not np.isfinite(rows[3]["loss"])


@pytest.mark.parametrize("by_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_costs_the_parts_of_that_iteration_alone(by_s: float) -> None:
    world = World()
    world.clock_set[3] = by_s
    rows = measured(world, SCHEDULE)
    assert [row["compute_s"] for row in rows] == [0.005, 0.005, 0.005, None, 0.005]
    assert [row["data_wait_s"] for row in rows] == [0.001] * 5
    assert [row["duration_s"] for row in rows] == pytest.approx([0.01, 0.04, 0.01, 0.04, 0.04])


@pytest.mark.parametrize("by_s", [3600.0, -3600.0])
def test_where_only_the_clock_that_was_set_has_timed_the_run_ends(by_s: float) -> None:
    rows: list[dict[str, Any]] = []
    world = Coordinator()
    world.clock_set[3] = by_s
    with pytest.raises(WorkloadError, match="clock of rank 2's host was set before or during iteration 7"):
        measured(world, SCHEDULE, rows)
    assert [row["iter"] for row in rows] == list(range(7))


@pytest.mark.parametrize("by_ns", [3600 * 10**9, -3600 * 10**9])
def test_a_clock_that_is_set_between_two_turns_is_noticed(by_ns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(Coordinator, "set_between", {(call, 1): by_ns for call in (3, 4)})
    with pytest.raises(WorkloadError, match="clock of rank 1's host was set before or during iteration 6"):
        measured(Coordinator(), SCHEDULE, rows)
    assert [row["iter"] for row in rows] == list(range(6))


def test_steps_that_others_perform_carry_their_ranks_and_times() -> None:
    rows = measured(Coordinator(), SCHEDULE)
    assert [(row["iter"], row["rank"]) for row in rows] == [(index, 1 + index % 2) for index in range(10)]
    assert [row["t_start_ns"] for row in rows] == [call * 100 + rank for call in range(5) for rank in (1, 2)]
    assert {row["duration_s"] for row in rows if row["rank"] == 2} == {0.004}
    assert [row["warmup"] for row in rows] == [True] * 6 + [False] * 4


def test_work_lies_ready_for_others_but_warm_up_ends_before_timing_begins() -> None:
    world = Coordinator()
    measured(world, Schedule(num_warmup_batches=3, num_batches_per_iter=1, num_iters=4))
    kept = [event for event in world.events if event.startswith(("run", "read", "traced", "warm"))]
    warm_up = ["run 1", "read 0", "traced", "run 1", "run 1", "read 1", "read 2", "warm"]
    assert kept == [*warm_up, "run 1", "run 1", "run 1", "read 3", "run 1", "read 4", "read 5", "read 6"]
