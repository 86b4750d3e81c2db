"""From what the processes left behind to the rows of a run: pure, so every ending can be tested."""

from __future__ import annotations

import json
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from results import knobs
from results.exit_codes import ExitCode
from results.schema import comparability_key
from results.store import ShardContent, StoreError, join

Tables = dict[str, list[dict[str, Any]]]

_MOST_RANKS = 1 << 20
"""More than any job has: a shard that says so is damaged."""

RUN_SHARD = "run"
"""Name of the shard that belongs to no rank: what the launcher knows."""

_NAMED = 8
"""Ranks that an error names."""

_PHASES = ("start", "import", "rendezvous", "build", "trace", "warmup", "timed", "finish", "leave")
"""In which a rank is behind others. Who serves has nothing to do in most of them."""

_TELLING = (ExitCode.USAGE, ExitCode.ENVIRONMENT, ExitCode.TIMEOUT, ExitCode.SIGHUP, ExitCode.SIGINT, ExitCode.SIGTERM)
"""Exit codes of a rank that are the run's as well."""


def rank_shard(rank: int) -> str:
    """Name of a rank's shard."""
    return f"rank-{rank:05d}"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the processes ended, as far as the one who watched can tell."""

    exit_codes: Mapping[int, int] = field(default_factory=dict)
    """Rank -> exit code, negative for a signal; without a watcher empty."""
    first_failed: int | None = None
    """The rank that failed before any was told to stop."""
    signum: int | None = None
    """The signal that asked the whole run to stop."""
    last_words: Mapping[int, str] = field(default_factory=dict)
    """Rank -> the end of what it wrote to standard error."""
    overdue: Mapping[int, str] = field(default_factory=dict)
    """Rank -> what it did not do in time."""
    timed_out: bool = False
    """The bound on the whole run passed: nobody need be stuck."""
    told: Collection[int] = ()
    """The ranks that still ran when all were told to stop."""
    stopped: Collection[int] = ()
    """Those of them that did nothing until somebody would let them go on: SIGSTOP, or a debugger."""
    stacks: Mapping[int, str] = field(default_factory=dict)
    """Rank -> what its threads were doing then."""
    unwatched: str = "left no word: killed, or its results directory is not the one that rank 0 reads"
    """Why nobody knows how a rank ended that nobody here watched and that did not say it itself."""

    def of(self, rank: int, said: Mapping[str, Any]) -> dict[str, Any]:
        """What the watcher of a rank has to add to what it `said` itself: fields of `ranks`."""
        code = self.exit_codes.get(rank)
        if code is None:
            return {}
        seen: dict[str, Any] = {"exit_code": code if code >= 0 else 128 - code}
        if rank in self.stacks:
            seen["stacks"] = self.stacks[rank]
        if code == 0 and said.get("status") == "ok":
            return seen  # it ended just as its time was up
        if rank in self.overdue or rank in self.stopped:
            seen["exit_code"] = int(ExitCode.TIMEOUT)
        if rank in self.stopped:
            return seen | {"status": "lost", "error": "is stopped (SIGSTOP, or a debugger) and did not go on"}
        if rank in self.overdue:
            return seen | {"status": "timeout", "error": self.overdue[rank]}
        if "status" in said:
            return seen
        if rank not in self.told:
            return seen | {"status": "lost", "error": _how_lost(code, self.last_words.get(rank))}
        if "phase" not in said:
            return seen | {"status": "lost", "error": "never arrived"}
        return seen | {"status": "interrupted", "error": "had to end because another did, and did not hear it"}

    @property
    def exit_code(self) -> int:
        """What these processes alone would make of the run."""
        if self.overdue or self.signum == signal.SIGUSR1:
            return ExitCode.TIMEOUT
        if self.signum is not None:
            return 128 + self.signum
        failed = self.exit_codes.get(self.first_failed, 0) if self.first_failed is not None else 0
        return failed if failed >= 0 else int(ExitCode.WORKLOAD)


def conclude(run_id: str, shards: Sequence[ShardContent], ending: Ending, ended_at: datetime) -> Tables:
    """The tables of a run, whatever became of it: RUN_TABLES, and `evals` where there are any. `shards` as
    `results.store.Store.read_shards` gives them; raises StoreError where they are too damaged."""
    try:
        return _tables(run_id, shards, ending, ended_at)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise StoreError(f"the shards of run {run_id} are damaged ({error!r}) and kept: look at the disk") from error


def _tables(run_id: str, shards: Sequence[ShardContent], ending: Ending, ended_at: datetime) -> Tables:
    run: dict[str, Any] = {"null_reasons": {}, "provenance": {}}
    # What the ranks found out counts for more than what was planned.
    for shard in sorted(shards, key=lambda shard: shard.name != RUN_SHARD):
        join(run, shard.run)
    by_rank = {shard.rank["rank"]: shard for shard in shards if "rank" in shard.rank}
    size = int(run.get("num_processes", len(by_rank)))
    if size > _MOST_RANKS:
        raise ValueError(f"{size} ranks")
    ranks = [_rank_row(run_id, rank, by_rank[rank].rank if rank in by_rank else {}, ending) for rank in range(size)]
    iters, telemetry = _rows(run_id, by_rank, "iters"), _rows(run_id, by_rank, "telemetry")
    for row in ranks:
        row["gpu_peak_mem_used_bytes"] = _gpu_peak(row, iters, telemetry)
    found_dead = [rank for rank, shard in by_rank.items() if shard.rank.get("status") == "lost"]
    run.update(
        run_id=run_id,
        ended_at=ended_at,
        started_at=datetime.fromtimestamp(run["started_at"], timezone.utc),
        config=json.dumps(run["config"], sort_keys=True),
        device_name=_device_name(run),
        **_verdict(
            run,
            ranks,
            ending,
            killed={*found_dead, *ending.stopped},
            done={rank: len(shard.iters) for rank, shard in by_rank.items()},
        ),
    )
    # A reason is said when a run begins, for what it may not live to tell.
    run["null_reasons"] = {name: why for name, why in run["null_reasons"].items() if _field(run, name) is None}
    run.update(knobs.columns(run))
    run["comparability_key"] = comparability_key(run)
    evals = [{"run_id": run_id, **row} for rank in by_rank for row in by_rank[rank].evals]
    return {
        "runs": [run],
        "ranks": ranks,
        "iters": iters,
        "telemetry": telemetry,
        **({"evals": evals} if evals else {}),
    }


def _field(run: Mapping[str, Any], name: str) -> Any:
    """A column of a run, or a field of its provenance as `null_reasons` names it."""
    struct, _, field_name = name.rpartition(".")
    return (run[struct] if struct else run).get(field_name)


def could_not_start(tables: Tables) -> bool:
    """The user's words or the machine did not let the run begin: there is nothing to keep of it."""
    return tables["runs"][0]["exit_code"] in (ExitCode.USAGE, ExitCode.ENVIRONMENT) and not tables["iters"]


