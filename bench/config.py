"""The whole configuration of a run: frozen, keyword-only, saved with the result. Defaults live here and nowhere else.

Each group is a section of `--help`; the text under a field is its help. A TOML file gives the same names without the
dashes: `num-iters = 20` or `num_iters = 20`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from bench.errors import UsageError, unknown_name
from strategies.base import ExchangeConfig, NumericsConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_PORT = 65535


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadConfig:
    """What is trained."""

    strategy: str = "single"
    """How training is distributed: single, independent, mirrored, mwms, central, ps or horovod."""
    model: str = "mnist_cnn"
    """Model: mnist_cnn, cifar_cnn, vgg16, vgg19 or vgg16_cifar."""
    dataset: str = "synthetic"
    """Images: synthetic, digits, mnist, fashion_mnist or cifar10."""
    data_dir: Path | None = None
    """Folder of the mnist, fashion_mnist and cifar10 files; never downloaded into [path]. None is Keras's cache."""
    batch_size: int | None = None
    """Images a device and step [images], for weak scaling. None is 64 unless --global-batch-size is given."""
    global_batch_size: int | None = None
    """Images all devices together and step [images], for strong scaling. Excludes --batch-size."""
    seed: int = 1
    """Seed of weights, dropout, synthetic images and sample order."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.global_batch_size is not None:
            raise UsageError("--batch-size (per device) and --global-batch-size exclude each other: give one of them")
        _positive("--batch-size", self.batch_size)
        _positive("--global-batch-size", self.global_batch_size)
        _at_least("--seed", self.seed, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureConfig:
    """How it is measured."""

    num_warmup_batches: int = 10
    """Steps before the timed ones, recorded and flagged [steps]. The first traces and compiles."""
    num_batches_per_iter: int = 10
    """Steps in one compiled call [steps]; the clock is read after each call."""
    num_iters: int = 10
    """Timed iterations [calls]."""
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
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Kind of device; auto is gpu where the NVIDIA driver shows one."""
    devices_per_worker: int | None = None
    """Replicas in each process [devices]: GPUs, or logical CPU devices. None is every GPU, or 1 CPU device."""
    cores_per_device: int | None = None
    """CPU cores a replica may use [cores]; workers are pinned. None shares all cores between the workers."""
    gpu_memory_mib: int | None = None
    """Memory of each logical GPU [MiB], so that several replicas share a GPU. None is whole GPUs."""
    intra_op_threads: int | None = None
    """Threads inside an operation, a process [threads]. None is one a core of the process."""
    inter_op_threads: int | None = None
    """Operations at once, a process [threads]. None is one a core of the process."""
    port_base: int | None = None
    """First port of the local workers, one each from there on. None takes free ones."""
    timeout: float = 3600.0
    """Bound on the whole run [s]; then every process is ended, exit 124."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "devices_per_worker", "cores_per_device", "gpu_memory_mib"):
            _positive(_flag(name), getattr(self, name))
        _positive("--intra-op-threads", self.intra_op_threads)
        _positive("--inter-op-threads", self.inter_op_threads)
        if self.port_base is not None and not 1 <= self.port_base <= _MAX_PORT - (self.num_workers or 1) + 1:
            raise UsageError(f"--port-base is {self.port_base}: every worker's port must be within 1 to {_MAX_PORT}")
        if not self.timeout > 0:
            raise UsageError(f"--timeout is {self.timeout:g}: give a number of seconds above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """What is kept and printed."""

    experiment: str = "default"
    """Name that groups runs in the store."""
    label: str | None = None
    """Your name for this configuration. None is made of strategy, model and devices."""
    results_dir: Path = Path("results/data")
    """Where the tables are kept [path]."""
    evidence: Path | None = None
    """Folder for what bench.verify compares: losses, samples and weights of every rank [path]; dropout is off."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print the resolved configuration and the launch plan; start nothing."""
    json: FlagCreatePairsOff[bool] = False
    """Print one machine-readable line last."""
    debug: FlagCreatePairsOff[bool] = False
    """Show tracebacks and every line that the frameworks log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Run one benchmark and record it.

    Alone it starts the worker processes itself; under srun or mpirun, or where TF_CONFIG is set, it is one of them.
    """

    workload: OmitArgPrefixes[WorkloadConfig] = field(default_factory=WorkloadConfig)
    exchange: OmitArgPrefixes[ExchangeConfig] = field(default_factory=ExchangeConfig)
    numerics: OmitArgPrefixes[NumericsConfig] = field(default_factory=NumericsConfig)
    measure: OmitArgPrefixes[MeasureConfig] = field(default_factory=MeasureConfig)
    machine: OmitArgPrefixes[MachineConfig] = field(default_factory=MachineConfig)
    output: OmitArgPrefixes[OutputConfig] = field(default_factory=OutputConfig)
    config: Path | None = None
    """TOML file of flags; what is given on the command line wins."""

    def groups(self) -> tuple[Any, ...]:
        """The sections."""
        return self.workload, self.exchange, self.numerics, self.measure, self.machine, self.output

    def as_dict(self) -> dict[str, Any]:
        """Every setting by its flag's name, in plain JSON types."""
        return {key: _plain(value) for group in self.groups() for key, value in dataclasses.asdict(group).items()}


def parse(argv: Sequence[str]) -> RunConfig:
    """The configuration of a command line. Raises UsageError; exits as tyro does for --help."""
    path = _config_path(argv)
    from_file = _flags_of(Path(path)) if path else []
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(RunConfig, prog="python -m bench.run", args=[*from_file, *argv])
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box for people; here an error is one line.
        words = re.sub(r"[^\x20-\x7e]+", " ", said.getvalue().replace("\n", " ")).partition("For full helptext")[0]
        raise UsageError(f"{' '.join(words.split())}; see --help") from None


def _config_path(argv: Sequence[str]) -> str | None:
    for word, after in itertools.pairwise([*argv, None]):
        if word == "--config":
            return after
        if word and word.startswith("--config="):
            return word.partition("=")[2]
    return None


def _flags_of(path: Path) -> list[str]:
    """The settings of a TOML file as flags, to stand before those of the command line, which then win."""
    try:
        settings = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--config {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {str(path)!r} is not TOML: {error}") from None
    known = {_flag(f.name) for group in RunConfig().groups() for f in dataclasses.fields(group)}
    flags: list[str] = []
    for key, value in settings.items():
        flag = _flag(key)
        if flag not in known:
            raise UsageError(f"{path}: {unknown_name('setting', key, sorted(name[2:] for name in known))}")
        if isinstance(value, dict | list):
            raise UsageError(f"{path}: {key} is {value!r}: a setting has one value")
        # A switch is there or not; everything else carries its value in the same word, which may start with a dash.
        flags += ([flag] if value else []) if isinstance(value, bool) else [f"{flag}={value}"]
    return flags


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _positive(flag: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{flag} is {value}: give a whole number of at least 1")


def _at_least(flag: str, value: float, least: float) -> None:
    if not value >= least:
        raise UsageError(f"{flag} is {value}: give a number of at least {least}")
