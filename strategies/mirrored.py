"""`mirrored`: tf.distribute.MirroredStrategy, several devices of one process."""

from __future__ import annotations

from typing import ClassVar

from strategies.base import Strategy, Trainer, Workload


class Mirrored(Strategy):
    """Logical CPU devices where there is no GPU; all visible GPUs unless told otherwise."""

    name = "mirrored"
    synchronous = True
    one_process = True
    requested_all_reduce: ClassVar[str | None] = "auto"

    @property
    def local_replicas(self) -> int:
        return self.resources.devices or max(1, self.resources.num_gpus)

    def connect(self) -> None:
        from strategies.devices import configure

        self._devices = configure(self.resources, self.local_replicas)

    def exchange(self, payload: bytes) -> list[bytes]:
        return [payload]

    def trainer(self, workload: Workload) -> Trainer:
        import tensorflow as tf

        from strategies.training import ReplicatedTrainer

        return ReplicatedTrainer(tf.distribute.MirroredStrategy(self._devices), workload, self.shard())