def _rank_row(run_id: str, rank: int, said: Mapping[str, Any], ending: Ending) -> dict[str, Any]:
    unheard = {"status": "lost", "error": ending.unwatched}
    row = {**said, **ending.of(rank, said)}
    return {"run_id": run_id, "rank": rank, **({} if "status" in row else unheard), **row}


def _how_lost(code: int, last_words: str | None) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        how += " (the kernel does so when memory runs out)"
    return f"{how}; its last line: {last_words}" if last_words else how


def _rows(run_id: str, by_rank: Mapping[int, ShardContent], table: str) -> list[dict[str, Any]]:
    """All ranks' rows of a table, with their times on rank 0's clock. A row may name another rank than its writer."""
    time_column = {"iters": "t_start_ns", "telemetry": "t_ns"}[table]
    offsets = {rank: shard.rank.get("clock_offset_ns", 0) for rank, shard in by_rank.items()}
    rows = [
        {"run_id": run_id, "rank": rank, **row}
        for rank, shard in sorted(by_rank.items())
        for row in getattr(shard, table)
    ]
    return [row | {time_column: row[time_column] - offsets.get(row["rank"], 0)} for row in rows]


def _gpu_peak(rank_row: Mapping[str, Any], iters: list[dict[str, Any]], telemetry: list[dict[str, Any]]) -> int | None:
    rank = rank_row["rank"]
    timed = [row for row in iters if row["rank"] == rank and not row["warmup"]]
    if not timed:
        return None
    start = timed[0]["t_start_ns"]
    end = timed[-1]["t_start_ns"] + round(timed[-1]["duration_s"] * 1e9)
    used = (row.get("gpu_mem_used_bytes") for row in telemetry if row["rank"] == rank and start <= row["t_ns"] <= end)
    return max((value for value in used if value is not None), default=None)


def _device_name(run: Mapping[str, Any]) -> str | None:
    provenance = run["provenance"]
    if run["device_kind"] == "gpu":
        names = sorted({gpu["name"] for gpu in provenance.get("gpus", []) if gpu["name"]})
        return ", ".join(names) or None
    name: str | None = provenance.get("cpu_model")
    return name


