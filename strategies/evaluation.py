"""The one evaluation, compiled once, and the one way to save, under any tf.distribute strategy. Loads TensorFlow.

Nothing here is a collective: each process counts what its replicas see, and whoever drives the processes adds up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from strategies.base import Evaluation, HeldOut, Shard

Counts = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Images recognised and images, both int64, and the sum of the images' cross-entropies, float64."""


class Evaluator:
    """Evaluates the model on a shard of the test images, with the replicas of this process."""

    def __init__(self, distribution: tf.distribute.Strategy, model: Any, images: HeldOut, shard: Shard) -> None:
        self._steps = images.steps(shard)
        # Endless, for the reason that training's input is: after its steps it stands at the first image again.
        self._iterator = iter(
            distribution.distribute_datasets_from_function(lambda _context: images.batches(shard).repeat())
        )
        self._count = _compile_counting(distribution, model)

    def evaluate(self) -> Evaluation:
        return _evaluation([self._count(self._iterator, tf.constant(self._steps))])

    def traces(self) -> int:
        """How often the evaluation has been traced."""
        return int(self._count.experimental_get_tracing_count())


class RemoteEvaluator:
    """Evaluates the model on all test images, each batch by whichever worker of a coordinator is free."""

    _MOST_UNDER_WAY = 4
    """Batches for each worker that wait in memory or are on their way."""

    def __init__(self, coordinator: Any, model: Any, images: HeldOut, num_workers: int) -> None:
        self._batches = images.batches(Shard(first=0, count=1, total=1))
        self._coordinator = coordinator
        self._most = num_workers * self._MOST_UNDER_WAY

        @tf.function  # type: ignore[untyped-decorator]
        def count(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> Counts:
            return _counted(model, images, labels, weights)

        self._count = count

    def evaluate(self) -> Evaluation:
        under_way: deque[Any] = deque()
        counts = []
        for batch in self._batches:
            under_way.append(self._coordinator.schedule(self._count, args=batch))
            if len(under_way) == self._most:
                counts.append(under_way.popleft().fetch())
        return _evaluation([*counts, *(each.fetch() for each in under_way)])


def save(build_model: Callable[[], Any], values: Iterable[Any], path: Path) -> None:
    """Writes a model with these values of its variables, weights alone where the name says so.

    A copy that belongs to no strategy is saved: what Keras would ask of a strategy's variables on the way, some answer
    by asking the other processes.
    """
    with tf.device("CPU:0"):
        copy = build_model()
        for variable, value in zip(copy.variables, values, strict=True):
            variable.assign(value)
    if path.name.endswith(".weights.h5"):
        copy.save_weights(path)
    else:
        copy.save(path)


def _compile_counting(distribution: tf.distribute.Strategy, model: Any) -> Any:
    """A tf.function (iterator, number of batches of each replica) -> Counts of all replicas of this process."""

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def of_replica(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> Counts:
        return _counted(model, images, labels, weights)

    @tf.function  # type: ignore[untyped-decorator]
    def count(iterator: Any, num_batches: tf.Tensor) -> Counts:
        correct, samples, loss_sum = tf.constant(0, tf.int64), tf.constant(0, tf.int64), tf.constant(0, tf.float64)
        for _ in tf.range(num_batches):
            counts = distribution.run(of_replica, args=next(iterator))
            found = [tf.add_n(distribution.experimental_local_results(part)) for part in counts]
            correct, samples, loss_sum = correct + found[0], samples + found[1], loss_sum + found[2]
        return correct, samples, loss_sum

    return count


def _counted(model: Any, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> Counts:
    """Of a batch in which images of weight 0 do not count."""
    logits = tf.cast(model(images, training=False), tf.float32)
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    # What fills a batch may be anything, and 0 x infinity is no number.
    losses = tf.where(weights > 0, losses, tf.zeros_like(losses))
    right = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), tf.cast(labels, tf.int32))
    return (
        tf.reduce_sum(tf.cast(tf.logical_and(right, weights > 0), tf.int64)),
        tf.reduce_sum(tf.cast(weights, tf.int64)),
        tf.reduce_sum(tf.cast(losses, tf.float64)),
    )


def _evaluation(counts: Iterable[Counts]) -> Evaluation:
    rows = [[part.numpy() if hasattr(part, "numpy") else part for part in each] for each in counts]
    correct, samples, losses = zip(*rows, strict=True)
    return Evaluation(num_correct=int(sum(correct)), num_samples=int(sum(samples)), loss_sum=float(sum(losses)))
