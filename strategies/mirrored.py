"""`mirrored`: tf.distribute.MirroredStrategy, several devices of one process."""

from __future__ import annotations

from collections.abc import Callable

from jobs.cluster import Task
from strategies.base import Strategy, Trainer, Workload


class Mirrored(Strategy):
    """Logical CPU devices where there is no GPU; all visible GPUs unless told otherwise."""

    name = "mirrored"
    synchronous = True
    one_process = True
    all_reduces = ("auto", "nccl", "hierarchical_copy", "reduction_to_one_device")

    def replicas(self, task: Task) -> int:
        return self.resources.devices or max(1, self.resources.num_gpus)

    def connect(self, exchange: Callable[[bytes], list[bytes]]) -> None:
        from strategies.devices import configure

        self._devices = configure(self.resources, self.local_replicas, self.numerics)

    def trainer(self, workload: Workload) -> Trainer:
        import tensorflow as tf

        from strategies.training import ReplicatedTrainer

        collective = {
            "auto": None,
            "nccl": tf.distribute.NcclAllReduce,
            "hierarchical_copy": tf.distribute.HierarchicalCopyAllReduce,
            "reduction_to_one_device": tf.distribute.ReductionToOneDevice,
        }[self.exchange.all_reduce]
        distribution = tf.distribute.MirroredStrategy(self._devices, cross_device_ops=collective and collective())
        return ReplicatedTrainer(distribution, workload, self.shard())
