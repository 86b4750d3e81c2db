"""What to start on this machine: which places of the cluster, each with its cores, its GPUs and its environment."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.clock import Clock
from bench.config import RunConfig
from bench.errors import EnvironmentFault, UsageError
from bench.lifecycle import RUN_ID
from bench.placement import cores_of_each, gpus_of_each, look
from bench.plan import Plan, in_roles, make_strategy, resolve, resources_of
from bench.provenance import cgroup_cores
from bench.telemetry import Gpus
from jobs.cluster import LAUNCHER_PID, SAMPLED_GPUS, STARTED_NS, ClusterEnv
from jobs.launch import Worker, free_ports
from results import knobs
from strategies import load
from strategies.base import Strategy


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """The plan, as the first of the workers to start here sees it, and what each of those workers gets."""

    plan: Plan
    members: tuple[ClusterEnv, ...]
    """The places in the cluster to start here: all on a lone machine, one where a scheduler starts the processes."""
    cores: tuple[tuple[int, ...], ...]
    gpus: tuple[tuple[str, ...], ...] | None
    """UUIDs each worker uses; None on CPUs."""
    sampled_gpus: tuple[tuple[str, ...], ...]
    """UUIDs each worker samples: every GPU of the host once, by a worker with iterations to set it against."""

    @property
    def answers_for_run(self) -> bool:
        """Whoever starts rank 0 writes the run's record."""
        return self.members[0].rank == 0


def plan_launch(config: RunConfig, cluster: ClusterEnv | None, gpus: Gpus, env: Mapping[str, str]) -> LaunchPlan:
    """What to start here: this process's place in `cluster`, or, without one, all workers on this machine.

    Raises UsageError or EnvironmentFault, with nothing started.
    """
    _refuse_other_arithmetic(env)
    members = _local_members(config) if cluster is None else (in_roles(config, cluster),)
    host = look(cluster, gpus, env)
    me, here = members[0], members[0].here
    mine = range(len(here)) if cluster is None else (cluster.local_rank,)
    trains = [load(config.workload.strategy).trains(task) for task in here]
    # Fewer GPUs than workers: each sees one of its own, unless another turns out to see the same (`bench.agreement`).
    few = cluster is not None and 0 < len(host.gpus) < sum(trains) and not config.machine.gpu_memory_mib
    own_gpus = host.own_gpus or few
    shares = [tuple(host.gpus)] * len(here) if own_gpus else gpus_of_each(config.machine, host.gpus, trains)
    if gpus.misnamed and config.machine.device == "auto":
        # To measure the CPU instead would be a surprise that nobody notices.
        raise EnvironmentFault(
            f"CUDA_VISIBLE_DEVICES is {gpus.misnamed!r}, which names none of the {gpus.installed} GPU(s) here: name "
            "whole GPUs by index or UUID, not parts as MIG makes them, or measure the CPU with --device cpu"
        )
    resources = resources_of(config.machine, num_gpus=len(shares[mine[0]]), why_no_gpu=gpus.unavailable)
    strategy = make_strategy(config, me, resources)
    _check_num_workers(config, strategy, cluster)
    replicas = [strategy.replicas(task) for task in ((me.task,) if host.own_cores else here)]
    blocks = cores_of_each(config.machine, host.cores, replicas)
    if host.own_cores:
        # All of them, of which the ranks decide when they have met, where others may see the same.
        whole = tuple(sorted(cpu for core in host.cores for cpu in core))
        blocks = [whole] * len(here) if len(here) > 1 else blocks
    used = {cpu for block in blocks for cpu in block}
    usable = min(sum(not used.isdisjoint(core) for core in host.cores), cgroup_cores() or len(host.cores))
    training = next((index for index, count in enumerate(replicas) if count), 0)
    sampled = [shares[index] if own_gpus else () for index in range(len(here))]
    if not own_gpus:
        first = next((index for index, each in enumerate(trains) if each), 0)
        sampled[first] = tuple(dict.fromkeys(uuid for share in shares for uuid in share))
    plan = resolve(
        config,
        strategy,
        cores_per_device=usable / max(1, sum(replicas)),
        num_cpus=len(blocks[training]),
    )
    _refuse_contradictions(plan, env)
    return LaunchPlan(
        plan=plan,
        members=members,
        cores=tuple(blocks[index] for index in mine),
        gpus=tuple(shares[index] for index in mine) if resources.device_kind == "gpu" else None,
        sampled_gpus=tuple(sampled[index] for index in mine),
    )


def _refuse_other_arithmetic(env: Mapping[str, str]) -> None:
    for name, flags in knobs.refusals(env):
        raise UsageError(
            f"the environment sets {name}, which changes the arithmetic behind --precision unseen: unset {name}, or "
            f"ask with {flags}"
        )


