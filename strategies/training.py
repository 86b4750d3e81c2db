"""The one training step, compiled once, under any tf.distribute strategy. Loads TensorFlow.

Keras 3's `fit` fails under several workers (keras issues 20585, 20329), so the loop is ours: several optimizer steps
in one `tf.function` call, losses divided by the global batch, gradients summed over replicas by the strategy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from strategies.base import Shard, Steps, Workload

_COLLECTIVES = ("CollectiveReduce", "NcclAllReduce")


class ReplicatedTrainer:
    """`strategies.base.Trainer` for a tf.distribute strategy whose replicas all step together."""

    def __init__(self, distribution: tf.distribute.Strategy, workload: Workload, shard: Shard) -> None:
        self._distribution = distribution
        self._images_of_step = workload.global_batch * shard.count // shard.total
        with distribution.scope():
            self.model = workload.build_model()
            self._optimizer = workload.build_optimizer()
            self._optimizer.build(self.model.trainable_variables)
        self._iterator = iter(
            distribution.distribute_datasets_from_function(lambda _context: workload.build_input(shard))
        )
        self._steps = self._compile(workload.global_batch)

    def run(self, num_batches: int) -> Callable[[], Steps]:
        loss_sums, data_wait_s = self._steps(tf.constant(num_batches))
        return lambda: Steps(loss=loss_sums.numpy() / self._images_of_step, data_wait_s=float(data_wait_s.numpy()))

    def synchronise(self) -> None:
        # A function call returns when its kernels are queued; on a GPU they are still running then.
        for device in self._full_devices():
            with tf.device(device):
                tf.raw_ops.SyncDevice()

    def traces(self) -> int:
        return int(self._steps.experimental_get_tracing_count())

    def all_reduce(self) -> str | None:
        """Read from the traced graph: a collective op with the hint it carries, or the copy-and-add that a
        single-process reduction leaves behind."""
        graph = self._steps.get_concrete_function(tf.TensorSpec([], tf.int32)).graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        for node in nodes:
            if node.op.startswith(_COLLECTIVES):
                hint = node.attr["communication_hint"].s.decode() if "communication_hint" in node.attr else ""
                # The runtime resolves "auto" to NCCL for a group of GPUs and to its own ring for everything else.
                return hint if hint not in ("", "auto") else "nccl" if "GPU" in self.devices()[0] else "ring"
        return "reduction_to_one_device" if self._distribution.num_replicas_in_sync > 1 else None

    def digest(self) -> list[str]:
        replicas: list[Any] = [hashlib.sha256() for _ in self.devices()]
        for variable in self.model.trainable_variables:
            copies = self._distribution.experimental_local_results(variable.value)
            for replica, copy in zip(replicas, copies, strict=True):
                replica.update(np.ascontiguousarray(copy.numpy()).data)
        return [replica.hexdigest() for replica in replicas]

    def devices(self) -> list[str]:
        return [device.rpartition("device:")[2] for device in self._full_devices()]

    def peak_memory_bytes(self) -> int | None:
        return max(int(tf.config.experimental.get_memory_info(device)["peak"]) for device in self._allocators())

    def reset_peak_memory(self) -> None:
        for device in self._allocators():
            tf.config.experimental.reset_memory_stats(device)

    def _full_devices(self) -> list[str]:
        # Devices of this process only: under several workers TensorFlow's own list holds everybody's.
        copies = self._distribution.experimental_local_results(self.model.trainable_variables[0].value)
        return [str(copy.device) for copy in copies]

    def _allocators(self) -> list[str]:
        # All logical CPU devices of a process share one allocator, which answers to CPU:0 alone.
        return sorted({"CPU:0" if "CPU" in device else device for device in self.devices()})

    def _compile(self, global_batch: int) -> Any:
        distribution, iterator, model, optimizer = self._distribution, self._iterator, self.model, self._optimizer
        # Keras variables are wrappers; the tape wants TensorFlow's own.
        weights = [variable.value for variable in model.trainable_variables]

        def replica_step(images: tf.Tensor, labels: tf.Tensor, received: tf.Tensor) -> tf.Tensor:
            # Computing waits for the clock below, else the executor may start it first and call that a data wait.
            with tf.control_dependencies([received]):
                images = tf.identity(images)
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
                loss_sum = tf.reduce_sum(tf.cast(losses, tf.float32))
                loss = loss_sum / global_batch
            optimizer.apply(tape.gradient(loss, weights), model.trainable_variables)
            return loss_sum

        @tf.function  # type: ignore[untyped-decorator]
        def steps(num_batches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            loss_sums = tf.TensorArray(tf.float32, size=num_batches)
            data_wait_s = tf.constant(0.0, tf.float64)
            for step in tf.range(num_batches):
                # One step at a time: asking for the next batch during this one would hide or invent data waits.
                tf.autograph.experimental.set_loop_options(parallel_iterations=1)
                asked = tf.timestamp()
                with tf.control_dependencies([asked]):
                    images, labels = next(iterator)
                parts = distribution.experimental_local_results(images)
                with tf.control_dependencies([*parts, *distribution.experimental_local_results(labels)]):
                    received = tf.timestamp()
                data_wait_s += received - asked
                sums = distribution.run(replica_step, args=(images, labels, received))
                loss_sums = loss_sums.write(step, tf.add_n(distribution.experimental_local_results(sums)))
            return loss_sums.stack(), data_wait_s

        return steps
