"""`single`: one device, no distribution. The base case of every speed-up."""

from __future__ import annotations

from bench.errors import UsageError
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

    @property
    def local_replicas(self) -> int:
        return 1

    def connect(self) -> None:
        from strategies.devices import configure

        configure(self.resources, 1)

    def exchange(self, payload: bytes) -> list[bytes]:
        return [payload]

    def trainer(self, workload: Workload) -> Trainer:
        import tensorflow as tf

        from strategies.training import ReplicatedTrainer

        return ReplicatedTrainer(tf.distribute.get_strategy(), workload, self.shard())
