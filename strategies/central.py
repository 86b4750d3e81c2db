"""`central`: tf.distribute.experimental.CentralStorageStrategy, several devices and one copy of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.errors import UsageError
from jobs.cluster import Task
from strategies.base import Strategy, Trainer, Workload


class CentralStorage(Strategy):
    """Parameters on one device; all devices fetch them each step and send their gradients there."""

    name = "central"
    synchronous = True
    one_process = True
    all_reduces = ("auto", "reduction_to_one_device")
    knobs = frozenset({"parameter_device"})
    no_xla = "each device reads weights that live on another"

    def check(self) -> None:
        super().check()
        kind = self.resources.device_kind.upper()
        devices = dict.fromkeys(["CPU:0", *(f"{kind}:{index}" for index in range(self.local_replicas))])
        # TensorFlow takes any name, and silently uses the CPU for a GPU that is not there.
        if self.exchange.parameter_device not in devices:
            raise UsageError(
                f"--parameter-device {self.exchange.parameter_device} is no device of this run: it has "
                f"{', '.join(devices)}"
            )

    def replicas(self, task: Task) -> int:
        return self.resources.devices or max(1, self.resources.num_gpus)

    def connect(self, exchange: Callable[[bytes], list[bytes]]) -> None:
        from strategies.devices import configure

        self._devices = configure(self.resources, self.local_replicas, self.numerics)

    def trainer(self, workload: Workload) -> Trainer:
        import tensorflow as tf

        from strategies.training import ReplicatedTrainer

        # Left alone it takes one device where there is no GPU.
        distribution = tf.distribute.experimental.CentralStorageStrategy(
            compute_devices=self._devices, parameter_device=self.exchange.parameter_device
        )
        build_model = workload.build_model
        workload = replace(workload, build_model=lambda: _with_state_of_first_replica(build_model))
        return ReplicatedTrainer(distribution, workload, self.shard())


def _with_state_of_first_replica(build_model: Callable[[], Any]) -> Any:
    """The model, with the state of its random layers and running means kept by the first replica.

    Keras says of such variables that they are not aggregated, and CentralStorageStrategy then refuses to let any
    replica change them ("You must specify an aggregation method"): Dropout and BatchNormalization would fail.
    """
    import tensorflow as tf

    def create(next_creator: Callable[..., Any], **wanted: Any) -> Any:
        if not wanted.get("trainable", True) and wanted.get("aggregation") in (None, tf.VariableAggregation.NONE):
            wanted["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return next_creator(**wanted)

    with tf.variable_creator_scope(create):
        return build_model()
