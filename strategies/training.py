"""The one training step, compiled once, under any tf.distribute strategy. Loads TensorFlow.

Keras 3's `fit` fails under several workers (keras issues 20585, 20329), so the loop is ours: several optimizer steps
in one `tf.function` call, losses divided by the batch whose gradients are summed, gradients summed by the strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from strategies.base import Evaluation, Shard, Steps, Workload
from strategies.devices import CPU_ALLOCATOR
from strategies.evaluation import Evaluator, save

_COLLECTIVES = ("CollectiveReduce", "NcclAllReduce")

_REDUCTIONS = {
    "NcclAllReduce": "nccl",
    "HierarchicalCopyAllReduce": "hierarchical_copy",
    "ReductionToOneDevice": "reduction_to_one_device",
}
"""TensorFlow's classes that add up the gradients of one process's devices -> our names."""

_CLOCK_DEVICE = "CPU:0"
"""Where clocks are read and reckoned with."""

_FIRST_SCALE, _STEPS_TO_GROW = 2.0**15, 2000
"""Of dynamic loss scaling, as Keras's LossScaleOptimizer has them."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A gradient exchange that is not the distribution's own."""

    average: Callable[[list[tf.Tensor]], list[tf.Tensor]]
    """Each replica's gradients, in the order of the weights -> their mean over all replicas, the same on each."""
    name: str | None
    """The collective; None where there is nobody to exchange with."""


class ReplicatedTrainer:
    """`strategies.base.Trainer` for replicas that all step together."""

    lookahead = 0

    def __init__(
        self, distribution: tf.distribute.Strategy, workload: Workload, shard: Shard, exchange: Exchange | None = None
    ) -> None:
        self._distribution = distribution
        self._exchange = exchange
        # Where the runtime puts what each replica of this process does; its own lists differ from strategy to strategy.
        probes = distribution.run(lambda: tf.zeros([]))
        self._placed = [str(probe.device) for probe in distribution.experimental_local_results(probes)]
        self._images_of_step = workload.global_batch * shard.count // shard.total
        with distribution.scope():
            self.model = workload.build_model()
            self._optimizer = build_optimizer(workload, self.model)
        # Of an input that might end, the workers ask each other before every step whether all have some left.
        self._iterator = iter(
            distribution.distribute_datasets_from_function(lambda _context: workload.build_input(shard).repeat())
        )
        self._build_copy = workload.build_copy
        held_out = workload.held_out
        self._evaluator = Evaluator(distribution, self.model, held_out, shard) if held_out else None
        self._steps = compile_steps(
            distribution,
            self.model,
            self._optimizer,
            workload,
            images_of_update=workload.global_batch * distribution.num_replicas_in_sync // shard.total,
            exchange=exchange,
        )

    def variables(self) -> list[tf.Variable]:
        """All that training changes: of the model and of the optimizer."""
        of_optimizer = [] if self._optimizer is None else self._optimizer.variables
        return [variable.value for variable in (*self.model.variables, *of_optimizer)]

    def run(self, num_batches: int) -> Callable[[], Sequence[Steps]]:
        loss_sums, *clocks_and_proof = self._steps(self._iterator, tf.constant(num_batches))

        def read() -> Sequence[Steps]:
            return [Steps.of(loss_sums.numpy() / self._images_of_step, *(part.numpy() for part in clocks_and_proof))]

        return read

    def synchronise(self) -> None:
        # A function call returns when its kernels are queued; on a GPU they are still running then.
        for device in self._placed:
            with tf.device(device):
                tf.raw_ops.SyncDevice()

    def evaluate(self) -> Evaluation:
        assert self._evaluator is not None, "the workload has no test images"
        return self._evaluator.evaluate()

    def save(self, path: Path) -> None:
        save(self._build_copy, (self._copies(variable)[0].numpy() for variable in self.model.variables), path)

    def traces(self) -> int:
        return int(self._steps.experimental_get_tracing_count())

    def all_reduce(self) -> str | None:
        """Read from the traced graph: a collective op with the hint it carries. Where there is none, the object that
        the runtime adds up gradients with says what it is."""
        if self._exchange is not None:
            return self._exchange.name
        graph = self._steps.get_concrete_function(self._iterator, tf.TensorSpec([], tf.int32)).graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        for node in nodes:
            if node.op.startswith(_COLLECTIVES):
                hint = node.attr["communication_hint"].s.decode() if "communication_hint" in node.attr else ""
                # The runtime resolves "auto" to NCCL for a group of GPUs and to its own ring for everything else.
                return hint if hint not in ("", "auto") else "nccl" if "GPU" in self.devices()[0] else "ring"
        if self._distribution.num_replicas_in_sync == 1 or self._optimizer is None:
            return None
        return _REDUCTIONS[type(self._distribution.extended._cross_device_ops).__name__]  # no public name

    def weights(self, replica: int) -> list[npt.NDArray[np.floating[Any]]]:
        return [self._copies(variable)[replica].numpy() for variable in self.model.trainable_variables]

    def updates(self) -> int:
        return 0 if self._optimizer is None else int(self._optimizer.iterations.numpy())

    def slot_bytes(self) -> int | None:
        if self._optimizer is None:
            return 0
        slots = [variable.value for variable in self._optimizer.variables]
        return sum(int(slot.dtype.size * slot.shape.num_elements()) for slot in slots)

    def devices(self) -> list[str]:
        return [device.rpartition("device:")[2] for device in self._placed]

    def peak_memory_bytes(self) -> int | None:
        return max(int(tf.config.experimental.get_memory_info(device)["peak"]) for device in self._allocators())

    def reset_peak_memory(self) -> None:
        for device in self._allocators():
            try:
                tf.config.experimental.reset_memory_stats(device)
            except ValueError as error:
                raise ValueError(f"{error}; {CPU_ALLOCATOR[0]}=1 chooses an allocator that counts") from None

    def _copies(self, variable: Any) -> Sequence[Any]:
        """The weight of each replica; one that all replicas share is each one's own."""
        copies: Sequence[Any] = self._distribution.experimental_local_results(variable.value)
        return copies if len(copies) > 1 else [copies[0]] * len(self._placed)

    def _allocators(self) -> list[str]:
        # All logical CPU devices of a process share one allocator, which answers to CPU:0 alone.
        return sorted({"CPU:0" if "CPU" in device else device for device in self.devices()})


