"""Every way a run can end, from what the processes left behind."""

from __future__ import annotations

import signal
from datetime import datetime, timezone
from typing import Any

import pytest

from results.record import Ending, Tables, conclude
from results.store import ShardContent

ENDED = datetime(2026, 5, 1, 12, 0, 5, tzinfo=timezone.utc)
RUN = {
    "started_at": 1_777_636_800.0,
    "config": {"seed": 1},
    "num_processes": 2,
    "synchronous": True,
    "device_kind": "cpu",
    "provenance": {"cpu_model": "A CPU"},
    "null_reasons": {"x": "y"},
}
SECOND = 1_000_000_000
CLEAN = Ending()


def rank(number: int, **fields: Any) -> ShardContent:
    said = {"rank": number, "status": "ok", "exit_code": 0, "phase": "finish", "weight_digests": ["abc"], **fields}
    rows = [
        {"iter": 0, "warmup": True, "num_batches": 1, "t_start_ns": 0, "duration_s": 1.0},
        {"iter": 1, "warmup": False, "num_batches": 2, "t_start_ns": 10 * SECOND, "duration_s": 2.0},
    ]
    return ShardContent(f"rank-{number:05d}", rank={k: v for k, v in said.items() if v is not ...}, iters=rows)


def ended(*ranks: ShardContent, ending: Ending = CLEAN, **run: Any) -> Tables:
    return conclude("R", [*ranks, ShardContent("run", run=RUN | run)], ending, ENDED)


def verdict(tables: Tables) -> tuple[Any, ...]:
    row = tables["runs"][0]
    return row["status"], row["exit_code"], row["failed_rank"], row["failed_phase"]


def test_a_rank_that_was_killed_elsewhere_is_to_blame_for_what_the_others_met() -> None:
    mine = rank(0, status="failed", exit_code=4, phase="warmup", error="peer is gone")
    theirs = rank(1, status="lost", exit_code=137, phase="warmup", error="was killed by SIGKILL")
    tables = ended(mine, theirs, ending=Ending(exit_codes={0: 4}, first_failed=0))
    assert verdict(tables) == ("lost", 4, 1, "warmup")
    # Without a word from there it may just be slow to write.
    silent = rank(1, status=..., exit_code=..., phase="warmup")
    assert verdict(ended(mine, silent, ending=Ending(exit_codes={0: 4}, first_failed=0)))[:3] == ("failed", 4, 0)


def test_a_reason_stays_only_for_what_is_null() -> None:
    run = ended(rank(0), rank(1), flops_per_image=7, null_reasons={"flops_per_image": "not counted", "mfu": "unknown"})
    assert run["runs"][0]["null_reasons"] == {"mfu": "unknown"}


def test_a_clean_end() -> None:
    tables = ended(rank(0), rank(1), ending=Ending(exit_codes={0: 0, 1: 0}))
    assert verdict(tables) == ("ok", 0, None, None)
    run = tables["runs"][0]
    assert run["run_id"] == "R"
    assert run["error"] is None
    assert run["ended_at"] == ENDED
    assert run["started_at"] == datetime(2026, 5, 1, 12, 0, tzinfo=timezone.utc)
    assert run["device_name"] == "A CPU"
    assert run["null_reasons"] == {"x": "y"}
    assert len(run["comparability_key"]) == 16
    assert [row["rank"] for row in tables["iters"]] == [0, 0, 1, 1]
    assert {row["run_id"] for row in tables["iters"] + tables["ranks"]} == {"R"}


def test_a_failed_rank_is_named_with_its_phase_and_its_words() -> None:
    bad = rank(1, status="failed", exit_code=4, phase="timed", error="loss is nan")
    stopped = rank(0, status="interrupted", exit_code=143, error="stopped by SIGTERM")
    tables = ended(stopped, bad, ending=Ending(exit_codes={1: 4, 0: 143}, first_failed=1))
    assert verdict(tables) == ("failed", 4, 1, "timed")
    assert tables["runs"][0]["error"] == "loss is nan"


