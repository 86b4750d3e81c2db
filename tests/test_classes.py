"""Which part of a data set is trained."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import UsageError
from bench.workloads.classes import chosen_classes, subset
from bench.workloads.datasets import DATASETS, Images

IMAGES = Images(np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1), np.array([0, 1, 2, 3, 0, 1, 2, 3], np.int32))


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        (None, None),
        ("0-2", (0, 1, 2)),
        ("3,1", (1, 3)),
        (" 1 - 2 , 7 ", (1, 2, 7)),
        ("0,1", (0, 1)),
        ("0-1,3-4", (0, 1, 3, 4)),
    ],
)
def test_classes_are_read(text: str | None, classes: tuple[int, ...] | None) -> None:
    assert chosen_classes(text, "d", 10) == classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4-2", "give classes and ranges of them"),
        ("", "give classes and ranges of them"),
        ("a-b", "give classes and ranges of them"),
        ("1,", "give classes and ranges of them"),
        ("-1", "give classes and ranges of them"),
        ("1-1000000000", "give classes and ranges of them"),
        ("0-999999", "dataset 'd' has the classes 0 to 9: choose among them"),
        ("10", "dataset 'd' has the classes 0 to 9: choose among them"),
        ("0-3,2", "names a class twice"),
        ("5", "is a single class"),
    ],
)
def test_what_are_no_classes_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen_classes(text, "d", 10)


def test_classes_are_numbered_anew_and_keep_their_images() -> None:
    part = subset(IMAGES, (1, 3), None, 1)
    assert part.labels.tolist() == [0, 1, 0, 1]
    assert part.labels.dtype == np.int32
    assert part.pixels.ravel().tolist() == [1, 3, 5, 7]
    assert subset(IMAGES, None, None, 1) is IMAGES


def test_the_first_samples_of_an_order_that_the_seed_gives() -> None:
    three, five = subset(IMAGES, None, 3, 1), subset(IMAGES, None, 5, 1)
    assert five.pixels.ravel().tolist()[:3] == three.pixels.ravel().tolist()
    assert all(label == pixel % 4 for label, pixel in zip(five.labels, five.pixels.ravel(), strict=True))
    other = subset(IMAGES, None, 5, 2)
    assert other.pixels.ravel().tolist() != five.pixels.ravel().tolist()
    assert sorted(subset(IMAGES, (0, 2), 4, 1).pixels.ravel().tolist()) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("classes", "count", "message"),
    [
        ((0, 4), None, "the data hold no image of class 4"),
        ((0, 1), 5, "--num-train-samples 5, but there are 4 training images"),
        (None, 9, "--num-train-samples 9, but there are 8 training images"),
    ],
)
def test_images_that_are_not_there_are_refused(
    classes: tuple[int, ...] | None, count: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        subset(IMAGES, classes, count, 1)


def test_synthetic_images_have_classes_too() -> None:
    part = subset(DATASETS["synthetic"].load(None, (4, 4, 1), 1), (2, 5), 50, 1)
    assert part.pixels.shape == (50, 4, 4, 1)
    assert {*part.labels.tolist()} == {0, 1}
