"""From configuration, cluster and machine to what will be run. Nothing is allocated and no framework is loaded."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from bench.config import MachineConfig, RunConfig, TrainingConfig
from bench.convergence import RateWarmup, epoch_ends, scaled_rate
from bench.errors import EnvironmentFault, UsageError
from bench.measure import Schedule
from bench.workloads import check as check_workload
from bench.workloads import check_precision, model_spec
from bench.workloads.freezing import check as check_freeze
from bench.workloads.optimizers import OPTIMIZERS
from bench.workloads.source import SETS, check_batch, resolve_cache
from bench.workloads.weights import check as check_weights
from bench.workloads.weights import digest
from jobs.cluster import ClusterEnv
from results.command_line import flag
from results.schema import MEASUREMENT_VERSION, SCHEMA_VERSION
from strategies import load
from strategies.base import Resources, Strategy

DEFAULT_BATCH_SIZE = 64
"""Images a device and step where neither batch flag is given."""

DEFAULT_NUM_ITERS = 10
"""Timed iterations where neither they nor epochs are asked for."""

BATCHES_PER_ITER = {"train": 10, "forward": 1}
"""Steps in a compiled call where --num-batches-per-iter gives none. Of forward passes the latency of each is wanted."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One process's view of a run; all but `strategy.cluster.rank` is the same on every rank."""

    config: RunConfig
    strategy: Strategy
    batch_per_device: int
    global_batch: int
    num_devices: int
    cores_per_device: float
    """CPU cores a replica can really use: fewer where workers share cores or a quota is set."""
    weights: str | None
    """SHA-256 of the file of --weights."""
    data: str | None
    """Digest of the files of the data set; None where its name says what they hold."""

    @property
    def learning_rate(self) -> float:
        """That of the flag, or the optimizer's default, as it is scaled."""
        return scaled_rate(self._unscaled_rate, self.config.training.lr_scaling, self._images_of_update)

    @property
    def rate_warmup(self) -> RateWarmup | None:
        """How the learning rate gets there; None where it is there at once."""
        epochs = self.config.training.lr_warmup_epochs
        if not epochs:
            return None
        return RateWarmup(first=self._unscaled_rate, epochs=epochs, images_of_update=self._images_of_update)

    @property
    def _unscaled_rate(self) -> float:
        training = self.config.training
        return training.lr if training.lr is not None else OPTIMIZERS[training.optimizer].learning_rate

    @property
    def _images_of_update(self) -> int:
        # Workers that do not wait for each other change the weights one by one.
        return self.global_batch if self.strategy.synchronous else self.batch_per_device

    @property
    def num_batches_per_iter(self) -> int:
        """Steps in a compiled call."""
        return self.config.measure.num_batches_per_iter or BATCHES_PER_ITER[self.config.training.phase]

    @property
    def num_iters(self) -> int | None:
        """Timed iterations, where they were asked for and not epochs."""
        measure = self.config.measure
        return None if self.config.training.epochs else measure.num_iters or DEFAULT_NUM_ITERS

    def schedule(self, num_samples: int) -> Schedule:
        """The calls of the run, for training images so many. Raises UsageError where they are too few."""
        measure, epochs = self.config.measure, self.config.training.epochs
        if self.num_iters is None:
            ends = epoch_ends(num_samples, self.global_batch, epochs or 1)
            return Schedule.of_epochs(measure.num_warmup_batches, self.num_batches_per_iter, ends)
        return Schedule(
            num_warmup_batches=measure.num_warmup_batches,
            num_batches_per_iter=self.num_batches_per_iter,
            num_iters=self.num_iters,
        )

    @property
    def forward(self) -> bool:
        """Steps are forward passes: nothing is trained."""
        return self.config.training.phase == "forward"

    def run_fields(self) -> dict[str, Any]:
        """What is known of the row of `runs` before anything has started."""
        config, strategy = self.config, self.strategy
        default_label = f"{strategy.name} {config.workload.model} x{self.num_devices}{' forward' * self.forward}"
        return {
            "schema_version": SCHEMA_VERSION,
            "measurement_version": MEASUREMENT_VERSION,
            "experiment": config.output.experiment,
            "label": config.output.label or default_label,
            "sweep_task": config.output.sweep_task,
            "strategy": strategy.name,
            "synchronous": None if self.forward else strategy.synchronous,
            "requested_all_reduce": None if self.forward else strategy.requested_all_reduce,
            "model": config.workload.model,
            **self._model_shape(),
            "dataset": config.workload.dataset,
            "classes": config.workload.classes,
            "num_train_samples": config.workload.num_train_samples,
            "freeze": config.workload.freeze,
            "weights": self.weights,
            "cache": resolve_cache(config.workload.dataset, config.workload.cache),
            "batch_per_device": self.batch_per_device,
            "global_batch": self.global_batch,
            "num_warmup_batches": config.measure.num_warmup_batches,
            "num_batches_per_iter": self.num_batches_per_iter,
            "num_iters": self.num_iters,
            "lr_warmup_epochs": config.training.lr_warmup_epochs or None,
            "epochs": config.training.epochs,
            "target_accuracy": config.training.target_accuracy,
            "phase": config.training.phase,
            "optimizer": None if self.forward else config.training.optimizer,
            "learning_rate": None if self.forward else self.learning_rate,
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

    def _model_shape(self) -> dict[str, int]:
        asked = self.config.workload
        spec = model_spec(asked.model, asked.image_size, asked.num_classes)
        return {"image_size": spec.image_size, "num_classes": spec.num_classes}

    def _resolved(self) -> dict[str, Any]:
        """The settings that were left to us, as they were decided."""
        strategy, strong = self.strategy, self.config.workload.global_batch_size
        return {
            **self._model_shape(),
            "batch_size": None if strong else self.batch_per_device,
            "cache": resolve_cache(self.config.workload.dataset, self.config.workload.cache),
            "optimizer": None if self.forward else self.config.training.optimizer,
            "lr": None if self.forward else self._unscaled_rate,
            "num_batches_per_iter": self.num_batches_per_iter,
            "num_workers": sum(strategy.replicas(task) > 0 for task in strategy.cluster.tasks),
            "num_ps": strategy.num_ps or None,
            "num_iters": self.num_iters,
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
    training, job = config.training, config.workload
    spec = check_workload(
        job.model,
        job.dataset,
        job.data_dir,
        image_size=job.image_size,
        num_classes=job.num_classes,
        classes=job.classes,
        num_train_samples=job.num_train_samples,
        evaluated=training.epochs is not None,
    )
    check_precision(spec, config.numerics.precision)
    check_freeze(job.freeze)
    check_weights(job.weights)
    if resolve_cache(job.dataset, job.cache) == "disk" and strategy.no_disk_cache:
        raise UsageError(f"--cache disk cannot work under strategy {strategy.name!r}: {strategy.no_disk_cache}")
    _check_training(training, strategy)
    return strategy


def _check_training(training: TrainingConfig, strategy: Strategy) -> None:
    wanted = {"epochs": training.epochs, "save_model": training.save_model}
    for name in (name for name, value in wanted.items() if value is not None):
        if not strategy.one_model:
            raise UsageError(
                f"strategy {strategy.name!r} trains a model in each worker, so {flag(name)} has no one model: leave it "
                "out, or choose mwms"
            )
    for name, path in (("save_model", training.save_model), ("timeline", strategy.exchange.timeline)):
        if path is not None and strategy.cluster.rank == 0:
            _check_writable(flag(name), path)


def _check_writable(name: str, path: Path) -> None:
    """Raises UsageError unless a file of that name can be made or replaced."""
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{name} {str(path)!r}: there is no folder {str(folder)!r}: make it first")
    if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{name} {str(path)!r} cannot be written: choose another place")


def _choose_threads(config: RunConfig, strategy: Strategy, num_cpus: int) -> None:
    machine = config.machine
    strategy.resources = replace(
        strategy.resources,
        intra_op_threads=machine.intra_op_threads or num_cpus,
        inter_op_threads=machine.inter_op_threads or max(num_cpus, strategy.least_inter_op_threads),
    )


def on_other_cores(plan: Plan, *, cores_per_device: float, num_cpus: int) -> Plan:
    """The same plan where its process turns out to have other cores; chooses the threads of its strategy anew."""
    _choose_threads(plan.config, plan.strategy, num_cpus)
    return replace(plan, cores_per_device=cores_per_device)


def resolve(config: RunConfig, strategy: Strategy, *, cores_per_device: float, num_cpus: int) -> Plan:
    """Batch sizes and, where they were left open, a thread for each of the process's `num_cpus` hardware threads, or
    as many as the strategy needs at least.

    Raises UsageError for a global batch that the devices cannot share evenly, or that the data set cannot fill, and
    EnvironmentFault for a file of weights that cannot be read.
    """
    num_devices = strategy.shard().total
    wanted = config.workload.global_batch_size
    if wanted is not None and wanted % num_devices:
        below = wanted - wanted % num_devices
        near = f"{below} or {below + num_devices}" if below else str(num_devices)
        raise UsageError(f"--global-batch-size {wanted} cannot be shared evenly by {num_devices} devices: use {near}")
    batch = wanted // num_devices if wanted else config.workload.batch_size or DEFAULT_BATCH_SIZE
    job = config.workload
    if (num_samples := SETS[job.dataset].num_samples(job.data_dir)) is not None:
        check_batch(job.dataset, job.data_dir, num_samples, batch * num_devices)
    _choose_threads(config, strategy, num_cpus)
    return Plan(
        config=config,
        strategy=strategy,
        batch_per_device=batch,
        global_batch=batch * num_devices,
        num_devices=num_devices,
        cores_per_device=cores_per_device,
        weights=digest(job.weights) if job.weights else None,
        data=SETS[job.dataset].digest(job.data_dir, evaluated=config.training.epochs is not None),
    )