def test_a_killed_rank_is_lost_and_its_iterations_are_kept() -> None:
    dead = rank(1, status=..., exit_code=..., phase="timed")
    tables = ended(
        rank(0, status="interrupted", error="stopped by SIGTERM"),
        dead,
        ending=Ending(exit_codes={1: -signal.SIGKILL, 0: 143}, first_failed=1, last_words={1: "OOM?"}),
    )
    assert verdict(tables) == ("lost", 4, 1, "timed")
    assert "SIGKILL" in tables["runs"][0]["error"]
    assert "OOM?" in tables["runs"][0]["error"]
    assert tables["ranks"][1]["exit_code"] == 137
    assert [row["rank"] for row in tables["iters"]] == [0, 0, 1, 1]


def test_a_rank_that_left_nothing_still_has_a_row() -> None:
    tables = ended(rank(0))
    assert verdict(tables)[:3] == ("lost", 4, 1)
    assert tables["ranks"][1]["status"] == "lost"
    assert "results directory" in tables["ranks"][1]["error"]


@pytest.mark.parametrize("code", [2, 3])
def test_what_is_the_users_or_the_machines_fault_keeps_its_code(code: int) -> None:
    bad = rank(0, status="failed", exit_code=code, phase="build", error="no file")
    assert verdict(ended(bad, rank(1), ending=Ending(exit_codes={0: code, 1: 0}, first_failed=0)))[1] == code


def test_out_of_memory_has_a_status_of_its_own() -> None:
    bad = rank(0, status="oom", exit_code=4, phase="trace", error="ResourceExhaustedError: OOM")
    assert verdict(ended(bad, rank(1), ending=Ending(first_failed=0))) == ("oom", 4, 0, "trace")


def test_the_time_limit_names_who_was_still_where() -> None:
    late = rank(1, status=..., exit_code=..., phase="rendezvous", hostname="b")
    overdue = {1: "not finished after 30 s (--timeout)"}
    ending = Ending(exit_codes={0: 0, 1: -15}, overdue=overdue, told=[1], timed_out=True)
    tables = ended(rank(0), late, ending=ending)
    assert verdict(tables) == ("timeout", 124, 1, "rendezvous")
    assert "not finished after 30 s (--timeout): rank 1 (b) in rendezvous;" in tables["runs"][0]["error"]
    assert ending.exit_code == 124


OVERDUE = "no progress for 5 s in timed (--step-timeout)"


def test_who_is_stopped_is_to_blame_for_what_the_others_waited_for() -> None:
    waiting, stopped = (rank(n, status=..., exit_code=..., phase="timed", hostname=f"h{n}") for n in (0, 1))
    ending = Ending(
        exit_codes={0: -9, 1: -9}, overdue={0: OVERDUE, 1: OVERDUE}, told=[0, 1], stopped=[1], stacks={0: "in exchange"}
    )
    tables = ended(waiting, stopped, ending=ending)
    assert verdict(tables) == ("timeout", 124, 1, "timed")
    assert tables["runs"][0]["error"].startswith(
        f"{OVERDUE}: rank 1 (h1) is stopped (SIGSTOP, or a debugger) and did not go on, rank 0 (h0) in timed; "
    )
    assert [(row["status"], row["exit_code"]) for row in tables["ranks"]] == [("timeout", 124), ("lost", 124)]
    assert [row.get("stacks") for row in tables["ranks"]] == ["in exchange", None]
    # Where the others notice by themselves, a bound of the framework has passed.
    for status in ("failed", "interrupted"):
        noticed = rank(0, status=status, exit_code=4, phase="timed", error="heartbeat")
        tables = ended(noticed, stopped, ending=Ending(exit_codes={0: 4, 1: -9}, first_failed=0, told=[1], stopped=[1]))
        assert verdict(tables) == ("timeout", 124, 1, "timed")
        assert tables["runs"][0]["error"].startswith("a rank made no progress in time: rank 1 (h1) is stopped")
        assert tables["ranks"][1]["exit_code"] == 124  # by which rank 0's launcher knows of one on another host


def test_who_is_behind_the_others_is_to_blame_that_they_wait() -> None:
    def seen(*phases: str, **fields: Any) -> tuple[Any, ...]:
        ranks = [rank(n, status=..., exit_code=..., phase=phase) for n, phase in enumerate(phases)]
        ranks[1].iters.pop() if fields.pop("fewer", False) else None
        codes = dict.fromkeys(range(len(phases)), -9)
        ending = Ending(exit_codes=codes, overdue=dict.fromkeys(codes, OVERDUE), told=[*codes], **fields)
        return verdict(ended(*ranks, ending=ending))

    assert seen("timed", "timed", fewer=True) == ("timeout", 124, 1, "timed")
    assert seen("warmup", "build") == ("timeout", 124, 1, "build")
    assert seen("timed", "timed") == ("timeout", 124, None, None)
    assert seen("timed", "timed", fewer=True, timed_out=True) == ("timeout", 124, None, None)


