"""`mwms`: tf.distribute.MultiWorkerMirroredStrategy, one process a worker; and `independent`, the same processes
without gradient exchange: what the workers could do if communication were free."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from bench.errors import UsageError
from jobs.cluster import Task
from strategies.base import AllReduce, Strategy, Trainer, Workload


class MultiWorkerMirrored(Strategy):
    """TF_CONFIG is always written from the cluster, so what joins is what `jobs.cluster` understood."""

    name = "mwms"
    synchronous = True
    one_process = False
    all_reduces: ClassVar[Sequence[AllReduce]] = ("auto", "ring", "nccl")
    peer_errors = ("Collective ops is aborted by", "UnavailableError")
    _distribution: Any

    def check(self) -> None:
        super().check()
        if self.resources.device_kind == "cpu" and (self.resources.devices or 1) > 1:
            raise UsageError(
                f"strategy {self.name!r} trains one replica a worker on CPUs, so --devices-per-worker "
                f"{self.resources.devices} has no effect: use --num-workers {self.resources.devices}, or mirrored"
            )

    def replicas(self, task: Task) -> int:
        return self.resources.devices or max(1, self.resources.num_gpus)

    def connect(self, exchange: Callable[[bytes], list[bytes]]) -> None:
        import tensorflow as tf

        from strategies.devices import configure

        configure(self.resources, self.local_replicas, self.numerics)
        if self.cluster.size > 1:
            os.environ["TF_CONFIG"] = self.cluster.tf_config()
        else:
            os.environ.pop("TF_CONFIG", None)
        implementation = tf.distribute.experimental.CommunicationImplementation(self.exchange.all_reduce.upper())
        options = tf.distribute.experimental.CommunicationOptions(implementation=implementation)
        self._distribution = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)

    def trainer(self, workload: Workload) -> Trainer:
        from strategies.training import ReplicatedTrainer

        return ReplicatedTrainer(self._distribution, workload, self.shard())


class Independent(MultiWorkerMirrored):
    """Connects as mwms does, so that start, end and resources are the same, and trains each worker for itself."""

    name = "independent"
    synchronous = False
    one_model = False
    all_reduces = ()

    def check(self) -> None:
        super().check()
        if self.local_replicas > 1:
            raise UsageError(
                f"strategy 'independent' trains one device a worker, not {self.local_replicas}: start a worker for "
                "each device, with --devices-per-worker 1"
            )

    def trainer(self, workload: Workload) -> Trainer:
        import tensorflow as tf

        from strategies.training import ReplicatedTrainer

        return ReplicatedTrainer(tf.distribute.get_strategy(), workload, self.shard())
