"""Where the images of a workload come from: what memory and record files have in common. Loads no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from bench.errors import UsageError
from bench.workloads.classes import subset
from bench.workloads.datasets import DATASETS, Cache, Dataset, Shape, Split
from bench.workloads.records import RecordSet, part_of
from strategies.base import Data, Shard


class Source(Data, Protocol):
    """A split of a data set, fitted to a model's input [h, w, c]."""

    num_classes: int
    """Classes of the images."""

    def look(self) -> str | None:
        """The size (width x height) and colour of the images before they are fitted, as far as is known without reading
        them all."""

    def batches(self, shard: Shard, *, batch: int, steps: int) -> Any:
        """A tf.data.Dataset for training, as `strategies.base.Workload.build_input` describes it, of at least `steps`
        steps."""

    def evaluation_batches(self, shard: Shard, *, batch: int) -> Any:
        """A finite tf.data.Dataset in which every sample counts once: (images [batch, h, w, c] float32 in [0, 1],
        labels [batch] int32, weights [batch] float32) of one replica and one step, replicas in order within a step.

        Weights are 1, and 0 for what fills up the last batches: every replica has the same number of whole batches. A
        mean over the samples is the sum of weight x value over all replicas / `num_samples`. Nothing is random.
        """

    def evaluation_steps(self, shard: Shard, *, batch: int) -> int:
        """How many batches each replica gets."""


SETS: dict[str, Dataset | RecordSet] = {**DATASETS, "tfrecord": RecordSet()}
"""All data sets by name."""


def resolve_cache(name: str, asked: Cache | None) -> Cache:
    """Where images are kept between epochs. Raises UsageError for what has no effect on that data set."""
    caches = SETS[name].caches
    if asked is None:
        return caches[0]
    if asked not in caches:
        raise UsageError(f"--cache {asked} has no effect on dataset {name!r}, which is held in memory: leave it out")
    return asked


def check_batch(name: str, data_dir: Path | None, num_samples: int, global_batch: int) -> None:
    """Raises UsageError where a step would train an image twice; of made-up images there is no number."""
    if num_samples < global_batch and not SETS[name].made_up:
        where = f" in {str(data_dir)!r}" if data_dir is not None else ""
        raise UsageError(
            f"dataset {name!r}{where} has {num_samples} images to train and a global batch is {global_batch}: use a "
            "smaller batch (with --find-max-batch, --max-batch-size)"
        )


def open_source(
    name: str,
    data_dir: Path | None,
    shape: Shape,
    seed: int,
    split: Split = "train",
    *,
    cache: Cache | None = None,
    provable: bool = False,
    classes: tuple[int, ...] | None = None,
    count: int | None = None,
) -> Source:
    """The images of a row of SETS; of those in memory what `bench.workloads.classes.subset` takes of them. Loads
    TensorFlow.

    `rest` is what training reads while `test` is held out: the same as `train` where files of the two are apart. A
    `provable` training is the same however many processes read. Raises UsageError for a missing file and for a set
    without such a split or such images, EnvironmentFault for a file that cannot be used.
    """
    data = SETS[name]
    if isinstance(data, Dataset):
        from bench.workloads.pipeline import InMemory

        return InMemory(subset(data.load(data_dir, shape, seed, split), classes, count, seed), shape, seed)
    from bench.workloads.tfrecord import Records

    paths, index = data.find(data_dir, split), data.index(data_dir)
    kept = resolve_cache(name, cache)
    return Records(paths, index, part_of(split), shape, seed, cache=kept, by_record=provable)
