"""The tf.data input pipelines over images in memory. Loads TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from bench.errors import UsageError
from bench.workloads.datasets import Images
from bench.workloads.order import evaluation_batches, global_batches
from bench.workloads.records import describe_images
from strategies.base import Shard

_MAX_RESIZED_BYTES = 4 << 30
_CHUNK = 512
_GRAY, _RGB = 1, 3
_SCALE = 1.0 / 255.0


class InMemory:
    """`bench.workloads.source.Source` of images that all processes hold whole."""

    def __init__(self, data: Images, shape: tuple[int, int, int], seed: int) -> None:
        self._images, self._labels = fit_to_model(data, shape)
        self._look = describe_images([data.pixels.shape[1:]])
        self.num_classes = len(np.unique(data.labels))
        self._seed = seed
        self.num_samples = len(self._labels)
        self.digest: str | None = None
        self.held_bytes = self._images.nbytes + self._labels.nbytes

    def sharding(self, readers: int) -> str | None:
        return None

    def look(self) -> str | None:
        return self._look

    def fault(self, error: Exception, deadline: float) -> str | None:
        return None

    def batches(self, shard: Shard, *, batch: int, steps: int) -> Any:
        return image_batches(self._images, self._labels, shard, batch=batch, steps=steps, seed=self._seed)

    def evaluation_batches(self, shard: Shard, *, batch: int) -> Any:
        samples, weights = evaluation_batches(self.num_samples, shard.total, batch)
        mine = tuple(_of_shard(part, shard, batch) for part in (samples, weights))
        all_images, all_labels = tf.constant(self._images), tf.constant(self._labels)

        def gather(samples: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            pixels = tf.cast(tf.gather(all_images, samples), tf.float32)
            return pixels * _SCALE, tf.gather(all_labels, samples), weights

        return _prefetched(tf.data.Dataset.from_tensor_slices(mine), gather)

    def evaluation_steps(self, shard: Shard, *, batch: int) -> int:
        return -(-self.num_samples // (shard.total * batch))


def fit_to_model(data: Images, shape: tuple[int, int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Images resized (bilinear) and turned gray or RGB as the model's input [h, w, c] wants, once, and their labels.

    Raises UsageError where the resized images would not fit into 4 GiB.
    """
    images = data.pixels
    if images.shape[1:] == shape:
        return images, data.labels
    size = len(images) * int(np.prod(shape))
    if size > _MAX_RESIZED_BYTES:
        raise UsageError(
            f"{len(images)} images resized to {shape} take {size / 2**30:.1f} GiB, more than 4: "
            "choose a model with smaller input, or --dataset synthetic"
        )
    fitted = np.empty((len(images), *shape), np.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = tf.image.resize(tf.constant(images[start : start + _CHUNK]), shape[:2])
        if (images.shape[3], shape[2]) == (_GRAY, _RGB):
            chunk = tf.image.grayscale_to_rgb(chunk)
        elif (images.shape[3], shape[2]) == (_RGB, _GRAY):
            chunk = tf.image.rgb_to_grayscale(chunk)
        fitted[start : start + _CHUNK] = np.rint(chunk.numpy()).astype(np.uint8)
    return fitted, data.labels


def image_batches(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    shard: Shard,
    *,
    batch: int,
    steps: int,
    seed: int,
) -> Any:
    """A tf.data.Dataset of `steps` steps of a shard: (images [batch, h, w, c] float32 in [0, 1], labels [batch],
    their positions in `images` [batch]).

    Whole batches are gathered from memory by index, so the cost is a copy and a cast, and prefetched.
    """
    order = global_batches(len(images), seed, steps, shard.total, batch)
    all_images, all_labels = tf.constant(images), tf.constant(labels)

    def gather(samples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels = tf.cast(tf.gather(all_images, samples), tf.float32)
        return pixels * _SCALE, tf.gather(all_labels, samples), samples

    return _prefetched(tf.data.Dataset.from_tensor_slices(_of_shard(order, shard, batch)), gather)


def _of_shard(batches: npt.NDArray[Any], shard: Shard, batch: int) -> tf.Tensor:
    """[steps * shard.count, batch]: the shard's rows of every global batch, replicas in order within a step."""
    return tf.reshape(tf.constant(batches)[:, shard.first : shard.first + shard.count], (-1, batch))


def _prefetched(batches: tf.data.Dataset, gather: Any) -> tf.data.Dataset:
    return batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
