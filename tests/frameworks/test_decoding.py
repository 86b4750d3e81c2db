"""`bench.data check` and training agree on every kind of image and record, for gray models and colour models."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bench import frameworks
from bench.data import main
from bench.workloads.records import IMAGE, LABEL
from bench.workloads.source import open_source
from strategies.base import Shard
from tests.frameworks import shards

frameworks.load()

import tensorflow as tf  # noqa: E402

ALONE = Shard(first=0, count=1, total=1)
PIXELS = np.broadcast_to(np.array([200, 100, 50], np.uint8), (40, 30, 3)).copy()
"""One colour, which all formats keep."""
GRAY = round(0.2989 * 200 + 0.587 * 100 + 0.114 * 50)


def saved(kind: str, mode: str, **how: Any) -> bytes:
    """The image as Pillow writes it."""
    file = io.BytesIO()
    PIL.Image.fromarray(PIXELS).convert(mode).save(file, kind, **how)
    return file.getvalue()


def palette() -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(PIXELS).convert("P", palette=PIL.Image.Palette.ADAPTIVE).save(file, "PNG")
    return file.getvalue()


def animated() -> bytes:
    file = io.BytesIO()
    first, second = PIL.Image.fromarray(PIXELS), PIL.Image.fromarray(255 - PIXELS)
    first.save(file, "GIF", save_all=True, append_images=[second])
    return file.getvalue()


def png(pixels: Any) -> bytes:
    return bytes(tf.io.encode_png(pixels).numpy())


def image(content: bytes) -> Callable[[Any], None]:
    def change(features: Any) -> None:
        features[IMAGE].bytes_list.value[0] = content

    return change


def removed(name: str) -> Callable[[Any], None]:
    return lambda features: features.pop(name)


def twice(features: Any) -> None:
    features[LABEL].int64_list.value.append(0)


def text_label(features: Any) -> None:
    features[LABEL].bytes_list.value.append(b"0")


JPEG = bytes(tf.io.encode_jpeg(PIXELS).numpy())
TRAINED = {
    "jpeg": JPEG,
    "progressive": saved("JPEG", "RGB", progressive=True),
    "cmyk": saved("JPEG", "CMYK"),
    "png": png(PIXELS),
    "transparent": png(np.dstack([PIXELS, PIXELS[..., :1]])),
    "16 bit png": png(PIXELS.astype(np.uint16) * 257),
    "palette png": palette(),
    "gif": saved("GIF", "RGB"),
    "animated gif": animated(),
    "bmp": saved("BMP", "RGB"),
    "one pixel": png(PIXELS[:1, :1]),
    "one pixel of jpeg": bytes(tf.io.encode_jpeg(PIXELS[:1, :1]).numpy()),
}
REFUSED = {
    "truncated jpeg": image(JPEG[: len(JPEG) // 2]),
    "truncated png": image(png(PIXELS)[:-30]),
    "jpeg header": image(JPEG[:4]),
    "no bytes": image(b""),
    "tiff": image(saved("TIFF", "RGB")),
    "text": image(b"no image"),
    "no image": removed(IMAGE),
    "no label": removed(LABEL),
    "two labels": twice,
    "label of text": text_label,
    "label too large": shards.label(shards.CLASSES),
    "label too small": shards.label(-1),
}


def written(folder: Path, change: Callable[[Any], object]) -> Path:
    """Four images to train and four to evaluate on, the second of each changed."""
    for part in ("train", "validation"):
        shards.write(folder, count=4, files=1, part=part)  # type: ignore[arg-type]
        shards.rewrite(folder / f"{part}-00000-of-00001", 1, change)
    return folder


def inputs(folder: Path, channels: int) -> list[Any]:
    """What training reads in one epoch, as (images, labels, samples), and what an evaluation reads."""
    opened = (open_source("tfrecord", folder, (8, 8, channels), 1, split) for split in ("train", "test"))
    training, evaluation = opened
    return [
        training.batches(ALONE, batch=4, steps=1).take(1),
        evaluation.evaluation_batches(ALONE, batch=4),
    ]


@pytest.mark.parametrize("kind", TRAINED)
def test_what_check_accepts_is_trained(kind: str, tmp_path: Path) -> None:
    folder = written(tmp_path, image(TRAINED[kind]))
    assert main(["check", str(folder)]) == 0
    for channels, expected in ((1, [GRAY]), (3, PIXELS[0, 0])):
        training, evaluation = inputs(folder, channels)
        ((images, _, samples),) = training
        decoded = [images.numpy()[list(samples.numpy()).index(1)], next(iter(evaluation))[0].numpy()[1]]
        for pixels in decoded:
            assert np.abs(pixels * 255 - expected).max() <= 3


@pytest.mark.parametrize("kind", REFUSED)
def test_what_training_cannot_read_is_named_by_check(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path, REFUSED[kind])
    assert main(["check", str(folder)]) == 3
    named = [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert named == [f"'{folder}/{part}-00000-of-00001', record 1" for part in ("train", "validation")]
    for channels in (1, 3):
        for batches in inputs(folder, channels):
            with pytest.raises(tf.errors.InvalidArgumentError):
                list(batches)
