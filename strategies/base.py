"""The contract between the benchmark and a distribution strategy. Loads no framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from bench.errors import UsageError
from jobs.cluster import ClusterEnv


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one process may use."""

    device_kind: str
    """cpu or gpu."""
    num_gpus: int
    """Physical GPUs this process can see; 0 when device_kind is cpu."""
    devices: int | None
    """Replicas asked for in this process; None lets the strategy choose."""
    gpu_memory_mib: int | None
    """MiB of each logical GPU; None for whole GPUs."""
    intra_op_threads: int | None
    """Threads inside an operation; None until the process's cores are known."""
    inter_op_threads: int | None
    """Operations at once; None until the process's cores are known."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of every global batch a process trains: replicas `first` to `first + count` of `total`."""

    first: int
    count: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The training to run, the same under every strategy."""

    build_model: Callable[[], Any]
    """Makes the Keras model, which ends in logits. Seeded: every call makes the same weights."""
    build_optimizer: Callable[[], Any]
    """Makes the Keras optimizer."""
    build_input: Callable[[Shard], Any]
    """Makes the tf.data pipeline of a shard: each element is (images [b, h, w, c] float32 in [0, 1], labels [b] int32)
    of one replica and one step, replicas in order within a step."""
    global_batch: int
    """Images all replicas train a step; the loss is divided by it."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What `Trainer.run` returns: values that may still be on their way from the device."""

    loss: npt.NDArray[np.float32]
    """[num_batches], each the mean over the images that this process trained in that step."""
    data_wait_s: float
    """s in which the process waited for input."""


class Trainer(Protocol):
    """A model under a strategy, ready to step."""

    model: Any
    """The Keras model, for its layers' shapes."""

    def run(self, num_batches: int) -> Callable[[], Steps]:
        """Performs optimizer steps in one compiled call; the result reads what the device made of them."""

    def synchronise(self) -> None:
        """Returns when every device of this process has finished all steps."""

    def traces(self) -> int:
        """How often the step has been traced."""

    def all_reduce(self) -> str | None:
        """The collective that exchanges gradients in the traced step; None where none are exchanged."""

    def digest(self) -> list[str]:
        """SHA-256 of the trained weights of each replica of this process."""

    def devices(self) -> list[str]:
        """The device of each replica of this process."""

    def peak_memory_bytes(self) -> int | None:
        """The framework allocator's peak since `reset_peak_memory`, of the device where it is highest."""

    def reset_peak_memory(self) -> None:
        """Forgets the peak."""


class Strategy(ABC):
    """One way to distribute training. Made for a place in a cluster; then check, connect, exchange, trainer."""

    name: ClassVar[str]
    synchronous: ClassVar[bool]
    """Every step averages the gradients of all replicas before any weight changes."""
    one_process: ClassVar[bool]
    """The strategy lives in a single process; otherwise there is one process a worker."""
    requested_all_reduce: ClassVar[str | None] = None
    """The collective asked for; None where gradients are not exchanged."""

    def __init__(self, cluster: ClusterEnv, resources: Resources) -> None:
        self.cluster = cluster
        self.resources = resources

    def check(self) -> None:
        """Raises UsageError for what this strategy cannot do here, before anything is allocated."""
        if self.one_process and self.cluster.size > 1:
            raise UsageError(
                f"strategy {self.name!r} runs in one process but {self.cluster.source} has {self.cluster.size}: start "
                "one process (srun -n 1, no --num-workers), or choose a strategy with one process a worker (mwms)"
            )
        available = self.resources.num_gpus
        wanted = self.resources.devices or 1
        if self.resources.device_kind == "gpu" and not self.resources.gpu_memory_mib and wanted > available:
            raise UsageError(
                f"--devices-per-worker {wanted} but a worker sees {available} GPU(s): ask for fewer, or share a GPU "
                "between replicas with --gpu-memory-mib"
            )

    @property
    @abstractmethod
    def local_replicas(self) -> int:
        """Replicas this process will train."""

    def shard(self) -> Shard:
        """This process's part of every global batch. Every process has as many replicas as this one."""
        count = self.local_replicas
        return Shard(first=self.cluster.rank * count, count=count, total=self.cluster.size * count)

    @abstractmethod
    def connect(self) -> None:
        """Sets up the devices and meets every peer. The framework is loaded before, and measured apart."""

    @abstractmethod
    def exchange(self, payload: bytes) -> list[bytes]:
        """Gives `payload` (at most 1 KiB) to every process and returns all of them in rank order: also a barrier."""

    @abstractmethod
    def trainer(self, workload: Workload) -> Trainer:
        """Builds model, optimizer and input where this strategy wants them."""
