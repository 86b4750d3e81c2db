"""The process that trains: meet the others, build, measure, and write every step of the way to this rank's shard."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import datetime, timezone
from types import FrameType
from typing import Any

import psutil

from bench import frameworks, output, provenance
from bench.clock import Clock
from bench.config import RunConfig
from bench.errors import BenchError, ExitCode
from bench.lifecycle import RUN_ID, describe_run, finish, new_run_id
from bench.measure import measure
from bench.plan import Plan, make_strategy, resolve, resources_of
from bench.ranklog import RankLog
from bench.record import Ending
from bench.telemetry import Gpus, ProcessSampler, Sampler
from bench.watchdog import Watchdog
from bench.workloads import workload
from bench.workloads.arithmetic import forward_flops
from jobs.cluster import LOCAL_LAUNCHER, ClusterEnv
from jobs.launch import die_with_launcher, share_cores
from results.store import ShardContent, Store

_SHARD_PATIENCE_S = 15.0
"""How long rank 0 waits for the other ranks' last words to appear in a shared results directory."""


class _Stopped(BaseException):
    """SIGTERM or SIGINT: not an Exception, so that nothing between here and `run` swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def run(config: RunConfig, cluster: ClusterEnv, env: Mapping[str, str]) -> int:
    """Trains and records as one rank; returns the process's exit code.

    Raises BenchError for what is wrong before anything was started. Where no launcher of ours watches, rank 0 also
    joins all ranks' shards and prints the summary.
    """
    launched = LOCAL_LAUNCHER in env
    if launched:
        die_with_launcher(int(env[LOCAL_LAUNCHER]))
    clock = Clock()
    gpus = Gpus(env)
    cores = _pin(config, cluster, launched=launched, num_gpus=len(gpus.handles))
    resources = resources_of(
        config.machine, num_gpus=len(gpus.handles), num_cores=len(cores), why_no_gpu=gpus.unavailable
    )
    plan = resolve(config, make_strategy(config, cluster, resources), len(cores))
    store = Store(config.output.results_dir)
    store.prepare()

    started_at = datetime.now(timezone.utc)
    run_id = env.get(RUN_ID) or new_run_id(started_at)
    log = RankLog(clock, psutil.Process().create_time())
    log.note(
        rank=cluster.rank,
        role=cluster.task.role,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        cores=list(cores),
        num_devices=plan.strategy.local_replicas,
        intra_op_threads=resources.intra_op_threads,
        inter_op_threads=resources.inter_op_threads,
    )
    # Rank 0's proposal is the run's id; a local launcher told everybody. The others learn it at the rendezvous.
    if launched or cluster.rank == 0:
        log.open(store, run_id, cluster.rank)
    if not launched and cluster.rank == 0:
        describe_run(log.shard, plan, started_at, env, gpus)
    member = _Member(plan, store=store, run_id=run_id, log=log, clock=clock, gpus=gpus)
    return member.guarded_run(launched=launched)


def _pin(config: RunConfig, cluster: ClusterEnv, *, launched: bool, num_gpus: int) -> tuple[int, ...]:
    """The cores of this process. Our launcher has pinned it already; elsewhere --cores-per-device does."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    each = config.machine.cores_per_device
    if launched or each is None:
        return cores
    devices = config.machine.devices_per_worker or max(1, num_gpus)
    mine = share_cores(cores, cluster.local_size, each * devices)[cluster.local_rank]
    os.sched_setaffinity(0, mine)
    return mine


