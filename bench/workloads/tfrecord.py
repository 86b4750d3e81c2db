"""The tf.data input pipeline over TFRecord shards of images. Loads TensorFlow.

Files are read in parallel and in turn, records are shuffled before they are decoded, and only the crop that is trained
is decoded. Where an image stands and how it is changed follows from the seed, the epoch and the image alone.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import tensorflow as tf

from bench.errors import gist
from bench.workloads.datasets import Cache
from bench.workloads.decoding import decode, whole
from bench.workloads.records import IMAGE, LABEL, Index, Part, describe_images, sharding
from results.text import printable
from strategies.base import Shard

_OPEN_FILES = 16
"""That are read in turn: records that follow each other come from so many files."""
_SHUFFLED = 1024
"""Records among which the next is drawn; of records that are kept in memory, all."""
_LEAST_AREA, _LEAST_COVERED, _ASPECTS = 0.08, 0.1, (3 / 4, 4 / 3)
"""The crop that is trained: at least this part of the image's area, this width / height (Szegedy et al., 2015)."""
_RANDOM = ("crop", "flip")
"""What is drawn for an image: that many pairs of numbers, met once in a run, begin sequences of their own."""
_CENTRE = 0.875
"""The crop that is evaluated: this part of the largest centred one, 224 of 256 pixels (Krizhevsky et al., 2012)."""
_READ_BYTES = 1 << 20
_CHECKED_AHEAD = 64
"""Records that wait to be checked, so that all cores decode and few records are in memory."""
_DATA_ERRORS = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError)


