"""`single`: one device, no distribution. The base case of every speed-up."""

from __future__ import annotations

from collections.abc import Callable

from bench.errors import UsageError
from jobs.cluster import Task
from strategies.base import Strategy, Trainer, Workload


class Single(Strategy):
    """TensorFlow's default strategy on the first device."""

    name = "single"
    synchronous = True
    one_process = True

    def check(self) -> None:
        super().check()
        if self.resources.devices not in (None, 1):
            raise UsageError(
                f"strategy 'single' trains on one device, not --devices-per-worker {self.resources.devices}: "
                "leave the flag out, or choose mirrored"
            )

    def replicas(self, task: Task) -> int:
        return 1

    def connect(self, exchange: Callable[[bytes], list[bytes]]) -> None:
        from strategies.devices import configure

        configure(self.resources, 1, self.numerics)

    def trainer(self, workload: Workload) -> Trainer:
        import tensorflow as tf

        from strategies.training import ReplicatedTrainer

        return ReplicatedTrainer(tf.distribute.get_strategy(), workload, self.shard())
