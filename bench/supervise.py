"""The process that a user or a scheduler starts: it plans, starts the workers that train, watches them from outside,
and records how the run ended.

The watching is done from another process because TensorFlow's rendezvous, when a peer never comes, holds Python's
global lock for ever: no thread, signal handler or exception inside that process can end it.
"""

from __future__ import annotations

import re
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path

from bench import frameworks, output
from bench.bounds import load_s
from bench.errors import EnvironmentFault, naming_failed_imports
from bench.launch_plan import LaunchPlan, workers
from bench.lifecycle import describe_run, finish
from bench.telemetry import Gpus
from jobs.cluster import SCRATCH, ClusterEnv
from jobs.launch import Outcome, launch, signals_heard
from jobs.watchdog import Watchdog
from results.record import RUN_SHARD, Ending, rank_shard
from results.store import Shard, ShardContent, Store, new_run_id

_FRAMEWORK_CHATTER = re.compile(rb"[IWE]\d{4} |WARNING: All log messages before|\d{4}-\d\d-\d\d [\d:.]+: [IWE] ")
"""Lines that TensorFlow logs in every run, in good and in bad ones."""

_NO_MEMORY = re.compile(rb"Allocator \(\w+\) ran out of memory trying to allocate [\d.]+\w*(?!.*not a failure)")
"""TensorFlow's warning, where warnings are asked for (TF_CPP_MIN_LOG_LEVEL). Some operations on the CPU then crash and
raise no error, so these are the last words that count."""

_SHARD_PATIENCE_S = 5.0
"""How long rank 0 waits for the last words of ranks elsewhere to appear in a shared results directory. With the other
waits that follow a bound that passed, all has ended 15 s after it."""

_RECORDED_S = 8.0
"""How long the others wait for rank 0 to have recorded the run."""

_NAMED = 8
"""Processes that a message names."""


def supervise(
    launch_plan: LaunchPlan,
    argv: Sequence[str],
    env: Mapping[str, str],
    gpus: Gpus,
    *,
    in_fork: Callable[[], int] | None,
) -> int:
    """Runs the workers to their end and, where rank 0 is among them, records the run; returns the exit code.

    A worker runs the command `argv` in a new Python, or calls `in_fork` in a fork of this process.
    """
    # To the end: what was opened is then closed in order, and the recording is short and must not be cut off by an
    # impatient second Ctrl-C.
    with signals_heard() as signals:
        return _supervise(launch_plan, argv, env, gpus, signals, in_fork=in_fork)


def _supervise(
    launch_plan: LaunchPlan,
    argv: Sequence[str],
    env: Mapping[str, str],
    gpus: Gpus,
    signals: int,
    *,
    in_fork: Callable[[], int] | None,
) -> int:
    frameworks.require_tensorflow_backend(env)
    plan = launch_plan.plan
    store = Store(plan.config.output.results_dir)
    store.prepare()
    started_at = datetime.now(timezone.utc)
    run_id = new_run_id(started_at)
    ranks = [member.rank for member in launch_plan.members]
    held: list[Shard] = []
    if launch_plan.answers_for_run:
        # The workers' too: what they write can then be read even if somebody removes the directory meanwhile.
        held = [store.open_shard(run_id, name) for name in (RUN_SHARD, *(rank_shard(rank) for rank in ranks))]
        shard = held[0]
        shard.update_run(**plan.run_fields(), started_at=started_at.timestamp())
        output.print_header(plan)
    last_words: dict[int, str] = {}
    out_of_memory: dict[int, str] = {}

    def on_stderr(rank: int, line: bytes) -> None:
        text = line.decode(errors="replace")
        chatter = _FRAMEWORK_CHATTER.match(line)
        if not chatter:
            last_words[rank] = text
        if said := _NO_MEMORY.search(line):
            out_of_memory[rank] = said[0].decode()
        if plan.config.output.debug or not chatter:
            output.relay(rank, text)

    def while_they_start() -> None:
        # The workers measure nothing yet: the time to look around on this machine and to load what the end needs.
        if held:
            describe_run(held[0], store, plan, env, gpus)
            with naming_failed_imports():
                for module in ("pandas", "pyarrow.parquet"):
                    import_module(module)

    machine = plan.config.machine
    with tempfile.TemporaryDirectory(prefix="trainscale-", ignore_cleanup_errors=True) as scratch:
        try:
            outcome = launch(
                workers(launch_plan, argv, {**env, SCRATCH: scratch}, run_id, in_fork=in_fork),
                timeout_s=machine.timeout,
                watchdog=Watchdog(Path(scratch), ranks, load_s(machine)),
                signals=signals,
                on_stderr=on_stderr,
                on_started=while_they_start,
            )
        except EnvironmentFault:  # from `while_they_start`: nothing was measured
            store.discard(run_id)
            raise
    ending = _ending(outcome, machine.timeout, last_words | out_of_memory)
    if not held:
        _speak_for(launch_plan.members[0], ending)
        if ending.exit_code:
            _let_rank_zero_record(store, launch_plan.members[0].rank, outcome, ending)
        return ending.exit_code
    shards = _all_shards(store, run_id, launch_plan, held)
    for shard in held:
        with suppress(OSError):  # a disk that takes no more shows in what follows
            shard.close()
    return finish(store, run_id, shards, ending, as_json=plan.config.output.json)


