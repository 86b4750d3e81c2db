"""A run on this machine: start the workers, watch them, and record how it ended."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib import import_module

from bench import frameworks
from bench.config import RunConfig
from bench.errors import EnvironmentFault, UsageError
from bench.lifecycle import RUN_ID, describe_run, finish, new_run_id
from bench.plan import Plan, make_strategy, resolve, resources_of
from bench.record import RUN_SHARD, Ending
from bench.telemetry import Gpus
from jobs.cluster import LOCAL_LAUNCHER, ClusterEnv
from jobs.launch import Worker, free_ports, launch, share_cores
from results.store import Store
from strategies import load

_FRAMEWORK_CHATTER = re.compile(rb"[IWE]\d{4} |WARNING: All log messages before|\d{4}-\d\d-\d\d [\d:.]+: [IWE] ")
"""Lines that TensorFlow logs in every run, in good and in bad ones."""


@dataclass(frozen=True, kw_only=True)
class LocalPlan:
    """Rank 0's plan, and what every worker gets."""

    plan: Plan
    ports: tuple[int, ...]
    cores: tuple[tuple[int, ...], ...]
    gpus: tuple[tuple[str, ...], ...] | None
    """UUIDs each worker sees; None leaves CUDA_VISIBLE_DEVICES as it is."""


def plan_local(config: RunConfig, gpus: Gpus) -> LocalPlan:
    """Divides this machine among the workers. Raises UsageError or EnvironmentFault, with nothing started."""
    count = config.machine.num_workers or 1
    if count > 1 and load(config.workload.strategy).one_process:
        raise UsageError(
            f"strategy {config.workload.strategy!r} runs in one process, so --num-workers {count} does not apply: "
            "give it devices with --devices-per-worker, or choose mwms or independent"
        )
    try:
        ports = tuple(free_ports(count, config.machine.port_base))
    except OSError as error:
        raise EnvironmentFault(
            f"port {error.filename} is in use on this machine: choose another --port-base, or leave it out"
        ) from None
    shares = _share_gpus(config, gpus, count)
    cluster = ClusterEnv.local(0, ports) if count > 1 else ClusterEnv.alone()
    every_core = sorted(os.sched_getaffinity(0))
    resources = resources_of(
        config.machine,
        num_gpus=len(shares[0]),
        num_cores=max(1, len(every_core) // count),
        why_no_gpu=gpus.unavailable or f"{count} workers share {len(gpus.handles)}",
    )
    strategy = make_strategy(config, cluster, resources)
    each = config.machine.cores_per_device and config.machine.cores_per_device * strategy.local_replicas
    if each and each * count > len(every_core):
        raise UsageError(
            f"--cores-per-device {config.machine.cores_per_device} needs {each * count} cores for "
            f"{strategy.shard().total} devices, but this job may use {len(every_core)}: lower it, or leave it out to "
            "share the cores"
        )
    cores = share_cores(every_core, count, each)
    return LocalPlan(
        plan=resolve(config, strategy, len(cores[0])),
        ports=ports,
        cores=tuple(cores),
        gpus=tuple(shares) if resources.device_kind == "gpu" else None,
    )


def _share_gpus(config: RunConfig, gpus: Gpus, count: int) -> list[tuple[str, ...]]:
    uuids = [uuid for handle in gpus.handles if (uuid := gpus.uuid(handle))]
    if config.machine.device == "cpu" or not uuids:
        return [()] * count
    if config.machine.gpu_memory_mib and count > len(uuids):
        return [(uuids[rank % len(uuids)],) for rank in range(count)]
    each = len(uuids) // count
    return [tuple(uuids[rank * each : (rank + 1) * each]) for rank in range(count)]


def show(local: LocalPlan, argv: Sequence[str]) -> None:
    """What `--dry-run` prints: the resolved configuration and, for each worker, what would be started."""
    print(json.dumps({"config": local.plan.config.as_dict()}, indent=2))
    workers = _workers(local, argv, {}, "RUN_ID")
    for worker in workers:
        print(f"worker {worker.rank}: cores {','.join(map(str, worker.cores))}: {' '.join(worker.argv)}")
        for name, value in worker.env.items():
            print(f"    {name}={value}")
    fields = local.plan.run_fields()
    for name in ("num_processes", "num_devices", "device_kind", "batch_per_device", "global_batch", "cores_per_device"):
        print(f"{name}: {fields[name]}")


def run_local(local: LocalPlan, argv: Sequence[str], env: Mapping[str, str], gpus: Gpus) -> int:
    """Runs the workers to their end and records it; returns the exit code of the run."""
    config = local.plan.config
    store = Store(config.output.results_dir)
    store.prepare()
    started_at = datetime.now(timezone.utc)
    run_id = new_run_id(started_at)
    shard = store.open_shard(run_id, RUN_SHARD)
    shard.update_run(**local.plan.run_fields(), started_at=started_at.timestamp())
    last_words: dict[int, str] = {}

    def on_stderr(rank: int, line: bytes) -> None:
        text = line.decode(errors="replace")
        last_words[rank] = text
        if config.output.debug or not _FRAMEWORK_CHATTER.match(line):
            print(f"[rank {rank}] {text}", file=sys.stderr, flush=True)

    def while_they_start() -> None:
        # The workers measure nothing yet: the time to look around on this machine and to load what the end needs.
        describe_run(shard, local.plan, started_at, env, gpus)
        import_module("pyarrow.parquet")

    outcome = launch(
        _workers(local, argv, env, run_id),
        timeout_s=config.machine.timeout,
        on_stderr=on_stderr,
        on_started=while_they_start,
    )
    shard.close()
    first = outcome.first_failure
    ending = Ending(
        exit_codes=outcome.exit_codes,
        first_failed=first[0] if first else None,
        timeout_s=config.machine.timeout if outcome.timed_out else None,
        signum=outcome.signum,
        last_words=last_words,
    )
    return finish(store, run_id, store.read_shards(run_id), ending, as_json=config.output.json)


def _workers(local: LocalPlan, argv: Sequence[str], env: Mapping[str, str], run_id: str) -> list[Worker]:
    from bench.run import main

    config = local.plan.config
    common = {**env, LOCAL_LAUNCHER: str(os.getpid()), RUN_ID: run_id}
    if not config.output.debug:
        common.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    workers = []
    for rank, cores in enumerate(local.cores):
        mine = dict(common)
        if len(local.ports) > 1:
            mine["TF_CONFIG"] = ClusterEnv.local(rank, local.ports).tf_config()
        if local.gpus is not None:
            mine["CUDA_VISIBLE_DEVICES"] = ",".join(local.gpus[rank])
        elif config.machine.device == "cpu":
            mine["CUDA_VISIBLE_DEVICES"] = "-1"
        command = [sys.executable, "-m", "bench.run", *argv]
        target = partial(main, argv) if frameworks.preloaded() else None
        workers.append(Worker(rank=rank, argv=command, env=mine, cores=cores, target=target))
    return workers
