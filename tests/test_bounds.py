from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench.bounds import FIRST_CALL_S, LEAST_S, LOAD_S, SLACK, Bounds, load_s
from bench.config import parse
from bench.launch_plan import plan_launch
from bench.telemetry import Gpus
from jobs.watchdog import Deadline


class Rank:
    """A rank's bounds and what its launcher sees."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._deadline = Deadline(folder, 0)
        self.bounds = Bounds(plan_launch(parse(flags), None, Gpus({}), {}).plan, self._deadline)

    def stepped(self, duration_s: float, num_batches: int, *, warmup: bool) -> None:
        row: dict[str, Any] = {"warmup": warmup, "duration_s": duration_s, "num_batches": num_batches}
        self.bounds.stepped(row)

    @property
    def now(self) -> tuple[str, float]:
        due = self._deadline.read()
        return due.phase, due.bound_s


def test_meeting_and_training_have_bounds_of_their_own(tmp_path: Path) -> None:
    rank = Rank(tmp_path, "--rendezvous-timeout=100")
    seen = {}
    for phase in ("import", "rendezvous", "build", "trace", "warmup", "timed", "finish", "leave", "serve"):
        rank.bounds.enter(phase)
        assert rank.now[0] == phase
        seen[phase] = rank.now[1]
    assert seen == {
        "import": LOAD_S,
        **dict.fromkeys(("rendezvous", "leave"), 103),  # a little longer than the rank itself waits
        **dict.fromkeys(("build", "trace", "warmup", "finish"), FIRST_CALL_S),
        "timed": LEAST_S,
        "serve": math.inf,
    }


def test_an_iteration_may_take_some_times_as_long_as_the_slowest_warm_up_steps(tmp_path: Path) -> None:
    rank = Rank(tmp_path)
    rank.bounds.enter("trace")
    rank.stepped(30.0, 1, warmup=True)  # it compiles, too
    rank.bounds.enter("warmup")
    rank.stepped(4.0, 10, warmup=True)
    assert rank.now == ("warmup", FIRST_CALL_S)
    rank.bounds.enter("timed")
    assert rank.now == ("timed", SLACK * 0.4 * 10)
    rank.stepped(500.0, 10, warmup=False)  # only warm-up counts: a rank that slows down does not get more
    assert rank.now == ("timed", SLACK * 0.4 * 10)


def test_where_the_first_step_is_all_that_is_known_it_counts(tmp_path: Path) -> None:
    rank = Rank(tmp_path)
    rank.bounds.enter("trace")
    rank.stepped(3.0, 1, warmup=True)
    rank.bounds.enter("timed")
    assert rank.now == ("timed", SLACK * 3.0 * 10)


def test_loading_takes_its_time_however_short_the_meeting_may_be() -> None:
    assert load_s(parse(["--rendezvous-timeout=4"]).machine) == LOAD_S
    assert load_s(parse(["--rendezvous-timeout=900"]).machine) == 900


def test_what_was_asked_for_holds_and_the_first_step_gets_ten_times_as_much(tmp_path: Path) -> None:
    rank = Rank(tmp_path, "--step-timeout=5")
    for phase, bound_s in (("build", 50), ("trace", 50), ("warmup", 5), ("timed", 5), ("finish", 50)):
        rank.bounds.enter(phase)
        assert rank.now == (phase, bound_s)


@pytest.mark.parametrize(
    ("flags", "bound_s"),
    [
        (["--strategy=mwms"], 5),
        (["--strategy=mwms", "--phase=forward"], math.inf),
        (["--strategy=independent"], math.inf),
    ],
)
def test_only_ranks_that_step_together_come_to_a_barrier_together(
    tmp_path: Path, flags: list[str], bound_s: float
) -> None:
    rank = Rank(tmp_path, "--step-timeout=5", "--num-workers=2", *flags)
    rank.bounds.enter("warmup")
    rank.bounds.wait_for_others()
    assert rank.now == ("warmup", bound_s)
    rank.bounds.enter("timed")
    assert rank.now == ("timed", 5)
    rank.bounds.enter("finish")
    assert rank.now == ("finish", 10 * bound_s)