def build_optimizer(workload: Workload, model: Any) -> Any:
    """The optimizer with its variables, to be called in the distribution's scope; None in the forward phase."""
    if workload.forward:
        return None
    optimizer = workload.build_optimizer()
    optimizer.build(model.trainable_variables)
    return optimizer


def compile_steps(
    distribution: tf.distribute.Strategy,
    model: Any,
    optimizer: Any,
    workload: Workload,
    *,
    images_of_update: int,
    exchange: Exchange | None,
) -> Any:
    """A tf.function (iterator, num_batches) -> (loss sums [num_batches], s of waiting for input, s of computing
    gradients), followed by samples and projections (`strategies.base.Steps`) where the workload is provable.

    It performs optimizer steps of the replicas of one process, each on the mean gradient of `images_of_update` images:
    those of all replicas whose gradients the distribution sums. Without an optimizer it performs forward passes.
    """
    one_pass = _one_pass(model, workload, images_of_update)
    scaled = workload.numerics.precision == "fp16" and optimizer is not None
    dtype = workload.numerics.dtype
    # Outside the distribution's scope: replicas get the scale as an argument and never write it.
    scale_now = tf.Variable(_FIRST_SCALE if scaled else 1.0, trainable=False)
    steps_since = tf.Variable(0, trainable=False)

    # The loop below needs AutoGraph; this does not, and rewriting all that it calls would double the time of tracing.
    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def replica_step(
        images: tf.Tensor, labels: tf.Tensor, received: tf.Tensor, scale: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        # Computing waits for the clock below, else the executor may start it first and call that a data wait.
        with tf.control_dependencies([received]):
            images = tf.identity(images)
        loss_sum, gradients = one_pass(images, labels, scale)
        computed = _time_of(gradients, loss_sum)  # nothing below waits for it
        if exchange is not None:
            gradients = exchange.average(gradients)
        overflows = tf.constant(0.0)
        if scaled:
            gradients, overflows = _unscale(gradients, scale)
        proof = _projections(gradients) if workload.provable else tf.constant(0.0)
        return loss_sum, computed, overflows, proof, gradients

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def replica_update(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(gradients, model.trainable_variables)

    @tf.function  # type: ignore[untyped-decorator]
    def steps(iterator: Any, num_batches: tf.Tensor) -> tuple[tf.Tensor, ...]:
        loss_sums = tf.TensorArray(dtype, size=num_batches)
        seen = tf.TensorArray(tf.int32, size=num_batches)
        projected = tf.TensorArray(dtype, size=num_batches)
        data_wait_s, compute_s = tf.constant(0.0, tf.float64), tf.constant(0.0, tf.float64)
        scale, since = scale_now.read_value(), steps_since.read_value()
        for step in tf.range(num_batches):
            # One step at a time: asking for the next batch during this one would hide or invent data waits.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                images, labels, samples = next(iterator)
            local = distribution.experimental_local_results
            with tf.control_dependencies([*local(images), *local(labels)]):
                received = tf.timestamp()
            data_wait_s += received - asked
            sums, computed, overflows, projections, gradients = distribution.run(
                replica_step, args=(images, labels, received, scale)
            )
            with tf.device(_CLOCK_DEVICE):
                compute_s += tf.reduce_max(local(computed)) - received
            loss_sums = loss_sums.write(step, tf.add_n(local(sums)))
            if workload.provable:
                seen = seen.write(step, tf.concat(local(samples), 0))
                projected = projected.write(step, tf.add_n(local(projections)))
            if scaled:
                scale, since = _next_scale(scale, since, local(overflows)[0])
                # Here, where all replicas are one, is the place to leave an update out: no replica may do so alone,
                # and gradients of 0 would not do, for momentum moves the weights without any.
                if tf.equal(local(overflows)[0], 0.0):
                    distribution.run(replica_update, args=(gradients,))
            elif optimizer is not None:
                distribution.run(replica_update, args=(gradients,))
        if scaled:
            scale_now.assign(scale)
            steps_since.assign(since)
        proof = (seen.stack(), projected.stack()) if workload.provable else ()
        return loss_sums.stack(), data_wait_s, compute_s, *proof

    return steps


def _one_pass(model: Any, workload: Workload, images_of_update: int) -> Any:
    """A function (images, labels, loss scale) of a replica -> (sum of its losses, its gradients: in the forward phase
    none)."""
    # Keras variables are wrappers; the tape wants TensorFlow's own.
    weights = [variable.value for variable in model.trainable_variables]
    scaled = workload.numerics.precision == "fp16"

    def loss_sum_of(images: tf.Tensor, labels: tf.Tensor, *, training: bool) -> tf.Tensor:
        logits = tf.cast(model(images, training=training), workload.numerics.dtype)
        return tf.reduce_sum(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))

    def forward(images: tf.Tensor, labels: tf.Tensor, _scale: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return loss_sum_of(images, labels, training=False), []

    def backward(images: tf.Tensor, labels: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        # Of its own accord the tape watches frozen weights, too, and traces their part of the backward pass.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss_sum = loss_sum_of(images, labels, training=True)
            loss = loss_sum / images_of_update
            if scaled:
                loss *= scale
        return loss_sum, tape.gradient(loss, weights)

    chosen = forward if workload.forward else backward
    return tf.function(chosen, jit_compile=True) if workload.numerics.xla else chosen


def _time_of(gradients: list[tf.Tensor], loss_sum: tf.Tensor) -> tf.Tensor:
    """s since 1970 when a replica had computed all its gradients."""
    with tf.control_dependencies(gradients):
        last = tf.identity(loss_sum)
    # On a GPU an operation is done when its kernel is queued. A value that the CPU asks for after all of them were
    # queued arrives when they have run; the loss is a scalar, so that costs next to nothing.
    with tf.device(_CLOCK_DEVICE):
        read = tf.identity(last)
        with tf.control_dependencies([read]):
            return tf.timestamp()


def _projections(gradients: list[tf.Tensor]) -> tf.Tensor:
    """[weights], see `strategies.base.Steps.projections`."""
    flat = [tf.reshape(gradient, [-1]) for gradient in gradients]
    waves = [tf.cos(tf.cast(tf.range(tf.size(part)) % 1000, part.dtype)) for part in flat]
    return tf.stack([tf.reduce_sum(part * wave) for part, wave in zip(flat, waves, strict=True)])


def _unscale(gradients: list[tf.Tensor], scale: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
    """(gradients, how many of all replicas overflowed), known to all; if any did, there must be no update.

    Keras's LossScaleOptimizer decides this in a branch that tf.distribute cannot enter together.
    """
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
    mine = 1.0 - tf.cast(finite, tf.float32)
    overflows = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, mine)
    return [gradient / scale for gradient in gradients], overflows


def _next_scale(scale: tf.Tensor, since: tf.Tensor, overflows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(scale, steps since it last changed) after a step: halved by an overflow, doubled by a long time without."""
    overflowed = overflows > 0
    grow = tf.logical_and(tf.logical_not(overflowed), since + 1 >= _STEPS_TO_GROW)
    changed = tf.where(overflowed, tf.maximum(scale / 2.0, 1.0), tf.where(grow, scale * 2.0, scale))
    return changed, tf.where(tf.logical_or(overflowed, grow), 0, since + 1)