def _verdict(
    run: Mapping[str, Any],
    ranks: list[dict[str, Any]],
    ending: Ending,
    *,
    killed: Collection[int],
    done: Mapping[int, int],
) -> dict[str, Any]:
    """status, exit_code, error, failed_rank and failed_phase of the run. `killed`: ranks of which a watcher says so;
    `done`: rank -> iterations."""
    if ending.signum == signal.SIGUSR1:
        error = "stopped by SIGUSR1, the job's time limit is near: ask the batch system for more time, or measure less"
        return _outcome("timeout", ExitCode.TIMEOUT, error)
    if ending.signum is not None:
        name = signal.Signals(ending.signum).name
        return _outcome("interrupted", 128 + ending.signum, f"stopped by {name}")
    failed = [row for row in ranks if row["status"] != "ok"]
    late = ending.overdue or any(row.get("exit_code") == ExitCode.TIMEOUT for row in failed)
    if failed and late and not {row["status"] for row in failed} & {"failed", "oom"}:
        return _late(failed, ending, done)
    if failed:
        told = {*ending.told} - {*killed}

        def blame(row: Mapping[str, Any]) -> tuple[bool, bool, bool, bool]:
            # Who missed another or waited for it is not to blame as long as anybody else is, nor who was told to stop.
            # Who watched a rank knows that it was killed or stopped: what the others met came of that.
            stopped = row["status"] == "interrupted"
            waited = _missed_another(row) or row["status"] == "timeout" or (stopped and row["rank"] in told)
            return waited, stopped, row["rank"] not in killed, row["rank"] != ending.first_failed

        bad = min(failed, key=blame)
        if bad.get("exit_code") == ExitCode.TIMEOUT:  # stopped; the framework's bound passed before ours
            return _late(failed, ending, done)
        missed = sorted(filter(_missed_another, failed), key=lambda row: row["rank"] != ending.first_failed)
        if blame(bad)[0] and missed:
            bad = missed[0]
            error = f"every rank that failed says that another one has; rank {bad['rank']}: {bad['error']}"
            return _outcome("failed", ExitCode.WORKLOAD, error)
        code = bad.get("exit_code") or ExitCode.WORKLOAD
        return _outcome(bad["status"], code if code in _TELLING else ExitCode.WORKLOAD, bad["error"], bad)
    if late_code := next(((rank, code) for rank, code in ending.exit_codes.items() if code), None):
        rank, code = late_code
        error = f"finished its training and then {_how_lost(code, ending.last_words.get(rank))}"
        return _outcome("failed", ExitCode.WORKLOAD, error, ranks[rank])
    if run["synchronous"]:
        wanted = ranks[0]["weight_digests"][0]
        for row in ranks:
            if any(digest != wanted for digest in row["weight_digests"]):
                error = "its replicas end with other weights than rank 0's first: the gradients were not averaged"
                return _outcome("failed", ExitCode.WORKLOAD, error, row)
    return _outcome("ok", ExitCode.OK, None)


def _missed_another(row: Mapping[str, Any]) -> bool:
    return row["status"] == "interrupted" and row.get("exit_code") == ExitCode.WORKLOAD


def _late(failed: Sequence[Mapping[str, Any]], ending: Ending, done: Mapping[int, int]) -> dict[str, Any]:
    """The outcome when a bound has passed: who is gone, stopped or never came is to blame before who waited, and of
    those one that is behind all others."""

    def progress(row: Mapping[str, Any]) -> tuple[int, int]:
        phase = _PHASES.index(row["phase"]) if row.get("phase") in _PHASES else len(_PHASES)
        return phase, 0 if ending.timed_out else done.get(row["rank"], 0)

    lost = [row for row in failed if row["status"] == "lost"]
    late = sorted((row for row in failed if row["status"] != "lost"), key=progress)
    bad = lost[0] if lost else late[0] if len(late) == 1 or progress(late[0]) < progress(late[1]) else None
    passed = [*(row["error"] for row in failed if row["status"] == "timeout"), *ending.overdue.values()]
    error, ranks = next(iter(passed), "a rank made no progress in time"), lost + late
    if not (bad and f"rank {bad['rank']} " in error):
        named = ", ".join(map(_where, ranks[:_NAMED])) + (f" and {len(ranks) - _NAMED} more" if ranks[_NAMED:] else "")
        error = f"{error}: {named}; look at what they waited for (ranks.stacks), or raise the bound"
    return _outcome("timeout", ExitCode.TIMEOUT, error, bad)


def _where(row: Mapping[str, Any]) -> str:
    host = f" ({row['hostname']})" if row.get("hostname") else ""
    if "phase" not in row:
        return f"rank {row['rank']}{host} never arrived"
    return f"rank {row['rank']}{host} {row['error'] if row['status'] == 'lost' else 'in ' + row['phase']}"


def _outcome(status: str, code: int, error: str | None, rank_row: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "status": status,
        "exit_code": int(code),
        "error": error,
        "failed_rank": rank_row["rank"] if rank_row else None,
        "failed_phase": rank_row.get("phase") if rank_row else None,
    }
