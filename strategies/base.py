"""The contract between the benchmark and a distribution strategy. Loads no framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from tyro.conf import FlagCreatePairsOff

from bench.errors import UsageError
from jobs.cluster import ClusterEnv, Task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

AllReduce = Literal["auto", "ring", "nccl", "hierarchical_copy", "reduction_to_one_device"]
Precision = Literal["fp64", "fp32", "bf16", "fp16", "tf32"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExchangeConfig:
    """How gradients are exchanged."""

    all_reduce: AllReduce = "auto"
    """Collective of mirrored, mwms, central and horovod; auto leaves it to TensorFlow or Horovod."""
    parameter_device: str = "CPU:0"
    """Where central keeps the weights: CPU:0, or one of the devices that compute, such as GPU:0."""
    num_ps: int | None = None
    """Parameter servers of ps, besides its workers [processes]. None is 1."""
    controller: Literal["auto", "gloo", "mpi"] = "auto"
    """What horovod's processes talk by; auto is mpi under mpirun, else gloo."""
    fusion_threshold_mib: int | None = None
    """Gradients that horovod sends at once [MiB]; 0 sends each alone. None is Horovod's default."""
    cycle_time_ms: float | None = None
    """Time between two looks of horovod for gradients to send [ms]. None is Horovod's default."""
    compression: Literal["none", "fp16"] = "none"
    """What horovod sends gradients as."""
    hierarchical_all_reduce: FlagCreatePairsOff[bool] = False
    """horovod reduces inside each node first; GPUs only."""
    timeline: Path | None = None
    """File that horovod writes its timeline to [path]."""

    def __post_init__(self) -> None:
        if self.num_ps is not None and self.num_ps < 1:
            raise UsageError(f"--num-ps is {self.num_ps}: give a whole number of at least 1")
        if self.fusion_threshold_mib is not None and self.fusion_threshold_mib < 0:
            raise UsageError(f"--fusion-threshold-mib is {self.fusion_threshold_mib}: give 0 or more")
        if self.cycle_time_ms is not None and not self.cycle_time_ms > 0:
            raise UsageError(f"--cycle-time-ms is {self.cycle_time_ms:g}: give a number above 0")


OF_GRADIENTS = frozenset(
    {"all_reduce", "fusion_threshold_mib", "cycle_time_ms", "compression", "hierarchical_all_reduce", "timeline"}
)
"""The fields of ExchangeConfig that are about gradients alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericsConfig:
    """In which numbers the layers compute."""

    precision: Precision = "fp32"
    """Arithmetic of the layers; weights are float32, of fp64 float64. bf16 and fp16 (with dynamic loss scaling) are
    Keras's mixed precision, tf32 is TensorFloat-32 on GPUs."""
    xla: FlagCreatePairsOff[bool] = False
    """Compile forward and backward pass with XLA."""

    @property
    def dtype(self) -> str:
        """TensorFlow's name of the type of weights, gradients and losses."""
        return "float64" if self.precision == "fp64" else "float32"


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

    first: Any
    """An int, or a scalar integer tensor where one graph serves several processes."""
    count: int
    total: int


