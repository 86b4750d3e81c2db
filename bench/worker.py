"""The process that trains: it sets itself up, performs its rank's part, and writes how that ended, whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from bench import output
from bench.bounds import Bounds
from bench.clock import Clock
from bench.config import RunConfig
from bench.errors import BenchError, gist
from bench.lifecycle import RUN_ID
from bench.plan import Plan, in_roles, make_strategy, resolve, resources_of
from bench.rank import Rank
from bench.ranklog import RankLog
from bench.stopping import Stopped, stoppable
from bench.telemetry import Gpus
from jobs import watchdog
from jobs.cluster import LAUNCHER_PID, SAMPLED_GPUS, SCRATCH, STARTED_NS, ClusterEnv, ClusterError
from jobs.cores import physical_cores
from jobs.launch import die_with_launcher
from jobs.rendezvous import PeerGone, PeerLate
from results.exit_codes import ExitCode
from results.store import Store

_SEARCH_S = 8.0
"""How long the image that made a run fail is looked for [s]: about as long as the other ranks wait for us."""


def run(config: RunConfig, cluster: ClusterEnv, env: Mapping[str, str]) -> NoReturn:
    """Trains as one rank, writes its shard and ends the process, with its exit code. A supervisor started it."""
    die_with_launcher(int(env[LAUNCHER_PID]))
    # TensorFlow writes the code that it makes of a step, and would remove it where this process ends without it.
    tempfile.tempdir = env[SCRATCH]
    scratch = Path(env[SCRATCH])
    watchdog.answer(scratch, cluster.rank)
    clock = Clock()
    gpus = Gpus(env)
    cpus = sorted(os.sched_getaffinity(0))
    resources = resources_of(config.machine, num_gpus=len(gpus.handles), why_no_gpu=gpus.unavailable)
    strategy = make_strategy(config, in_roles(config, cluster), resources)
    cores_per_device = len(physical_cores(cpus)) / max(1, strategy.local_replicas)
    plan = resolve(config, strategy, cores_per_device=cores_per_device, num_cpus=len(cpus))
    store = Store(config.output.results_dir)
    bounds = Bounds(plan, watchdog.Deadline(scratch, cluster.rank))
    log = RankLog(clock, int(env[STARTED_NS]), on_enter=bounds.enter)
    log.note(
        rank=cluster.rank,
        role=strategy.cluster.task.role,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        cores=cpus,
        num_devices=plan.strategy.local_replicas,
        intra_op_threads=strategy.resources.intra_op_threads,
        inter_op_threads=strategy.resources.inter_op_threads,
    )
    run_id = env.get(RUN_ID)
    if run_id is not None:
        log.open(store, run_id, cluster.rank)
    sampled = Gpus({"CUDA_VISIBLE_DEVICES": env[SAMPLED_GPUS]}) if env.get(SAMPLED_GPUS) else None
    rank = Rank(plan, store=store, run_id=run_id, log=log, bounds=bounds, clock=clock, gpus=gpus, sampled=sampled)
    # Whoever gave us the run's id reads our shard and speaks for us; others only see our standard error.
    code = _perform(rank, plan, log, speaks_for_itself=run_id is None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # TensorFlow would take itself apart for seconds, and everything is written


def _perform(rank: Rank, plan: Plan, log: RankLog, *, speaks_for_itself: bool) -> int:
    """Trains, writes down how it ended, and returns the exit code."""
    status, code, error = "ok", 0, None
    try:
        with stoppable() as listen:
            rank.train(listen)
    except PeerLate as problem:
        status, code = "timeout", problem.exit_code
        error = f"{problem}; --rendezvous-timeout waits longer"
    except PeerGone as problem:
        status, code, error = "interrupted", problem.exit_code, str(problem)
    except (BenchError, ClusterError) as problem:
        status, code, error = "failed", int(problem.exit_code), str(problem)
    except Stopped as stop:
        status, code, error = "interrupted", 128 + stop.signum, f"stopped by {signal.Signals(stop.signum).name}"
    except OSError as problem:
        # What this process needs of others is told by errors of theirs: this is a file, and most likely the shard.
        status, code = "failed", int(ExitCode.ENVIRONMENT)
        error = f"{problem.filename or plan.config.output.results_dir}: {gist(problem.strerror or str(problem))}"
    except Exception as problem:
        if plan.config.output.debug:
            traceback.print_exc()
        error, code = f"{type(problem).__name__}: {gist(str(problem))}", int(ExitCode.WORKLOAD)
        said = f"{type(problem).__name__}: {problem}"
        missed = any(words in said for words in plan.strategy.peer_errors)
        full = type(problem).__name__ in ("ResourceExhaustedError", "MemoryError")
        status = "oom" if full else "interrupted" if missed else "failed"
        if rank.has_read:
            # To look for a bad file takes seconds, in which whoever waits for this rank may have it ended.
            log.note(status=status, error=error, exit_code=code)
            if fault := rank.fault(problem, time.monotonic() + _SEARCH_S):
                status, error = "failed", fault
    spoken = log.end(status=status, error=error, exit_code=code)
    if error and (speaks_for_itself or not spoken):
        output.complain(f"in {log.phase}: {error}")
    if not error:
        rank.part()
    return code
