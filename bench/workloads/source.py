"""Where the images of a workload come from: what memory and record files have in common. Loads no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from bench.workloads.classes import subset
from bench.workloads.datasets import DATASETS, Shape, Split
from strategies.base import Data, Shard


class Source(Data, Protocol):
    """A split of a data set, fitted to a model's input [h, w, c]."""

    def batches(self, shard: Shard, *, batch: int, steps: int) -> Any:
        """A tf.data.Dataset for training, as `strategies.base.Workload.build_input` describes it, of at least `steps`
        steps."""

    def evaluation_batches(self, shard: Shard, *, batch: int) -> Any:
        """A finite tf.data.Dataset in which every sample counts once: (images [batch, h, w, c] float32 in [0, 1],
        labels [batch] int32, weights [batch] float32) of one replica and one step, replicas in order within a step.

        Weights are 1, and 0 for what fills up the last batches: every replica has the same number of whole batches. A
        mean over the samples is the sum of weight x value over all replicas / `num_samples`. Nothing is random.
        """


def open_source(
    name: str,
    data_dir: Path | None,
    shape: Shape,
    seed: int,
    split: Split = "train",
    *,
    classes: tuple[int, ...] | None = None,
    count: int | None = None,
) -> Source:
    """The images of a row of DATASETS, or those that `bench.workloads.classes.subset` takes of them. Loads TensorFlow.

    `rest` is what training reads while `test` is held out: the same as `train` where files of the two are apart. Raises
    UsageError for a missing file, for a set without such a split and for images that it lacks, EnvironmentFault for a
    file that cannot be used.
    """
    from bench.workloads.pipeline import InMemory

    return InMemory(subset(DATASETS[name].load(data_dir, shape, seed, split), classes, count, seed), shape, seed)
