"""What input costs: `python -m tests.perf.input_pipeline`.

Decoding and augmenting JPEGs of 224x224 without any training: the benchmark's pipeline for TFRecords against a plain
hand-written one, which decodes whole images and then crops, in turns, by the wall and by the time that their threads
computed, which other processes disturb less. And training on images in memory: `digits` and `mnist` (a file of its size
with generated images) against `synthetic`. Prints medians and the ratios, round by round.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from analysis.stats import typical
from bench import frameworks, shards
from bench.workloads import workload
from bench.workloads.records import IMAGE, LABEL
from bench.workloads.source import open_source
from strategies.base import NumericsConfig, Shard
from tests.perf.overhead import BATCH, CALLS, IMAGES, STEPS, our_loop

SHAPE, STORED, COUNT, FILES = (224, 224, 3), 320, 512, 8
"""Images of 320x320 pixels, about as large as what a random crop of a photograph of ImageNet is taken from."""
TAKEN, ROUNDS, TRAINED_ROUNDS = 4, 20, 40


def plain(folder: Path) -> Any:
    """What TensorFlow's guides write by hand: decode whole images, then crop, resize and flip them."""

    def train(serialized: Any) -> tuple[Any, Any]:
        wanted = {IMAGE: tf.io.FixedLenFeature([], tf.string), LABEL: tf.io.FixedLenFeature([], tf.int64)}
        features = tf.io.parse_single_example(serialized, wanted)
        image = tf.io.decode_jpeg(features[IMAGE], channels=SHAPE[2])
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image), tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), area_range=(0.08, 1.0), min_object_covered=0.1
        )
        image = tf.image.resize(tf.slice(image, begin, size), SHAPE[:2])
        image = tf.image.random_flip_left_right(image) / 255.0
        return tf.ensure_shape(image, SHAPE), tf.cast(features[LABEL], tf.int32)

    files = [str(path) for path in sorted(folder.glob("train-*"))]
    records = tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE)
    images = records.shuffle(1024).repeat().map(train, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def ours(folder: Path) -> Any:
    """The benchmark's."""
    source = open_source("tfrecord", folder, SHAPE, 1)
    return source.batches(Shard(first=0, count=1, total=1), batch=BATCH, steps=1)


def decoding(make: Callable[[Path], Any], folder: Path, clock: Callable[[], float]) -> float:
    """Images a second of that clock, of a pipeline of its own and without its start."""
    batches = iter(make(folder))
    next(batches)
    start = clock()
    for _ in range(TAKEN):
        images, *_ = next(batches)
    assert images.shape == (BATCH, *SHAPE)
    return TAKEN * BATCH / (clock() - start)


def training(dataset: str, folder: Path) -> Callable[[], float]:
    """A function that trains mnist_cnn and returns images/s."""
    job = workload(
        model="mnist_cnn",
        dataset=dataset,
        data_dir=folder,
        seed=1,
        batch_per_device=BATCH,
        global_batch=BATCH,
        steps=lambda _num_samples: (STEPS * CALLS + 1) * (TRAINED_ROUNDS + 1),
        numerics=NumericsConfig(),
    )
    loop = our_loop(job, folder / dataset, telemetry=False)
    return lambda: IMAGES / loop()


def alternate(loops: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Name -> images/s of each round; the first, which traces, is left out. Every loop gets every place in the round
    equally often."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for round_number in range(rounds + 1):
        names = list(loops)
        for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
            rate = loops[name]()
            if round_number:
                rates[name].append(rate)
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name:20} {median:8.0f} images/s (median of {rounds}, {min(values):.0f} to {max(values):.0f})")
    return rates


def compare(rates: Mapping[str, list[float]], name: str, other: str) -> None:
    """Prints the ratio of two."""
    ratio = typical([one / two for one, two in zip(rates[name], rates[other], strict=True)])
    print(f"{name} / {other}: {ratio.value:.3f} (95% interval {ratio.low:.3f} to {ratio.high:.3f})")


def main() -> int:
    """Prints a line for each comparison and returns 0."""
    frameworks.load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = shards.generated(COUNT, STORED, 10, seed=1, part="train")
        shards.write(images, folder, "train", FILES, num_classes=10, classes=(), seed=1)
        for title, clock in (("all cores", time.perf_counter), ("a second of CPU time", time.process_time)):
            print(f"{title}:")
            pipelines = {"bench": partial(decoding, ours), "plain tf.data": partial(decoding, plain)}
            loops = {name: partial(pipeline, folder, clock) for name, pipeline in pipelines.items()}
            compare(alternate(loops, ROUNDS), "bench", "plain tf.data")
        print("training mnist_cnn:")
        random = np.random.default_rng(1)
        pixels, labels = random.integers(0, 256, (60_000, 28, 28), np.uint8), random.integers(10, size=60_000)
        np.savez(folder / "mnist.npz", x_train=pixels, y_train=labels)
        rates = alternate({data: training(data, folder) for data in ("synthetic", "digits", "mnist")}, TRAINED_ROUNDS)
        for data in ("digits", "mnist"):
            compare(rates, data, "synthetic")
    return 0


if __name__ == "__main__":
    sys.exit(main())