class Records:
    """`bench.workloads.source.Source` of a part of the shards that an index names."""

    def __init__(
        self,
        paths: Sequence[Path],
        index: Index,
        part: Part,
        shape: tuple[int, int, int],
        seed: int,
        *,
        cache: Cache = "none",
        by_record: bool = False,
    ) -> None:
        """`by_record`: every process reads all, so that what is trained does not depend on how many there are."""
        self._paths = [str(path) for path in paths]
        self._counts = [file.records for file in index.files[part]]
        self._firsts = [0, *accumulate(self._counts)][:-1]
        self._label_offset, self._num_classes = index.label_offset, index.num_classes
        self._shape, self._seed, self._cache, self._by_record = shape, seed, cache, by_record
        self._read: list[tuple[Shard, bool]] = []
        self.num_samples = sum(self._counts)
        self.num_classes = index.num_classes
        self.digest: str | None = index.digest(part)
        self.held_bytes = 0

    def sharding(self, readers: int) -> str | None:
        return "record" if self._by_record else sharding(self._counts, readers)

    def batches(self, shard: Shard, *, batch: int, steps: int) -> Any:
        """As `Source` says, without end."""
        self._read.append((shard, True))
        records, count = self._of_shard(shard, shuffle=True, cache=self._cache)
        records = self._own(records.repeat().enumerate(), shard, batch)

        def train(place: tf.Tensor, record: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            sample, serialized = record
            encoded, label = self._parse(sample, serialized)
            seed = tf.stack([self._seed * (1 << 31) + place // count, sample * len(_RANDOM)])
            return self._augmented(encoded, seed), label, tf.cast(sample, tf.int32)

        images = records.map(train, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return images.batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def evaluation_batches(self, shard: Shard, *, batch: int) -> Any:
        self._read.append((shard, False))
        records, count = self._of_shard(shard, shuffle=False)

        def centre(_place: tf.Tensor, record: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            encoded, label = self._parse(*record)
            return decode(encoded, self._centre, self._shape), label, tf.constant(1.0)

        def nothing(_place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            return tf.zeros(self._shape), tf.constant(0), tf.constant(0.0)

        images = self._own(records.enumerate(), shard, batch)
        images = images.map(centre, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        replicas = shard.count if self._by_file(shard) else shard.total
        places = tf.data.Dataset.range(count, self.evaluation_steps(shard, batch=batch) * replicas * batch)
        filling = self._own(places, shard, batch).map(nothing)
        return images.concatenate(filling).batch(batch, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def evaluation_steps(self, shard: Shard, *, batch: int) -> int:
        if not self._by_file(shard):
            return -(-self.num_samples // (shard.total * batch))
        return -(-max(self._shares(shard)) // (shard.count * batch))

    def fault(self, error: Exception, deadline: float) -> str | None:
        """Looks for it in the order of reading. None for errors that files do not make."""
        if "No space left on device" in str(error) and self._cache == "disk":
            return (
                f"--cache disk: {tempfile.gettempdir()!r} is full, and {self.num_samples:,} records were to be kept: "
                "name a larger place with TMPDIR, or use --cache memory"
            )
        if not isinstance(error, _DATA_ERRORS):
            return None
        try:
            for shard, shuffle in self._read:
                for known in _shards(shard):
                    if found := self._search(known, shuffle, deadline):
                        return f"data file cannot be used: {found}. Fetch it again"
        except _Late:
            return f"{_said(error)}: if a data file is why, python -m bench.data check names it"
        except tf.errors.OpError as other:
            return f"data files cannot be read: {_said(other)}"
        return None

    def look(self) -> str | None:
        """Of the first record; None where it cannot be read."""
        try:
            with tf.device("CPU:0"):
                for serialized in tf.data.TFRecordDataset(self._paths[:1]).take(1):
                    encoded, _ = self._parse(tf.constant(0, tf.int64), serialized)
                    first = tf.io.decode_image(encoded, expand_animations=False)
                    return f"from {describe_images([first.shape])}"
        except _DATA_ERRORS:  # training says which record
            return None
        return None

    def problem(self, serialized: bytes) -> str | None:
        """What is wrong with a record: None if training and evaluation can read and decode all of it."""
        try:
            self._try(tf.constant(serialized))
        except _DATA_ERRORS as error:
            return self._diagnose(serialized) or f"holds no image that can be decoded ({_said(error)})"
        return None

    @cached_property
    def _try(self) -> Any:
        """A tf.function that does what training does with a record, and decodes the whole of its image."""

        def read(serialized: tf.Tensor) -> tf.Tensor:
            encoded, _ = self._parse(tf.constant(0, tf.int64), serialized)
            return decode(encoded, whole, self._shape)

        return tf.function(read, input_signature=[tf.TensorSpec([], tf.string)])

    def _diagnose(self, serialized: bytes) -> str | None:
        """What is wrong with a record, its image aside."""
        example = tf.train.Example()
        try:
            example.ParseFromString(serialized)
        except Exception as error:  # whatever protobuf's implementation raises
            return f"is no tf.train.Example ({type(error).__name__})"
        features = example.features.feature
        images, labels = features[IMAGE].bytes_list.value, features[LABEL].int64_list.value
        if len(images) != 1 or len(labels) != 1:
            return f"holds {len(images)} {IMAGE!r} and {len(labels)} {LABEL!r}, not one of each"
        if not 0 <= labels[0] - self._label_offset < self._num_classes:
            last = self._label_offset + self._num_classes - 1
            return f"has label {labels[0]}, not one of {self._label_offset} to {last}"
        return None

    def faults(self) -> Iterator[str]:
        """Every record that cannot be trained, in the order of the files. All cores decode."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pending: deque[tuple[str, Future[str | None]]] = deque()
            for place, problem in self._checks(pool):
                pending.append((place, problem))
                if len(pending) > _CHECKED_AHEAD:
                    yield from _outcome(*pending.popleft())
            for place, problem in pending:
                yield from _outcome(place, problem)

    def _checks(self, pool: ThreadPoolExecutor) -> Iterator[tuple[str, Future[str | None]]]:
        """The place and the problem of each record; a file ends where it is corrupt."""
        for path in self._paths:
            number = 0
            try:
                for serialized in tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES):
                    yield f"{path!r}, record {number}", pool.submit(self.problem, serialized.numpy())
                    number += 1
            except tf.errors.DataLossError as error:
                corrupt: Future[str | None] = Future()
                corrupt.set_result(_said(error))
                yield f"{path!r}, record {number}", corrupt

    def _of_shard(self, shard: Shard, *, shuffle: bool, cache: Cache = "none") -> tuple[tf.data.Dataset, Any]:
        """(position in the data set, record) of what a process reads once, and how many they are."""
        paths = tf.constant(self._paths), tf.constant(self._firsts, tf.int64)
        files = tf.data.Dataset.from_tensor_slices(paths)
        count: Any = self.num_samples
        if self._by_file(shard):
            readers = shard.total // shard.count
            reader = shard.first // shard.count
            files = files.shard(readers, tf.cast(reader, tf.int64))
            count = tf.constant(self._shares(shard), tf.int64)[reader]
        if shuffle:
            files = files.shuffle(len(self._paths), seed=self._seed)
        records = files.interleave(
            lambda path, first: tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES).enumerate(first),
            cycle_length=min(_OPEN_FILES, len(self._paths)),
            block_length=1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if cache == "memory":
            records = records.cache()
        elif cache == "disk":
            records = records.cache(str(Path(tempfile.gettempdir()) / f"records-{os.getpid()}"))
        if shuffle:
            among = self.num_samples if cache == "memory" else _SHUFFLED
            records = records.shuffle(min(among, self.num_samples), seed=self._seed)
        return records, tf.cast(count, tf.int64)

    def _own(self, placed: tf.data.Dataset, shard: Shard, batch: int) -> tf.data.Dataset:
        """Of elements that begin with their place in what a process reads, those that its replicas take."""
        if self._by_file(shard) or shard.count == shard.total:
            return placed

        def mine(place: tf.Tensor, *_: Any) -> tf.Tensor:
            replica = tf.cast((place // batch) % shard.total - tf.cast(shard.first, tf.int64), tf.int64)
            return tf.logical_and(replica >= 0, replica < shard.count)

        return placed.filter(mine)

    def _by_file(self, shard: Shard) -> bool:
        return shard.total % shard.count == 0 and self.sharding(shard.total // shard.count) == "file"

    def _shares(self, shard: Shard) -> list[int]:
        """Records of each process."""
        readers = shard.total // shard.count
        return [sum(self._counts[reader::readers]) for reader in range(readers)]

    def _parse(self, sample: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        wanted = {IMAGE: tf.io.FixedLenFeature([], tf.string), LABEL: tf.io.FixedLenFeature([], tf.int64)}
        features = tf.io.parse_single_example(serialized, wanted)
        label = features[LABEL] - self._label_offset
        good = tf.logical_and(label >= 0, label < self._num_classes)
        # On a GPU a label that is no class would make the loss NaN, and nothing would say why.
        with tf.control_dependencies([tf.debugging.Assert(good, ["a label out of range in record", sample])]):
            return features[IMAGE], tf.cast(label, tf.int32)

    def _augmented(self, encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A random crop, resized (bilinear) and flipped half of the time."""

        def crop(size: tf.Tensor) -> tf.Tensor:
            begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
                size,
                bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
                seed=seed,
                min_object_covered=_LEAST_COVERED,
                aspect_ratio_range=_ASPECTS,
                area_range=(_LEAST_AREA, 1.0),
                use_image_if_no_bounding_boxes=True,
            )
            return tf.stack([begin[0], begin[1], extent[0], extent[1]])

        image = decode(encoded, crop, self._shape)
        flip = tf.random.stateless_uniform([], tf.stack([seed[0], seed[1] + 1])) < 0.5  # noqa: PLR2004
        return tf.raw_ops.Reverse(tensor=image, dims=tf.stack([False, flip, False]))  # one copy, if any

    def _centre(self, size: tf.Tensor) -> tf.Tensor:
        """The window in the middle of an image, with the width / height of the model's input."""
        height, width, _ = self._shape
        sides = tf.cast(size[:2], tf.float32)
        scale = _CENTRE * tf.minimum(sides[0] / height, sides[1] / width)
        high, wide = (tf.cast(tf.maximum(tf.round(scale * side), 1.0), tf.int32) for side in (height, width))
        return tf.stack([(size[0] - high) // 2, (size[1] - wide) // 2, high, wide])

    def _search(self, shard: Shard, shuffle: bool, deadline: float) -> str | None:
        """The first record in the order of reading that cannot be trained, and why. Raises _Late."""
        records, _ = self._of_shard(shard, shuffle=shuffle)
        try:
            for sample, serialized in _until(deadline, records):
                if what := self.problem(serialized.numpy()):
                    return f"{self._place(int(sample))}: {what}"
        except tf.errors.DataLossError:  # which does not say in what file
            for path in self._paths:
                number = 0
                try:
                    for _ in _until(deadline, tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES)):
                        number += 1
                except tf.errors.DataLossError as error:
                    return f"{path!r}, record {number}: {_said(error)}"
        return None

    def _place(self, sample: int) -> str:
        file = max(index for index, first in enumerate(self._firsts) if first <= sample)
        return f"{self._paths[file]!r}, record {sample - self._firsts[file]}"


def _outcome(place: str, problem: Future[str | None]) -> Iterator[str]:
    if what := problem.result():
        yield f"{place}: {what}"


def _shards(shard: Shard) -> list[Shard]:
    """The shard, or all where which it is was only known where it was read."""
    if isinstance(shard.first, int):
        return [shard]
    firsts = range(0, shard.total, shard.count)
    return [Shard(first=first, count=shard.count, total=shard.total) for first in firsts]


class _Late(Exception):
    """The time for a search is over."""


def _until(deadline: float, records: tf.data.Dataset) -> Iterator[Any]:
    for record in records:
        if time.monotonic() > deadline:
            raise _Late
        yield record


def _said(error: tf.errors.OpError) -> str:
    """What happened, without where in TensorFlow."""
    return printable(re.sub(r"\{\{.*?\}\} *| *\[Op:.*", "", gist(error.message)))