def test_of_ranks_that_are_equally_far_none_is_blamed_because_another_missed_it_first() -> None:
    late = rank(0, status=..., exit_code=..., phase="timed")
    missed = [rank(n, status="interrupted", exit_code=4, phase="timed", error="rank 0 has gone") for n in (1, 2, 3)]
    ending = Ending(exit_codes={0: -9}, overdue={0: OVERDUE}, told=[0])
    tables = ended(late, *missed, ending=ending, num_processes=4)
    assert verdict(tables) == ("timeout", 124, None, None)


def test_who_ended_well_just_as_its_time_was_up_is_well() -> None:
    ending = Ending(exit_codes={0: 0, 1: 0}, overdue={1: OVERDUE})
    assert verdict(ended(rank(0), rank(1), ending=Ending(exit_codes={0: 0, 1: 0})))[0] == "ok"
    assert ended(rank(0), rank(1), ending=ending)["ranks"][1]["status"] == "ok"


def test_where_all_blame_another_nobody_is_to_blame() -> None:
    ranks = [rank(n, status="interrupted", exit_code=4, phase="timed", error=f"peer is gone, says {n}") for n in (0, 1)]
    tables = ended(*ranks, ending=Ending(exit_codes={1: 4, 0: 4}, first_failed=1))
    assert verdict(tables) == ("failed", 4, None, None)
    assert "says that another one has; rank 1: peer is gone, says 1" in tables["runs"][0]["error"]


def test_who_watched_a_stopped_rank_elsewhere_says_that_it_missed_its_bound() -> None:
    mine = rank(0, status="interrupted", exit_code=4, phase="timed", hostname="a", error="peer is gone")
    theirs = rank(1, status="lost", exit_code=124, phase="timed", hostname="b", error="is stopped")
    tables = ended(mine, theirs, ending=Ending(exit_codes={0: 4}, first_failed=0))
    assert verdict(tables) == ("timeout", 124, 1, "timed")
    error = tables["runs"][0]["error"]
    assert error.startswith("a rank made no progress in time: rank 1 (b) is stopped, rank 0 (a) in timed; look at")


def test_who_was_told_to_stop_is_not_to_blame_for_what_another_missed() -> None:
    missed = rank(0, status="interrupted", exit_code=4, phase="timed", error="peer is gone")
    told = rank(1, status="interrupted", exit_code=143, phase="timed", error="stopped by SIGTERM")
    ending = Ending(exit_codes={0: 4, 1: 143}, first_failed=0, told=[1])
    assert verdict(ended(missed, told, ending=ending)) == ("failed", 4, None, None)
    by_hand = Ending(exit_codes={0: 4, 1: 143}, first_failed=0)
    assert verdict(ended(missed, told, ending=by_hand)) == ("interrupted", 143, 1, "timed")


def test_one_who_is_stopped_while_nobody_waits_for_it_misses_its_own_bound() -> None:
    stopped = rank(0, status=..., exit_code=..., phase="timed")
    served = rank(1, status="interrupted", exit_code=143, phase="serve", error="stopped by SIGTERM")
    ending = Ending(exit_codes={0: -9, 1: 143}, overdue={0: OVERDUE}, told=[0, 1], stopped=[0])
    tables = ended(stopped, served, ending=ending)
    assert verdict(tables) == ("timeout", 124, 0, "timed")
    assert tables["runs"][0]["error"].startswith(f"{OVERDUE}: rank 0 is stopped")


def test_who_was_overdue_is_not_taken_for_one_who_heard_that_it_was_to_stop() -> None:
    late = rank(1, status="interrupted", exit_code=143, error="stopped by SIGTERM", phase="timed")
    tables = ended(rank(0), late, ending=Ending(exit_codes={0: 0, 1: 143}, overdue={1: OVERDUE}, told=[1]))
    assert verdict(tables) == ("timeout", 124, 1, "timed")
    assert tables["ranks"][1]["error"] == OVERDUE