class Data(Protocol):
    """The images of a workload, as far as a run's record tells of them."""

    num_samples: int
    digest: str | None
    """Of what the files hold; None where the data set's name says it."""
    held_bytes: int
    """Of images and labels that the input pipeline keeps in the memory of the process's CPU device."""

    def sharding(self, readers: int) -> str | None:
        """How so many processes share them: by `file`, by `record`, or None where each holds all in memory."""

    def fault(self, error: Exception, deadline: float) -> str | None:
        """What in the files made the framework raise that while it read them, on one line; None where it was not they.
        Looks for it until `time.monotonic` says `deadline`."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The test images of a workload, none of which is trained."""

    num_samples: int
    held_bytes: int
    """As `Data` has them."""
    batches: Callable[[Shard], Any]
    """Makes the tf.data pipeline of a shard: each element is (images [b, h, w, c], labels [b], weights [b] float32) of
    one replica and one step, replicas in order within a step. A weight is 1 for an image that counts and 0 for one that
    fills a batch; all shards together hold every image once."""
    steps: Callable[[Shard], int]
    """Batches of each replica, the same for all of them."""
    fault: Callable[[Exception, float], str | None]
    """As of `Data`."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The training to run, the same under every strategy."""

    build_model: Callable[[], Any]
    """Makes the Keras model, which ends in logits of any float type. Seeded: every call makes the same weights."""
    build_copy: Callable[[], Any]
    """Makes a model of the same variables, whose values come from elsewhere: no file is read."""
    build_optimizer: Callable[[], Any]
    """Makes the Keras optimizer. Not called in the forward phase."""
    build_input: Callable[[Shard], Any]
    """Makes the tf.data pipeline of a shard: each element is (images [b, h, w, c] float32 in [0, 1], labels [b] int32,
    samples [b] int32, the positions of the images in the data set) of one replica and one step, replicas in order
    within a step."""
    data: Data
    """What the input is made from."""
    global_batch: int
    """Images all replicas train a step."""
    numerics: NumericsConfig
    provable: bool
    """The fields of `Steps` that prove the training are wanted."""
    forward: bool
    """A step is the forward pass alone, as in inference: no gradients, no exchange, no update."""
    held_out: HeldOut | None = None
    """What the model is evaluated on; None where it is not."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model makes of test images."""

    num_correct: int
    """Images whose largest logit is that of their label."""
    num_samples: int
    """Images."""
    loss_sum: float
    """Of their cross-entropies."""

    @property
    def accuracy(self) -> float:
        """The part that is right."""
        return self.num_correct / self.num_samples

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return self.loss_sum / self.num_samples


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What `Trainer.run` returns: values that may still be on their way from the device."""

    loss: npt.NDArray[np.floating[Any]]
    """[num_batches], each the mean over the images that this process trained in that step."""
    data_wait_s: float
    """s in which the process waited for input."""
    compute_s: float
    """s from having a step's input to having the gradients of this process's slowest replica, before they are
    exchanged; in the forward phase, to having its loss."""
    samples: npt.NDArray[np.int32] | None = None
    """[num_batches, images]: what was trained. Where the workload is provable."""
    projections: npt.NDArray[np.floating[Any]] | None = None
    """[num_batches, weights]: of each weight's gradient, summed over the replicas of this process: the sum of its
    elements g_i x cos(i mod 1000), i counting in row-major order. Where the workload is provable."""
    worker: WorkerClock | None = None
    """Where another process performed the steps."""

    @classmethod
    def of(cls, loss: Any, data_wait_s: Any, compute_s: Any, samples: Any = None, projections: Any = None) -> Steps:
        """Steps that this process performed, of what the compiled call returned."""
        return cls(
            loss=loss,
            data_wait_s=float(data_wait_s),
            compute_s=float(compute_s),
            samples=samples,
            projections=projections,
        )


@dataclass(frozen=True, kw_only=True)
class WorkerClock:
    """When which other process performed steps, by its own clock."""

    rank: int
    t_start_ns: int
    duration_s: float


class Trainer(Protocol):
    """A model under a strategy, ready to step."""

    model: Any
    """The Keras model, for its layers' shapes."""
    lookahead: int
    """Calls of `run` that may be under way when the next is made: 0 unless other processes perform the steps."""

    def run(self, num_batches: int) -> Callable[[], Sequence[Steps]]:
        """Performs steps in one compiled call of each process that it drives, itself or others; the result
        reads what the devices made of them."""

    def synchronise(self) -> None:
        """Returns when every device of this process has finished all steps."""

    def evaluate(self) -> Evaluation:
        """The test images that belong to this process, or all where it drives others, by the model as it is now, in
        inference. No step may be under way. Waits for no other process, and changes nothing that is trained."""

    def save(self, path: Path) -> None:
        """Writes the model's weights (`.weights.h5`) or the model (`.keras`) as Keras does, as one replica has them."""

    def traces(self) -> int:
        """How often the step has been traced."""

    def all_reduce(self) -> str | None:
        """The collective that exchanges gradients in the traced step; None where none are exchanged."""

    def weights(self, replica: int) -> list[npt.NDArray[np.floating[Any]]]:
        """The trained weights of a replica of this process, in the model's order."""

    def updates(self) -> int:
        """How often the optimizer has changed the weights."""

    def devices(self) -> list[str]:
        """The device of each replica of this process."""

    def slot_bytes(self) -> int | None:
        """Bytes of the optimizer's own variables, of one replica; None where another process holds them."""

    def peak_memory_bytes(self) -> int | None:
        """The framework allocator's peak since `reset_peak_memory`, of the device where it is highest."""

    def reset_peak_memory(self) -> None:
        """Forgets the peak. Raises ValueError where the allocator keeps no statistics."""


