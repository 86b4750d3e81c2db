"""From configuration, cluster and machine to what will be run. Nothing is allocated and no framework is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from bench.config import MachineConfig, RunConfig
from bench.errors import EnvironmentFault, UsageError
from bench.measure import Schedule
from bench.workloads import check as check_workload
from bench.workloads.optimizers import OPTIMIZERS
from jobs.cluster import ClusterEnv
from results.schema import SCHEMA_VERSION
from strategies import load
from strategies.base import Resources, Strategy

DEFAULT_BATCH_SIZE = 64
"""Images a device and step where neither batch flag is given."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One process's view of a run; all but `strategy.cluster.rank` is the same on every rank."""

    config: RunConfig
    strategy: Strategy
    schedule: Schedule
    batch_per_device: int
    global_batch: int
    num_devices: int
    cores_per_device: float
    """CPU cores a replica can really use: fewer where workers share cores or a quota is set."""

    @property
    def learning_rate(self) -> float:
        """That of the flag, or the optimizer's own."""
        training = self.config.training
        return training.lr if training.lr is not None else OPTIMIZERS[training.optimizer].learning_rate

    def run_fields(self) -> dict[str, Any]:
        """What is known of the row of `runs` before anything has started."""
        config, strategy = self.config, self.strategy
        default_label = f"{strategy.name} {config.workload.model} x{self.num_devices}"
        return {
            "schema_version": SCHEMA_VERSION,
            "experiment": config.output.experiment,
            "label": config.output.label or default_label,
            "sweep_task": config.output.sweep_task,
            "strategy": strategy.name,
            "synchronous": strategy.synchronous,
            "requested_all_reduce": strategy.requested_all_reduce,
            "model": config.workload.model,
            "dataset": config.workload.dataset,
            "batch_per_device": self.batch_per_device,
            "global_batch": self.global_batch,
            "num_warmup_batches": self.schedule.num_warmup_batches,
            "num_batches_per_iter": self.schedule.num_batches_per_iter,
            "num_iters": self.schedule.num_iters,
            "phase": config.training.phase,
            "optimizer": None if config.training.phase == "forward" else config.training.optimizer,
            "learning_rate": None if config.training.phase == "forward" else self.learning_rate,
            "precision": strategy.numerics.precision,
            "xla": strategy.numerics.xla,
            "num_nodes": strategy.cluster.num_nodes,
            "num_processes": strategy.cluster.size,
            "num_ps": strategy.num_ps,
            "exchange": {
                field.name: str(value)
                for field in fields(strategy.exchange)
                if field.name in strategy.knobs and (value := getattr(strategy.exchange, field.name)) != field.default
            },
            "num_devices": self.num_devices,
            "device_kind": strategy.resources.device_kind,
            "cores_per_device": self.cores_per_device,
            "intra_op_threads": strategy.resources.intra_op_threads,
            "inter_op_threads": strategy.resources.inter_op_threads,
            "gpu_memory_mib": strategy.resources.gpu_memory_mib,
            "scaling": "strong" if config.workload.global_batch_size else "weak",
            "telemetry_period_s": config.measure.telemetry_period,
            "config": config.as_dict() | self._resolved(),
        }

    def fingerprint(self) -> str:
        """16 hex digits over what must be the same on every rank: what is trained, how it is timed, on what."""
        config = self.config
        groups = (config.workload, config.exchange, config.numerics, config.training, config.measure)
        said = [asdict(group) for group in groups]
        text = json.dumps([*said, self.num_devices, self.strategy.resources.device_kind], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _resolved(self) -> dict[str, Any]:
        """The settings that were left to us, as they were decided."""
        strategy, strong = self.strategy, self.config.workload.global_batch_size
        return {
            "batch_size": None if strong else self.batch_per_device,
            "num_workers": sum(strategy.replicas(task) > 0 for task in strategy.cluster.tasks),
            "num_ps": strategy.num_ps or None,
            "device": strategy.resources.device_kind,
            "devices_per_worker": strategy.local_replicas,
            "intra_op_threads": strategy.resources.intra_op_threads,
            "inter_op_threads": strategy.resources.inter_op_threads,
        }


def resources_of(machine: MachineConfig, *, num_gpus: int, why_no_gpu: str | None) -> Resources:
    """What one process may use, of `num_gpus` GPUs. Raises EnvironmentFault without the GPU
    that --device gpu wants."""
    if machine.device == "gpu" and not num_gpus:
        raise EnvironmentFault(f"--device gpu, but there is none for this process ({why_no_gpu}): use --device cpu")
    use_gpu = machine.device != "cpu" and num_gpus > 0
    if machine.gpu_memory_mib and not use_gpu:
        raise UsageError("--gpu-memory-mib cuts GPUs into logical ones, but this run uses the CPU: leave it out")
    return Resources(
        device_kind="gpu" if use_gpu else "cpu",
        num_gpus=num_gpus if use_gpu else 0,
        devices=machine.devices_per_worker,
        gpu_memory_mib=machine.gpu_memory_mib,
        intra_op_threads=machine.intra_op_threads,
        inter_op_threads=machine.inter_op_threads,
    )


def in_roles(config: RunConfig, cluster: ClusterEnv) -> ClusterEnv:
    """The cluster with the roles that the strategy gives to its ranks, unless TF_CONFIG has named them.

    Raises UsageError for a job that is too small for the strategy.
    """
    if cluster.roles_are_named:
        return cluster
    strategy, exchange = load(config.workload.strategy), config.exchange
    others = strategy.roles(0, exchange)
    if cluster.size <= len(others):
        raise UsageError(
            f"strategy {strategy.name!r} needs {len(others)} process(es) besides its workers ({', '.join(others)}), "
            f"but {cluster.source} has {cluster.size}: start at least {len(others) + 1}"
        )
    return cluster.with_roles(strategy.roles(cluster.size - len(others), exchange))


def make_strategy(config: RunConfig, cluster: ClusterEnv, resources: Resources) -> Strategy:
    """The strategy in its place, checked. Raises UsageError for names and combinations that cannot run."""
    if config.measure.measure_peak and resources.gpu_memory_mib:
        raise UsageError(
            "--measure-peak times a whole GPU, but --gpu-memory-mib lets replicas share one: leave one of the two out"
        )
    strategy = load(config.workload.strategy)(cluster, resources, config.exchange, config.numerics)
    strategy.check()
    check_workload(config.workload.model, config.workload.dataset, config.workload.data_dir)
    return strategy


def resolve(config: RunConfig, strategy: Strategy, *, cores_per_device: float, num_cores: int) -> Plan:
    """Batch sizes, schedule and, where they were left open, a thread for each of the process's `num_cores` cores.

    Raises UsageError for a global batch that the devices cannot share evenly.
    """
    num_devices = strategy.shard().total
    wanted = config.workload.global_batch_size
    if wanted is not None and wanted % num_devices:
        below = wanted - wanted % num_devices
        near = f"{below} or {below + num_devices}" if below else str(num_devices)
        raise UsageError(f"--global-batch-size {wanted} cannot be shared evenly by {num_devices} devices: use {near}")
    batch = wanted // num_devices if wanted else config.workload.batch_size or DEFAULT_BATCH_SIZE
    resources = strategy.resources
    strategy.resources = replace(
        resources,
        intra_op_threads=resources.intra_op_threads or num_cores,
        inter_op_threads=resources.inter_op_threads or num_cores,
    )
    return Plan(
        config=config,
        strategy=strategy,
        schedule=Schedule(
            num_warmup_batches=config.measure.num_warmup_batches,
            num_batches_per_iter=config.measure.num_batches_per_iter,
            num_iters=config.measure.num_iters,
        ),
        batch_per_device=batch,
        global_batch=batch * num_devices,
        num_devices=num_devices,
        cores_per_device=cores_per_device,
    )