def _speak_for(member: ClusterEnv, ending: Ending) -> None:
    """Says why a worker ended that could not say so itself. Only whoever started rank 0 writes the record."""
    rank = member.rank
    seen = ending.of(rank, {})
    if rank in ending.overdue:
        known = [task.address for other, task in enumerate(member.tasks) if other != rank and task.address]
        others = ", ".join(known[:_NAMED]) or next(iter(member.meeting_points), None) or "asked by MPI"
        output.complain(
            f"rank {rank}{_at(member)}: {seen['error']}. Look whether the others run and can be reached ({others}), or "
            "raise the bound"
        )
    elif seen.get("status") == "lost" and ending.exit_codes[rank] < 0:
        output.complain(f"rank {rank}{_at(member)} {seen['error']}")


def _let_rank_zero_record(store: Store, rank: int, outcome: Outcome, ending: Ending) -> None:
    """Adds what was seen of the worker, and returns when the run is recorded, or in time.

    What srun --kill-on-bad-exit and mpirun do when a task fails would cost the record: they kill the others at once.
    """
    ours = {"pid": outcome.pids.get(rank), "hostname": socket.gethostname()}
    if not (run_id := store.open_run(rank_shard(rank), **ours)):
        return
    if ending.signum is None and (shard := store.find_shard(run_id, rank_shard(rank))):
        shard.update_rank(**ending.of(rank, shard.content().rank))
        shard.close()
    deadline = time.monotonic() + _RECORDED_S
    while store.is_open(run_id) and time.monotonic() < deadline:
        time.sleep(0.1)


def _at(member: ClusterEnv) -> str:
    return f" ({member.task.address})" if member.task.address else ""


_FLAGS = {
    **dict.fromkeys(("start", "import", "rendezvous", "leave"), " (--rendezvous-timeout)"),
    **dict.fromkeys(("build", "trace", "warmup", "timed", "evaluation", "finish"), " (--step-timeout)"),
}
"""Phase -> what sets its bound."""


def _ending(outcome: Outcome, timeout_s: float, last_words: Mapping[int, str]) -> Ending:
    first = outcome.first_failure
    overdue = {
        rank: f"no progress for {due.bound_s:g} s in {due.phase}{_FLAGS.get(due.phase, '')}"
        for rank, due in outcome.overdue.items()
    }
    if outcome.timed_out:
        overdue = dict.fromkeys(outcome.told, f"not finished after {timeout_s:g} s (--timeout)")
    return Ending(
        exit_codes=outcome.exit_codes,
        first_failed=first[0] if first else None,
        signum=outcome.signum,
        last_words=last_words,
        overdue=overdue,
        timed_out=outcome.timed_out,
        told=list(outcome.told),
        stopped=[rank for rank, found in outcome.told.items() if found.stopped],
        stacks={rank: found.stacks for rank, found in outcome.told.items() if found.stacks},
    )


def _all_shards(store: Store, run_id: str, launch_plan: LaunchPlan, held: Sequence[Shard]) -> list[ShardContent]:
    """Every rank's shard, once those elsewhere have written their last word, or in time."""
    deadline = time.monotonic() + _SHARD_PATIENCE_S
    ours = {member.rank for member in launch_plan.members}
    while True:
        shards = [*{shard.name: shard for shard in (*store.read_shards(run_id), *(s.content() for s in held))}.values()]
        here = [shard for shard in shards if shard.rank.get("rank") in ours]
        ended = sum("status" in shard.rank for shard in shards) - sum("status" in shard.rank for shard in here)
        # Ranks elsewhere learn the run's id at the rendezvous: if ours did not get through it, they will never write.
        met = any(shard.rank.get("clock_offset_ns") is not None for shard in here)
        elsewhere = launch_plan.plan.strategy.cluster.size - len(launch_plan.members)
        if ended >= elsewhere or not met or time.monotonic() > deadline:
            return shards
        time.sleep(0.1)
