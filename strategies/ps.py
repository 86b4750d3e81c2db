"""`ps`: tf.distribute.ParameterServerStrategy. Rank 0 coordinates, workers compute, parameter servers keep the weights.

Asynchronous: every worker's gradient is applied as it arrives, to weights that others may have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from jobs.cluster import Task
from strategies.base import Evaluation, ExchangeConfig, Shard, Steps, Strategy, Trainer, WorkerClock, Workload

_MOST_GRAPH_BYTES = (2 << 30) - (16 << 20)
"""A protocol buffer holds 2 GiB: of images and labels, the order in which they are read, and the rest of a graph."""


class ParameterServer(Strategy):
    """One coordinator, `--num-ps` parameter servers, and a worker for each device."""

    name = "ps"
    synchronous = False
    one_process = False
    knobs = frozenset({"num_ps"})
    least_inter_op_threads = 8
    peer_errors = ("UnavailableError", "AbortedError", "CancelledError", "from remote target")
    no_xla = "the weights that the step reads live on other hosts"
    no_disk_cache = "the coordinator builds the workers' input and knows no folder of theirs"

    @classmethod
    def roles(cls, num_workers: int, exchange: ExchangeConfig) -> list[str]:
        return ["chief", *["worker"] * num_workers, *["ps"] * (exchange.num_ps or 1)]

    def check(self) -> None:
        super().check()
        if (self.resources.devices or 1) > 1:
            raise UsageError(
                f"strategy 'ps' trains one device a worker, so --devices-per-worker {self.resources.devices} has no "
                f"effect: use --num-workers {self.resources.devices}"
            )
        roles = [task.role for task in self.cluster.tasks]
        if roles.count("chief") != 1 or not roles.count("worker") or not self.num_ps:
            raise UsageError(
                f"strategy 'ps' needs one chief (the coordinator), a worker and a ps; {self.cluster.source} has "
                f"{len(roles)} process(es): {', '.join(f'{roles.count(r)} {r}' for r in ('chief', 'worker', 'ps'))}"
            )
        if self.exchange.num_ps not in (None, self.num_ps):
            raise UsageError(
                f"--num-ps {self.exchange.num_ps}, but {self.cluster.source} names {self.num_ps}: leave the flag out"
            )

    @classmethod
    def trains(cls, task: Task) -> bool:
        return task.role == "worker"

    def replicas(self, task: Task) -> int:
        return int(self.trains(task))

    def connect(self, exchange: Callable[[bytes], list[bytes]]) -> None:
        import tensorflow as tf

        from strategies.devices import configure

        configure(self.resources, self.local_replicas, self.numerics)
        cluster = tf.train.ClusterSpec(json.loads(self.cluster.tf_config())["cluster"])
        if self.cluster.task.role != "chief":
            self._server = _serve(cluster, json.loads(self.cluster.tf_config())["task"], self.resources)
        exchange(b"")  # the servers listen
        if self.cluster.task.role == "chief":
            resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
            self._distribution = tf.distribute.ParameterServerStrategy(resolver)

    def trainer(self, workload: Workload) -> Trainer | None:
        if self.cluster.task.role != "chief":
            return None
        _check_size(workload.data.held_bytes)
        if workload.held_out:
            _check_size(workload.held_out.held_bytes)
        total = self.shard().total
        ranks = [rank for rank, task in enumerate(self.cluster.tasks) if task.role == "worker"]
        return CoordinatedTrainer(self._distribution, workload, total, ranks)


def _check_size(held_bytes: int) -> None:
    """Raises UsageError for images that the coordinator cannot send to the workers within the graph of their input."""
    if held_bytes > _MOST_GRAPH_BYTES:
        raise UsageError(
            f"images and labels take {held_bytes / 2**30:.2f} GiB, more than the 2 of a graph, in which strategy 'ps' "
            "sends them to its workers: choose a model with smaller input, --dataset synthetic, or another strategy"
        )


def _serve(cluster: Any, task: dict[str, Any], resources: Any) -> Any:
    """A server of this process: a thread in which the coordinator's work is done until the process ends."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=resources.intra_op_threads,
        inter_op_parallelism_threads=resources.inter_op_threads,
    )
    if task["type"] == "ps" or resources.device_kind == "cpu":
        config.device_count["GPU"] = 0
    config.gpu_options.allow_growth = True
    return tf.distribute.Server(
        cluster, job_name=task["type"], task_index=task["index"], config=config, protocol="grpc"
    )