class _Member:
    """One rank of one run."""

    def __init__(self, plan: Plan, *, store: Store, run_id: str, log: RankLog, clock: Clock, gpus: Gpus) -> None:
        self._plan = plan
        self._store = store
        self._run_id = run_id
        self._log = log
        self._clock = clock
        self._gpus = gpus
        self._cluster = plan.strategy.cluster
        self._ending = threading.Lock()

    def guarded_run(self, *, launched: bool) -> int:
        """Trains, and writes down how it ended whatever happens."""
        timeout_s = self._plan.config.machine.timeout
        # A launcher of ours keeps the time from outside; elsewhere a thread has to.
        watchdog = None if launched else Watchdog(timeout_s, self._time_is_up)
        if watchdog:
            watchdog.start()
        try:
            self._train()
            status, code, error, ending = "ok", 0, None, Ending()
        except BenchError as problem:
            status, code, error, ending = "failed", problem.exit_code, str(problem), Ending()
        except _Stopped as stop:
            name = signal.Signals(stop.signum).name
            status, code, error = "interrupted", 128 + stop.signum, f"stopped by {name}"
            ending = Ending(signum=stop.signum)
        except Exception as problem:
            if self._plan.config.output.debug:
                traceback.print_exc()
            status = "oom" if type(problem).__name__ in ("ResourceExhaustedError", "MemoryError") else "failed"
            text = str(problem).strip().splitlines()
            code, error, ending = ExitCode.WORKLOAD, f"{type(problem).__name__}: {text[0] if text else ''}", Ending()
        if watchdog:
            watchdog.cancel()
        return self._end(status, int(code), error, ending, conclude_run=not launched)

    def _time_is_up(self) -> int:
        limit = self._plan.config.machine.timeout
        error = f"not finished after {limit:g} s: raise --timeout, or look at what it waits for"
        return self._end("timeout", ExitCode.TIMEOUT, error, Ending(timeout_s=limit), conclude_run=True)

    def _end(self, status: str, code: int, error: str | None, ending: Ending, *, conclude_run: bool) -> int:
        """Notes the end once, and joins the shards where that is this rank's task. Returns the exit code."""
        with self._ending:
            self._log.note(status=status, error=error, exit_code=int(code))
            self._log.close()
            if not conclude_run:
                return code
            if self._cluster.rank != 0:
                if error:
                    output.complain(f"rank {self._cluster.rank} in {self._log.phase}: {error}")
                return code
            shards = self._all_shards()
            return finish(self._store, self._run_id, shards, ending, as_json=self._plan.config.output.json)

    def _all_shards(self) -> list[ShardContent]:
        deadline = time.monotonic() + _SHARD_PATIENCE_S
        while True:
            shards = self._store.read_shards(self._run_id)
            if sum("status" in shard.rank for shard in shards) == self._cluster.size or time.monotonic() > deadline:
                return shards
            time.sleep(0.1)

    def _train(self) -> None:
        plan, log, strategy = self._plan, self._log, self._plan.strategy
        _stop_on_signals()
        log.enter("import")
        forked = frameworks.preloaded()
        frameworks.load()
        log.enter("rendezvous")
        if forked:
            log.forget_start()
        strategy.connect()
        _stop_on_signals()  # MultiWorkerMirroredStrategy replaces the handler by one that ignores SIGTERM
        self._meet()
        sampler = self._start_sampler()
        try:
            log.enter("build")
            settings = plan.config.workload
            job = workload(
                model=settings.model,
                dataset=settings.dataset,
                data_dir=settings.data_dir,
                seed=settings.seed,
                batch_per_device=plan.batch_per_device,
                global_batch=plan.global_batch,
                steps=plan.schedule.num_batches,
            )
            trainer = strategy.trainer(job)
            if self._cluster.rank == 0:
                self._describe_model(trainer.model)
                output.print_header(plan)
            log.note(devices=trainer.devices())
            log.enter("trace")
            traces = 0

            def warm() -> None:
                nonlocal traces
                traces = trainer.traces()
                trainer.reset_peak_memory()
                strategy.exchange(b"")  # all ranks begin together
                log.timing_begins()

            first_timed = len(list(plan.schedule.calls())) - plan.schedule.num_iters

            def keep(row: dict[str, Any]) -> None:
                log.shard.add_iter(row)
                if self._cluster.rank == 0 and not row["warmup"]:
                    output.print_iter(plan, row, row["iter"] - first_timed)

            measure(
                trainer,
                plan.schedule,
                self._clock,
                on_traced=lambda: log.enter("warmup"),
                on_warm=warm,
                on_iter=keep,
            )
            log.enter("finish")
            log.note(
                retraces=trainer.traces() - traces,
                framework_peak_mem_bytes=trainer.peak_memory_bytes(),
                weight_digests=trainer.digest(),
            )
            if self._cluster.rank == 0:
                self._describe_exchange(trainer.all_reduce())
        finally:
            problem = sampler.stop() if sampler else None
            log.note(peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            if problem:
                log.shard.update_run(null_reasons={"telemetry": problem})
        strategy.exchange(b"")  # nobody leaves while another still needs it

    def _meet(self) -> None:
        """Agrees on the run's id with all ranks, and how far this host's clock is from rank 0's."""
        me = {"run_id": self._run_id, "hostname": socket.gethostname()}
        ranks = [json.loads(text) for text in self._plan.strategy.exchange(json.dumps(me).encode())]
        # All leave that exchange at the same moment, so what their clocks say now differs by their offsets.
        clocks = [int(text) for text in self._plan.strategy.exchange(str(self._clock.now_ns()).encode())]
        self._run_id = ranks[0]["run_id"]
        self._log.open(self._store, self._run_id, self._cluster.rank)
        same_host = me["hostname"] == ranks[0]["hostname"]
        rank = self._cluster.rank if len(clocks) > 1 else 0
        self._log.note(clock_offset_ns=0 if same_host else clocks[rank] - clocks[0])

    def _start_sampler(self) -> Sampler | None:
        period_s = self._plan.config.measure.telemetry_period
        if not period_s:
            return None
        of_node = self._cluster.local_rank == 0
        sampler = Sampler(
            period_s=period_s,
            clock=self._clock,
            process=ProcessSampler(node_counters=of_node),
            gpus=self._gpus if of_node else None,
            write=self._log.shard.add_telemetry,
        )
        sampler.start()
        return sampler

    def _describe_model(self, model: Any) -> None:
        weights = [variable.value for variable in model.trainable_variables]
        fields, reasons = provenance.of_frameworks()
        flops = forward_flops(model)
        if flops is None:
            reasons["flops_per_image"] = "the model holds a layer whose arithmetic is not known"
        self._log.shard.update_run(
            num_params=int(model.count_params()),
            trainable_params=sum(int(weight.shape.num_elements()) for weight in weights),
            gradient_bytes=sum(int(weight.shape.num_elements()) * weight.dtype.size for weight in weights),
            flops_per_image=flops,
            provenance=fields,
            null_reasons=reasons,
        )

    def _describe_exchange(self, all_reduce: str | None) -> None:
        strategy = self._plan.strategy
        alone = "one replica has nobody to exchange with"
        why = alone if strategy.requested_all_reduce else f"strategy {strategy.name!r} exchanges no gradients"
        reasons = {} if all_reduce else {"actual_all_reduce": why}
        self._log.shard.update_run(actual_all_reduce=all_reduce, null_reasons=reasons)


def _stop_on_signals() -> None:
    def stop(signum: int, _frame: FrameType | None) -> None:
        raise _Stopped(signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
