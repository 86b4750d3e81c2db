"""A part of a data set: some of its classes, some of its images."""

from __future__ import annotations

import re

import numpy as np

from bench.errors import UsageError
from bench.workloads.datasets import Images

_FEWEST = 2


def chosen_classes(text: str | None, dataset: str, num_classes: int) -> tuple[int, ...] | None:
    """The classes of a data set that --classes names: '0-2,7' -> (0, 1, 2, 7); None are all.

    Raises UsageError for what names none, a class twice, a single one, or one that the data set lacks.
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:\s*-\s*([0-9]{1,6}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UsageError(f"--classes is {text!r}: give classes and ranges of them, such as 0-4 or 1,3,5-7")
        if last >= num_classes:
            raise UsageError(
                f"--classes is {text!r}, but dataset {dataset!r} has the classes 0 to {num_classes - 1}: choose among "
                "them"
            )
        found += range(first, last + 1)
    if len({*found}) < len(found):
        raise UsageError(f"--classes {text!r} names a class twice: name each once")
    if len(found) < _FEWEST:
        raise UsageError(f"--classes {text!r} is a single class, which leaves nothing to tell apart: give two or more")
    return tuple(sorted(found))


def subset(images: Images, classes: tuple[int, ...] | None, count: int | None, seed: int) -> Images:
    """The images of some classes, which become 0, 1, ... in their order; of them the `count` that come first in an
    order that the seed gives. None are all.

    Raises UsageError for a class without images, and for more images than there are.
    """
    if classes is not None:
        kept = np.flatnonzero(np.isin(images.labels, classes))
        labels = np.searchsorted(classes, images.labels[kept]).astype(np.int32)
        if absent := {*range(len(classes))} - {*labels.tolist()}:
            raise UsageError(f"the data hold no image of class {classes[min(absent)]}: choose other --classes")
        images = Images(images.pixels[kept], labels)
    if count is None:
        return images
    if count > len(images.labels):
        raise UsageError(f"--num-train-samples {count}, but there are {len(images.labels)} training images: give fewer")
    first = np.random.default_rng(seed).permutation(len(images.labels))[:count]
    return Images(images.pixels[first], images.labels[first])