def test_who_never_came_is_to_blame_for_a_rendezvous_that_failed() -> None:
    error = "rank 1 (b:1) never arrived within 5 s: look"
    waited = rank(0, status="timeout", exit_code=124, phase="rendezvous", error=error)
    tables = ended(waited, ending=Ending(exit_codes={0: 124}, first_failed=0))
    assert verdict(tables) == ("timeout", 124, 1, None)
    assert tables["runs"][0]["error"] == error
    told = Ending(exit_codes={0: 124, 1: -15}, first_failed=0, told=[1])
    assert ended(waited, ending=told)["ranks"][1]["error"] == "never arrived"


def test_a_failure_counts_for_more_than_that_others_waited_for_it() -> None:
    waited = rank(0, status="timeout", exit_code=124, error=OVERDUE)
    bad = rank(1, status="failed", exit_code=4, phase="timed", error="loss is nan")
    assert verdict(ended(waited, bad)) == ("failed", 4, 1, "timed")


def test_who_had_to_be_killed_with_the_others_is_not_said_to_have_run_out_of_memory() -> None:
    bad = rank(1, status="failed", exit_code=4, phase="timed", error="loss is nan")
    deaf = rank(0, status=..., exit_code=..., phase="timed")
    tables = ended(deaf, bad, ending=Ending(exit_codes={1: 4, 0: -9}, first_failed=1, told=[0]))
    assert verdict(tables) == ("failed", 4, 1, "timed")
    assert tables["ranks"][0]["status"] == "interrupted"
    assert tables["ranks"][0]["exit_code"] == 137


@pytest.mark.parametrize("code", [130, 143])
def test_a_rank_that_somebody_ended_gives_the_run_its_code(code: int) -> None:
    ended_by_hand = rank(1, status="interrupted", exit_code=code, phase="timed", error="stopped by a signal")
    assert verdict(ended(rank(0), ended_by_hand, ending=Ending(exit_codes={1: code}, first_failed=1))) == (
        "interrupted",
        code,
        1,
        "timed",
    )


def test_a_job_whose_time_limit_is_near_timed_out() -> None:
    ending = Ending(signum=signal.SIGUSR1)
    tables = ended(rank(0, status="interrupted"), rank(1), ending=ending)
    assert verdict(tables) == ("timeout", 124, None, None)
    assert tables["runs"][0]["error"].startswith("stopped by SIGUSR1, the job's time limit is near: ask the batch")
    assert ending.exit_code == 124


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_blames_no_rank(signum: int, code: int) -> None:
    stopped = rank(0, status="interrupted", exit_code=code, error="stopped")
    assert verdict(ended(stopped, rank(1), ending=Ending(signum=signum))) == ("interrupted", code, None, None)


def test_replicas_that_differ_fail_a_synchronous_run_only() -> None:
    other = rank(1, weight_digests=["abd"])
    tables = ended(rank(0), other)
    assert verdict(tables) == ("failed", 4, 1, "finish")
    assert "not averaged" in tables["runs"][0]["error"]
    assert verdict(ended(rank(0), other, synchronous=False))[0] == "ok"
    assert verdict(ended(rank(0, weight_digests=["abc", "abd"]), rank(1)))[2] == 0


def test_a_crash_after_the_last_word_is_no_success() -> None:
    tables = ended(rank(0), rank(1), ending=Ending(exit_codes={0: 0, 1: -signal.SIGSEGV}, first_failed=1))
    assert verdict(tables) == ("failed", 4, 1, "finish")
    assert "SIGSEGV" in tables["runs"][0]["error"]


def test_times_are_put_on_rank_zeros_clock() -> None:
    tables = ended(rank(0), rank(1, clock_offset_ns=3 * SECOND))
    assert [row["t_start_ns"] for row in tables["iters"]] == [0, 10 * SECOND, -3 * SECOND, 7 * SECOND]


def test_gpu_memory_is_the_peak_while_timing() -> None:
    shard = rank(0)
    for second, used in ((5, 900), (10, 100), (11, 300), (13, 800)):
        shard.telemetry.append({"t_ns": second * SECOND, "gpu_mem_used_bytes": used})
    shard.telemetry.append({"t_ns": 11 * SECOND, "rss_bytes": 1})
    tables = ended(shard, rank(1))
    assert [row["gpu_peak_mem_used_bytes"] for row in tables["ranks"]] == [300, None]