def _refuse_contradictions(plan: Plan, env: Mapping[str, str]) -> None:
    for name, setting in knobs.contradictions(plan.run_fields()["exchange"], env):
        flag = f"--{setting.replace('_', '-')}"
        raise UsageError(f"the environment sets {name}={env[name]}, which contradicts {flag}: leave one of them out")


def _check_num_workers(config: RunConfig, strategy: Strategy, cluster: ClusterEnv | None) -> None:
    if cluster is not None and config.machine.num_processes not in (None, cluster.size):
        raise UsageError(
            f"--num-processes {config.machine.num_processes}, but {cluster.source} has {cluster.size}: leave it out"
        )
    wanted, workers = config.machine.num_workers, sum(strategy.replicas(task) > 0 for task in strategy.cluster.tasks)
    if cluster is not None and wanted not in (None, workers):
        raise UsageError(
            f"--num-workers {wanted}, but {cluster.source} has {cluster.size} tasks, {workers} of them workers: leave "
            "the flag out"
        )


def _local_members(config: RunConfig) -> tuple[ClusterEnv, ...]:
    strategy = load(config.workload.strategy)
    if (processes := config.machine.num_processes) is not None:
        count = processes - len(strategy.roles(0, config.exchange))
        if count < 1:
            raise UsageError(
                f"--num-processes {processes} leaves no worker: strategy {config.workload.strategy!r} needs "
                f"{processes - count} other(s) besides"
            )
    else:
        count = config.machine.num_workers or 1
    roles = strategy.roles(count, config.exchange)
    if len(roles) == 1:
        return (ClusterEnv.alone(),)
    if strategy.one_process:
        raise UsageError(
            f"strategy {config.workload.strategy!r} runs in one process and has no use for {len(roles)}: "
            "give it devices with --devices-per-worker, or choose a strategy with one process a worker (mwms)"
        )
    try:
        ports = free_ports(len(roles), config.machine.port_base)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise EnvironmentFault(
            f"port {error.filename} {why} on this machine: choose another --port-base, or leave it out"
        ) from None
    return tuple(ClusterEnv.local(rank, ports, roles) for rank in range(len(roles)))


def show(launch_plan: LaunchPlan, argv: Sequence[str]) -> None:
    """What `--dry-run` prints: the resolved configuration and, for each worker, what would be started."""
    fields = launch_plan.plan.run_fields()
    print(json.dumps({"config": fields["config"]}, indent=2))
    for name in ("num_processes", "num_devices", "device_kind", "batch_per_device", "global_batch", "cores_per_device"):
        print(f"{name}: {fields[name]}")
    for worker in workers(launch_plan, argv, {}, "RUN_ID"):
        print(f"rank {worker.rank}: cores {','.join(map(str, worker.cores))}: {' '.join(worker.argv)}")
        for name, value in worker.env.items():
            print(f"    {name}={value}")


def workers(
    launch_plan: LaunchPlan,
    argv: Sequence[str],
    env: Mapping[str, str],
    run_id: str,
    *,
    in_fork: Callable[[], int] | None = None,
) -> list[Worker]:
    """The processes to start for a run: each the command `argv`, or a fork that calls `in_fork`, with the environment
    `env` and what it is told besides."""
    config = launch_plan.plan.config
    common = {name: value for name, value in env.items() if name != "TF_CONFIG"} | {
        LAUNCHER_PID: str(os.getpid()),
        STARTED_NS: str(Clock().now_ns()),
    }
    # Rank 0's proposal is the run's id. Ranks that others start learn it at the rendezvous.
    if launch_plan.answers_for_run:
        common[RUN_ID] = run_id
    if not config.output.debug:
        common.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    workers = []
    for index, (member, cores) in enumerate(zip(launch_plan.members, launch_plan.cores, strict=True)):
        mine = dict(common)
        if member.size > 1 and member.task.address:  # else the launcher's own variables say who is who
            mine["TF_CONFIG"] = member.tf_config()
        if launch_plan.plan.strategy.resources.device_kind == "cpu":
            mine["CUDA_VISIBLE_DEVICES"] = "-1"  # a worker decides nothing anew
        elif launch_plan.gpus is not None:
            mine["CUDA_VISIBLE_DEVICES"] = ",".join(launch_plan.gpus[index])
            mine[SAMPLED_GPUS] = ",".join(launch_plan.sampled_gpus[index])
        command = [sys.executable, "-m", "bench.run", *argv]
        workers.append(Worker(rank=member.rank, argv=command, env=mine, cores=cores, target=in_fork))
    return workers