class CoordinatedTrainer:
    """`strategies.base.Trainer` whose steps other processes perform, each at its own pace."""

    lookahead = 2
    """Enough work lies ready that no worker waits for the coordinator to hear of the last."""

    def __init__(self, distribution: Any, workload: Workload, num_workers: int, worker_ranks: Sequence[int]) -> None:
        import tensorflow as tf

        from strategies.evaluation import RemoteEvaluator
        from strategies.training import build_optimizer, compile_steps

        self._ranks = worker_ranks
        self._images_of_step = workload.global_batch // num_workers
        with distribution.scope():
            self.model = workload.build_model()
            self._optimizer = build_optimizer(workload, self.model)
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(distribution)
        which_worker = tf.distribute.coordinator.experimental_get_current_worker_index

        def input_of_worker(_context: Any) -> Any:
            # A fast worker takes more turns than a slow one, so no worker's input may end.
            return workload.build_input(Shard(first=which_worker(), count=1, total=num_workers)).repeat()

        self._inputs = iter(
            self._coordinator.create_per_worker_dataset(
                tf.function(lambda: distribution.distribute_datasets_from_function(input_of_worker))
            )
        )
        steps = compile_steps(
            distribution,
            self.model,
            self._optimizer,
            workload,
            images_of_update=self._images_of_step,
            exchange=None,
        )

        @tf.function  # type: ignore[untyped-decorator]
        def turn(iterator: Any, num_batches: Any) -> Any:
            start = tf.timestamp()
            with tf.control_dependencies([start]):
                loss_sums, *clocks_and_proof = steps(iterator, num_batches)
            with tf.control_dependencies([loss_sums]):
                end = tf.timestamp()
            return which_worker(), start, end, loss_sums, *clocks_and_proof

        self._turn = turn
        self._build_copy = workload.build_copy
        held_out = workload.held_out
        self._evaluator = RemoteEvaluator(self._coordinator, self.model, held_out, num_workers) if held_out else None

    def run(self, num_batches: int) -> Callable[[], Sequence[Steps]]:
        """A turn for each worker; who takes it is decided when it comes up."""
        import tensorflow as tf

        batches = tf.constant(num_batches)
        turns = [self._coordinator.schedule(self._turn, args=(self._inputs, batches)) for _ in self._ranks]
        return lambda: [self._steps_of(turn.fetch()) for turn in turns]

    def synchronise(self) -> None:
        """A turn is over when it can be fetched."""

    def evaluate(self) -> Evaluation:
        assert self._evaluator is not None, "the workload has no test images"
        return self._evaluator.evaluate()

    def save(self, path: Path) -> None:
        from strategies.evaluation import save

        save(self._build_copy, (variable.value.numpy() for variable in self.model.variables), path)

    def traces(self) -> int:
        return int(self._turn.experimental_get_tracing_count())

    def all_reduce(self) -> str | None:
        return None

    def weights(self, replica: int) -> list[Any]:
        return [variable.value.numpy() for variable in self.model.trainable_variables]

    def updates(self) -> int:
        return 0 if self._optimizer is None else int(self._optimizer.iterations.numpy())

    def slot_bytes(self) -> int | None:
        return None

    def devices(self) -> list[str]:
        return []

    def peak_memory_bytes(self) -> int | None:
        return None

    def reset_peak_memory(self) -> None:
        """The workers' memory is not this process's to reset."""

    def _steps_of(self, fetched: Any) -> Steps:
        worker, start, end, loss_sums, *clocks_and_proof = fetched
        return replace(
            Steps.of(loss_sums / self._images_of_step, *clocks_and_proof),
            worker=WorkerClock(
                rank=self._ranks[int(worker)], t_start_ns=round(start * 1e9), duration_s=float(end - start)
            ),
        )
