"""The whole configuration of a run: frozen, keyword-only, saved with the result. Defaults live here and nowhere else.

Each group is a section of `--help`; the text under a field is its help. A TOML file gives the same names without the
dashes: `num-iters = 20` or `num_iters = 20`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from bench.errors import UsageError, unknown_name
from jobs.cluster import MAX_PORT
from results import command_line, folders
from results.command_line import Refused, file_words, flag, value_of
from strategies.base import OF_GRADIENTS, ExchangeConfig, NumericsConfig

MODEL_FILES = (".weights.h5", ".keras")
"""How the names of files end that Keras saves a model's weights, or all of a model, to."""

_MOST = (1 << 31) - 1
"""Steps, images, seeds: what fits the tables and the frameworks."""


_LARGEST_IMAGE, _MOST_CLASSES = 4096, 1_000_000
"""More than any network of ours is for, and little enough that one image and one layer fit into memory."""

_LONGEST_WAIT_S = 1_000_000
"""Sockets count the milliseconds that they wait in 32 bits [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadConfig:
    """What is trained."""

    strategy: str = "single"
    """How training is distributed: single, independent, mirrored, mwms, central, ps or horovod."""
    model: str = "mnist_cnn"
    """Model: mnist_cnn, digits_cnn, transfer_cnn, fashion_cnn, lenet5, cifar_cnn, alexnet, small_xception, vgg16,
    vgg19, vgg16_cifar, mobilenetv2_mnist, or keras:NAME of keras.applications, as keras:ResNet50; python -m
    bench.workloads lists all."""
    image_size: int | None = None
    """Height and width of the images [pixels]; data is resized to it. None is the model's own."""
    num_classes: int | None = None
    """Classes that the model tells apart; the data may have fewer. None is the model's own."""
    dataset: str = "synthetic"
    """Images: synthetic, digits, mnist, fashion_mnist, cifar10 or tfrecord (sharded JPEGs, as ImageNet's)."""
    data_dir: Path | None = None
    """Folder of the mnist, fashion_mnist, cifar10 and tfrecord files; never downloaded into [path]. None is Keras's
    cache, where tfrecord has none."""
    cache: Literal["none", "memory", "disk"] | None = None
    """Where tfrecord's encoded images are kept after the first epoch: nowhere, in memory, or in a folder of the run's
    below TMPDIR. None is none; the other data sets are held in memory."""
    batch_size: int | None = None
    """Images a device and step [images], for weak scaling. None is 64 unless --global-batch-size is given."""
    global_batch_size: int | None = None
    """Images all devices together and step [images], for strong scaling. Excludes --batch-size."""
    classes: str | None = None
    """Classes of the data set to train on: '0-4', '1,3,5-7'; the model knows them as 0, 1, ... None is all."""
    num_train_samples: int | None = None
    """Training images to use [images]: the first of an order that the seed gives. None is all."""
    freeze: str | None = None
    """Layers that are not trained: base, all before the classifier head, or N, the first N that hold weights in the
    model's order, where models inside it are looked into. None trains every layer."""
    weights: Path | None = None
    """File of the weights to begin with [path]: a .weights.h5 or .keras that Keras has written of this model. With
    --freeze base it gives the base alone, and the classifier head begins at random. None begins at random."""
    seed: int = 1
    """Seed of weights, dropout, synthetic images and sample order."""
    find_max_batch: FlagCreatePairsOff[bool] = False
    """Find the largest --batch-size that fits into a device's memory, by short runs: from --batch-size on, doubling and
    then in steps of an eighth. Each run is recorded."""
    max_batch_size: int | None = None
    """The largest that --find-max-batch tries [images]. None is 16384."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.global_batch_size is not None:
            raise UsageError("--batch-size (per device) and --global-batch-size exclude each other: give one of them")
        _positive("--image-size", self.image_size, _LARGEST_IMAGE)
        if self.num_classes is not None and not 2 <= self.num_classes <= _MOST_CLASSES:  # noqa: PLR2004
            raise UsageError(f"--num-classes is {self.num_classes}: give a whole number from 2 to {_MOST_CLASSES}")
        _positive("--batch-size", self.batch_size)
        _positive("--global-batch-size", self.global_batch_size)
        _positive("--num-train-samples", self.num_train_samples)
        _at_least("--seed", self.seed, 0)
        _positive("--max-batch-size", self.max_batch_size)
        if self.max_batch_size is not None and not self.find_max_batch:
            raise UsageError("--max-batch-size has no effect without --find-max-batch: leave it out")
        if self.global_batch_size is not None and self.find_max_batch:
            raise UsageError("--find-max-batch finds a batch per device: give --batch-size to begin with, or nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How it is trained."""

    phase: Literal["train", "forward"] = "train"
    """What a step is: train is forward and backward pass, exchange and update; forward is inference, and changes
    nothing."""
    optimizer: Literal["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"] = "sgd"
    """What changes the weights, as Keras has it: momentum and nesterov are sgd with momentum 0.9."""
    lr: float | None = None
    """Learning rate. None is 0.01 for sgd, momentum and nesterov, 0.001 for adam, adamw and rmsprop."""
    lr_scaling: Literal["none", "linear"] = "none"
    """linear takes the learning rate as meant for updates of 64 images, and multiplies it by the images of an update /
    64."""
    lr_warmup_epochs: int = 0
    """Over so many epochs the learning rate rises from the unscaled one to the scaled one [epochs]."""
    epochs: int | None = None
    """Passes over the data set, each followed by an evaluation on its test images [epochs]. Excludes --num-iters."""
    target_accuracy: float | None = None
    """Stop after the evaluation that reaches this part of the test images; --epochs is then the most."""
    save_model: Path | None = None
    """File that rank 0 saves the trained model to [path]: NAME.weights.h5 or NAME.keras."""

    def __post_init__(self) -> None:
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise UsageError(f"--lr is {self.lr:g}: give a finite number above 0")
        _positive("--epochs", self.epochs)
        _at_least("--lr-warmup-epochs", self.lr_warmup_epochs, 0)
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= 1:
            raise UsageError(f"--target-accuracy is {self.target_accuracy:g}: give a part of 1, such as 0.97")
        if self.target_accuracy is not None and self.epochs is None:
            raise UsageError("--target-accuracy needs --epochs, the most that it may take: give both")
        if self.lr_warmup_epochs and self.lr_scaling == "none":
            raise UsageError("--lr-warmup-epochs rises to the scaled rate: give --lr-scaling linear too")
        if self.lr_warmup_epochs and not self.lr_warmup_epochs <= (self.epochs or 0):
            raise UsageError(
                f"--lr-warmup-epochs is {self.lr_warmup_epochs}: it needs at least as many --epochs, or the rate would "
                "never be the scaled one"
            )
        name = self.save_model.name if self.save_model is not None else None
        if name is not None and (not name.endswith(MODEL_FILES) or name in MODEL_FILES):
            raise UsageError(
                f"--save-model is {str(self.save_model)!r}: give a name that ends in .weights.h5 or .keras"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureConfig:
    """How it is measured."""

    num_warmup_batches: int = 10
    """Steps before the timed ones, recorded and flagged [steps]. The first traces and compiles."""
    num_batches_per_iter: int | None = None
    """Steps in one compiled call [steps]; the clock is read after each call. None is 10, in the forward phase 1."""
    num_iters: int | None = None
    """Timed iterations [calls]. None is 10, or with --epochs as many as they take."""
    measure_peak: FlagCreatePairsOff[bool] = False
    """Time a matrix product in the run's precision for a second before the training: the peak FLOP/s that MFU counts
    from. Otherwise it is that of the GPU's data sheet."""
    telemetry_period: float = 0.2
    """Time between two samples of memory, power and network [s]; 0 takes none."""

    def __post_init__(self) -> None:
        _positive("--num-warmup-batches", self.num_warmup_batches)
        _positive("--num-batches-per-iter", self.num_batches_per_iter)
        _positive("--num-iters", self.num_iters)
        _at_least("--telemetry-period", self.telemetry_period, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """What it runs on."""

    num_workers: int | None = None
    """Worker processes to start on this machine [processes]. None is 1, or all that a cluster started."""
    num_processes: int | None = None
    """The same with coordinator and servers counted in, as tasks under srun are [processes]. Excludes --num-workers."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Kind of device; auto is gpu where the NVIDIA driver shows one."""
    devices_per_worker: int | None = None
    """Replicas in each process [devices]: GPUs, or logical CPU devices. None is every GPU, or 1 CPU device."""
    cores_per_device: int | None = None
    """Physical CPU cores per replica [cores], with all their hardware threads; workers are pinned. None shares all
    between the workers."""
    gpu_memory_mib: int | None = None
    """Memory of each logical GPU [MiB], so that several replicas share a GPU. None is whole GPUs."""
    intra_op_threads: int | None = None
    """Threads inside an operation, per process [threads]. None is one per hardware thread that the process may use."""
    inter_op_threads: int | None = None
    """Operations at once, a process [threads]. None is one a core of the process, under ps at least 8."""
    port_base: int | None = None
    """First port of the local workers, one each from there on. None takes free ones."""
    timeout: float = 3600.0
    """Bound on the whole run [s]; then every process is ended, exit 124."""
    rendezvous_timeout: float = 300.0
    """Bound on meeting all other processes, and on leaving them [s]; exit 124 names who is missing."""
    step_timeout: float | None = None
    """Bound on one iteration [s]; ten times as long on building, the first step and the end; exit 124. None is 20 times
    the slowest warm-up steps, at least 60."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_processes is not None:
            raise UsageError("--num-workers and --num-processes exclude each other: give one of them")
        for name in ("num_workers", "num_processes", "devices_per_worker"):
            _positive(flag(name), getattr(self, name), MAX_PORT)  # of the machine: each process has a port of its own
        for name in ("cores_per_device", "gpu_memory_mib"):
            _positive(flag(name), getattr(self, name))
        _positive("--intra-op-threads", self.intra_op_threads)
        _positive("--inter-op-threads", self.inter_op_threads)
        last_port = (self.port_base or 1) + (self.num_processes or self.num_workers or 1) - 1
        if self.port_base is not None and not 1 <= self.port_base <= last_port <= MAX_PORT:
            raise UsageError(f"--port-base is {self.port_base}: every worker's port must be within 1 to {MAX_PORT}")
        for name, most_s in (
            ("timeout", math.inf),
            ("rendezvous_timeout", _LONGEST_WAIT_S),
            ("step_timeout", math.inf),
        ):
            bound_s = getattr(self, name)
            if bound_s is not None and not 0 < bound_s <= most_s:
                most = f" and at most {most_s}" if most_s < math.inf else ""
                raise UsageError(f"{flag(name)} is {bound_s:g}: give a number of seconds above 0{most}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """What is kept and printed."""

    experiment: str = "default"
    """Name that groups runs in the store."""
    label: str | None = None
    """Your name for this configuration. None is made of strategy, model and devices."""
    results_dir: Path = Path("results/data")
    """Where the tables are kept [path]."""
    sweep_task: str | None = None
    """What jobs.sweep calls this run, and finds it by."""
    trial: FlagCreatePairsOff[bool] = False
    """Record the run as a trial, as --find-max-batch does: the analysis leaves it out, unless --trials is given."""
    evidence: Path | None = None
    """Folder for what bench.verify compares: losses, samples and weights of every rank [path]; dropout is off."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print the resolved configuration and the launch plan; start nothing."""
    json: FlagCreatePairsOff[bool] = False
    """Print one machine-readable line last."""
    debug: FlagCreatePairsOff[bool] = False
    """Show tracebacks and every line that the frameworks log."""

    def __post_init__(self) -> None:
        if self.sweep_task is not None:
            try:
                folders.component(self.sweep_task)  # the store notes a run that is ok by a file of this name
            except OSError:
                raise UsageError(
                    f"--sweep-task is {self.sweep_task[:80]!r}: give a name that a file can have, without a slash and "
                    "of at most 255 bytes"
                ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Run one benchmark and record it.

    Alone it starts the worker processes itself; under srun or mpirun, or where TF_CONFIG is set, it is one of them.
    """

    workload: OmitArgPrefixes[WorkloadConfig] = field(default_factory=WorkloadConfig)
    exchange: OmitArgPrefixes[ExchangeConfig] = field(default_factory=ExchangeConfig)
    numerics: OmitArgPrefixes[NumericsConfig] = field(default_factory=NumericsConfig)
    training: OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    measure: OmitArgPrefixes[MeasureConfig] = field(default_factory=MeasureConfig)
    machine: OmitArgPrefixes[MachineConfig] = field(default_factory=MachineConfig)
    output: OmitArgPrefixes[OutputConfig] = field(default_factory=OutputConfig)
    config: Path | None = None
    """TOML file of flags; what is given on the command line wins."""

    def __post_init__(self) -> None:
        if self.training.phase == "forward":
            self._refuse_what_only_trains()
        if self.training.epochs is not None and self.measure.num_iters is not None:
            raise UsageError("--epochs and --num-iters both say how long to train: give one of them")
        if self.training.save_model is not None and self.output.sweep_task is not None:
            raise UsageError("--save-model in a sweep is a file that each of its runs would replace: leave it out")

    def groups(self) -> tuple[Any, ...]:
        """The sections."""
        return self.workload, self.exchange, self.numerics, self.training, self.measure, self.machine, self.output

    def _refuse_what_only_trains(self) -> None:
        training = {each.name for each in dataclasses.fields(TrainingConfig)} - {"phase"}
        for group, only, why in (
            (self.exchange, OF_GRADIENTS, "no gradients are exchanged"),
            (self.workload, {"freeze"}, "no weights change"),
            (self.training, training, "no weights change"),
            (self.output, {"evidence"}, "there is no training to prove"),
        ):
            for each in dataclasses.fields(group):
                if each.name in only and getattr(group, each.name) != each.default:
                    name = flag(each.name)
                    raise UsageError(f"{name} has no effect with --phase forward, in which {why}: leave it out")

    def as_dict(self) -> dict[str, Any]:
        """Every setting by its flag's name, in plain JSON types."""
        return {key: _plain(value) for group in self.groups() for key, value in dataclasses.asdict(group).items()}


def parse(argv: Sequence[str]) -> RunConfig:
    """The configuration of a command line. Raises UsageError; exits as tyro does for --help."""
    known = sorted(f.name for group in RunConfig().groups() for f in dataclasses.fields(group))

    def unknown(key: str) -> str:
        return str(unknown_name("setting", key, [name.replace("_", "-") for name in known]))

    try:
        path = value_of(argv, "config")
        from_file = file_words(Path(path), "--config", known, unknown, plain=True) if path else []
        return command_line.parse(RunConfig, "python -m bench.run", [*from_file, *argv])
    except Refused as error:
        raise UsageError(str(error)) from None


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _positive(flag: str, value: int | None, most: int = _MOST) -> None:
    if value is not None and not 1 <= value <= most:
        raise UsageError(f"{flag} is {value}: give a whole number from 1 to {most}")


def _at_least(flag: str, value: float, least: float) -> None:
    if not least <= value <= _MOST:
        raise UsageError(f"{flag} is {value}: give a number from {least} to {_MOST}")