class Strategy(ABC):
    """One way to distribute training. Made for a place in a cluster; then check, connect, trainer, close."""

    name: ClassVar[str]
    synchronous: ClassVar[bool]
    """Every step averages the gradients of all replicas before any weight changes."""
    one_model: ClassVar[bool] = True
    """All replicas train the same weights."""
    one_process: ClassVar[bool]
    """The strategy lives in a single process; otherwise there is one process a worker."""
    all_reduces: ClassVar[Sequence[AllReduce]] = ()
    """What `--all-reduce` may ask for; empty where gradients are not all-reduced."""
    knobs: ClassVar[frozenset[str]] = frozenset()
    """The other fields of ExchangeConfig that have an effect."""
    least_inter_op_threads: ClassVar[int] = 1
    """With fewer, processes that wait for each other can use up all threads and wait for ever."""
    peer_errors: ClassVar[Sequence[str]] = ()
    """By these words the framework says that it is another process that has failed."""
    no_xla: ClassVar[str | None] = None
    """Why XLA cannot compile a step of this strategy."""
    no_disk_cache: ClassVar[str | None] = None
    """Why input cannot be kept in a folder of the process that reads it."""

    def __init__(
        self, cluster: ClusterEnv, resources: Resources, exchange: ExchangeConfig, numerics: NumericsConfig
    ) -> None:
        self.cluster = cluster
        self.resources = resources
        self.exchange = exchange
        self.numerics = numerics

    @classmethod
    def roles(cls, num_workers: int, exchange: ExchangeConfig) -> list[str]:
        """The role of every process of a job with so many workers, in rank order."""
        return ["worker"] * num_workers

    @classmethod
    def trains(cls, task: Task) -> bool:
        """Whether a process in that role computes gradients; otherwise it coordinates or serves."""
        return True

    def check(self) -> None:
        """Raises UsageError for what this strategy cannot do here, before anything is allocated."""
        if self.one_process and self.cluster.size > 1:
            raise UsageError(
                f"strategy {self.name!r} runs in one process but {self.cluster.source} has {self.cluster.size}: start "
                "one process (srun -n 1, no --num-workers), or choose a strategy with one process a worker (mwms)"
            )
        strangers = {task.role for task in self.cluster.tasks} - set(self.roles(1, self.exchange)) - {"chief"}
        if strangers:
            raise UsageError(f"strategy {self.name!r} has no role {strangers.pop()!r}: leave it out of TF_CONFIG")
        available = self.resources.num_gpus
        wanted = self.resources.devices or 1
        if self.resources.device_kind == "gpu" and not self.resources.gpu_memory_mib and wanted > available:
            raise UsageError(
                f"--devices-per-worker {wanted} but a worker sees {available} GPU(s): ask for fewer, or share a GPU "
                "between replicas with --gpu-memory-mib"
            )
        threads, least = self.resources.inter_op_threads, self.least_inter_op_threads
        if threads is not None and threads < least:
            raise UsageError(
                f"--inter-op-threads {threads} is too few for strategy {self.name!r}, whose processes could wait for "
                f"each other for ever: give {least} or more, or leave it out"
            )
        self._check_exchange()
        if self.numerics.precision == "tf32" and self.resources.device_kind != "gpu":
            raise UsageError("--precision tf32 is NVIDIA GPUs' arithmetic, but this run uses the CPU: use fp32 or bf16")
        if self.numerics.xla and self.no_xla:
            raise UsageError(f"--xla has no effect under strategy {self.name!r}: {self.no_xla}")

    def _check_exchange(self) -> None:
        asked = self.exchange.all_reduce
        if asked != "auto" and asked not in self.all_reduces:
            has = f"it has {', '.join(self.all_reduces)}" if self.all_reduces else "it has no all-reduce to choose"
            raise UsageError(f"--all-reduce {asked} is nothing for strategy {self.name!r}: {has}")
        if asked == "nccl" and self.resources.device_kind != "gpu":
            others = " or ".join(name for name in self.all_reduces if name != "nccl")
            raise UsageError(f"--all-reduce nccl needs NVIDIA GPUs, and this run uses the CPU: use {others}")
        for field in fields(self.exchange):
            if field.name in (*self.knobs, "all_reduce") or getattr(self.exchange, field.name) == field.default:
                continue
            flag = "--" + field.name.replace("_", "-")
            raise UsageError(f"{flag} has no effect under strategy {self.name!r}: leave it out")

    @property
    def requested_all_reduce(self) -> str | None:
        """The collective asked for; None where gradients are not all-reduced."""
        return self.exchange.all_reduce if self.all_reduces else None

    @property
    def num_ps(self) -> int:
        """Parameter servers of the job."""
        return sum(task.role == "ps" for task in self.cluster.tasks)

    @abstractmethod
    def replicas(self, task: Task) -> int:
        """Replicas that a process of the job trains."""

    @property
    def local_replicas(self) -> int:
        """Replicas this process trains."""
        return self.replicas(self.cluster.task)

    def shard(self) -> Shard:
        """This process's part of every global batch."""
        counts = [self.replicas(task) for task in self.cluster.tasks]
        rank = self.cluster.rank
        return Shard(first=sum(counts[:rank]), count=counts[rank], total=sum(counts))

    @abstractmethod
    def connect(self, exchange: Callable[[bytes], list[bytes]]) -> None:
        """Sets up the devices and joins the other processes, which have met and are all alive.

        `exchange` gives a few bytes to every process and returns all of them in rank order; every process calls it
        equally often. The framework is loaded before, and measured apart.
        """

    @abstractmethod
    def trainer(self, workload: Workload) -> Trainer | None:
        """Builds model, optimizer and input where this strategy wants them; None in a process that serves others."""

    def close(self) -> None:  # noqa: B027 most strategies have nothing to leave
        """Leaves the other processes. All of them call it at the same time."""
