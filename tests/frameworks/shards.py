"""Small TFRecord data sets, good ones and such with known faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import frameworks, shards
from bench.workloads.records import IMAGE, INDEX, LABEL, Part

COUNT, CLASSES = 24, 3


def write(folder: Path, *, count: int = COUNT, files: int = 4, part: Part = "train", size: int = 32) -> Path:
    """So many images in so many files."""
    frameworks.load()
    images = shards.generated(count, size, CLASSES, seed=1, part=part)
    shards.write(images, folder, part, files, num_classes=CLASSES, classes=(), seed=1)
    return folder


def records(path: Path) -> list[bytes]:
    """The records of a file."""
    import tensorflow as tf

    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def rewrite(path: Path, number: int, change: Callable[[Any], object]) -> None:
    """Writes a shard anew, with one record changed, and the index to fit it."""
    import tensorflow as tf

    held = records(path)
    example = tf.train.Example.FromString(held[number])
    change(example.features.feature)
    held[number] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in held:
            writer.write(record)
    index = json.loads((path.parent / INDEX).read_text())
    for file in (*index["files"]["train"], *index["files"]["validation"]):
        if file["name"] == path.name:
            file["size_bytes"] = path.stat().st_size
    (path.parent / INDEX).write_text(json.dumps(index))


def half_a_jpeg(features: Any) -> None:
    values = features[IMAGE].bytes_list.value
    values[0] = values[0][: len(values[0]) // 2]


def no_jpeg(features: Any) -> None:
    features[IMAGE].bytes_list.value[0] = b"nonsense"


def label(value: int) -> Callable[[Any], None]:
    def change(features: Any) -> None:
        features[LABEL].int64_list.value[0] = value

    return change


def no_label(features: Any) -> None:
    del features[LABEL]


def flip_a_bit(path: Path) -> None:
    """In the middle of the file, which keeps its size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
