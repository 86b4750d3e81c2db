"""Writes images as TFRecord shards in ImageNet's layout. Loads TensorFlow."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from bench.errors import EnvironmentFault, UsageError, gist
from bench.workloads.records import IMAGE, INDEX, LABEL, PARTS, Index, Part, RecordFile, describe, read_index, shards_in
from results.text import printable
from results.writing import replacing

FILENAME = "image/filename"

_SHARDS = 8
"""Files of a part, where no number is given."""
_QUALITY = 90
"""Of JPEGs that are made here."""
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Image:
    """An image to be stored. `read` raises EnvironmentFault, which names the file, where it is none."""

    read: Callable[[], bytes]
    """A JPEG."""
    label: int
    """Counts from 0."""
    name: str


def in_folder(folder: Path, classes: Sequence[str]) -> tuple[list[Image], tuple[str, ...]]:
    """The images in the sub-folders of a folder, a class each, and the names of the classes: `classes`, or, if none are
    known, the sub-folders in order. What begins with a dot is left out. Raises UsageError."""
    try:
        inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"image folder {str(folder)!r} cannot be read: {error.strerror or error}") from None
    found = [entry.name for entry in inside if entry.is_dir()]
    if not found:
        raise UsageError(
            f"image folder {str(folder)!r} has no sub-folders: give one that has a sub-folder for each class"
        )
    known = tuple(classes) or tuple(printable(name) for name in found)
    if nested := [name for name in found if _holds_only_folders(folder / name)]:
        raise UsageError(
            f"image folder {str(folder)!r} holds folders of folders ({', '.join(map(printable, nested))}), but its "
            f"sub-folders are the classes: write each part by itself, with {_flags_of_parts(folder, nested)}"
        )
    images = []
    for name in found:
        if printable(name) not in known:
            raise UsageError(f"class {name!r} in {str(folder)!r} is none of the {len(known)} that {INDEX} names")
        files = sorted(entry for entry in (folder / name).iterdir() if not entry.name.startswith("."))
        if not files:
            raise UsageError(f"class folder {str(folder / name)!r} is empty: put images there, or remove it")
        images += [Image(partial(as_jpeg, path), known.index(printable(name)), path.name) for path in files]
    return images, known


def _flags_of_parts(folder: Path, names: Sequence[str]) -> str:
    """What to type for the first two folders of a folder whose sub-folders are no classes."""
    parts = {name: " --part validation" if name.lower().startswith(("val", "test")) else "" for name in names[:2]}
    return ", then ".join(f"--images {shlex.quote(printable(folder / name))}{part}" for name, part in parts.items())


def _holds_only_folders(folder: Path) -> bool:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return bool(entries) and all(entry.is_dir() for entry in entries)


def as_jpeg(path: Path) -> bytes:
    """The bytes of a JPEG as they are, of any other image as a JPEG. Raises EnvironmentFault where it is none."""
    try:
        content = path.read_bytes()
        if content.startswith(_JPEG):
            tf.io.decode_jpeg(content)
            return content
        pixels = tf.io.decode_image(content, channels=3, expand_animations=False)
        return bytes(tf.io.encode_jpeg(pixels, quality=_QUALITY).numpy())
    except OSError as error:
        raise EnvironmentFault(f"image {str(path)!r} cannot be read: {error.strerror or error}") from None
    except tf.errors.OpError as error:
        raise EnvironmentFault(
            f"image {str(path)!r} cannot be decoded: {gist(error.message)}. Mend it, or take it away"
        ) from None


def generated(count: int, size: int, num_classes: int, seed: int, part: Part) -> list[Image]:
    """Random fields of `size` x `size` pixels with the spectrum of photographs, tinted by class. Each is a function of
    the seed, the part and its number."""
    which = PARTS.index(part)
    labels = np.random.default_rng([seed, which]).integers(num_classes, size=count)
    return [
        Image(partial(_field, size, int(labels[index]), num_classes, seed, (which, index)), int(labels[index]), "")
        for index in range(count)
    ]


def _field(size: int, label: int, num_classes: int, seed: int, number: tuple[int, int]) -> bytes:
    """A JPEG. Amplitudes fall with the frequency f as 1/f, as those of natural images do (Field, 1987), which makes
    files about as large as photographs of that size; noise would make them several times larger."""
    random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, *number]))
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequencies[0, 0] = np.inf
    noise = np.fft.rfft2(random.standard_normal((3, size, size)))
    field = np.fft.irfft2(noise / frequencies, s=(size, size))
    # The three colours of a photograph are much alike.
    field = 0.8 * field.mean(axis=0, keepdims=True) + 0.2 * field
    tint = np.cos(2 * np.pi * (label / num_classes + np.arange(3) / 3))[:, None, None]
    pixels = 128 + 50 * field / field.std() + 40 * tint
    image: npt.NDArray[np.uint8] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return bytes(tf.io.encode_jpeg(image, quality=_QUALITY).numpy())


def write(
    images: Sequence[Image],
    folder: Path,
    part: Part,
    shards: int | None = None,
    *,
    num_classes: int,
    classes: Sequence[str],
    seed: int,
) -> tuple[Index, set[tuple[int, ...]]]:
    """Writes the images, in an order that the seed gives, as so many files of a part (8, or one per image where there
    are fewer), then the index, which joins what it says of the other part. Labels count from 0.

    Returns the index and the shapes [h, w, c] of the images. Raises UsageError where the folder holds such files
    already, and EnvironmentFault for an image that is none; then nothing is left behind.
    """
    if shards is None:
        shards = min(_SHARDS, len(images))
    if len(images) < shards:
        raise UsageError(f"{len(images)} images do not fill {shards} files: give --shards a number up to that")
    folder.mkdir(parents=True, exist_ok=True)
    if held := shards_in(folder, part):
        raise UsageError(f"{str(folder)!r} already holds {part}-* files ({held[0].name}): choose another --output")
    _indexed(folder, num_classes)
    order = np.random.default_rng(seed).permutation(len(images))
    written: list[Path] = []
    shapes = set()
    try:
        for number, chosen in enumerate(np.array_split(order, shards)):
            path = folder / f"{part}-{number:05d}-of-{shards:05d}"
            with replacing(path) as new, tf.io.TFRecordWriter(str(new)) as writer:
                for index in chosen:
                    jpeg = images[index].read()
                    shapes.add(tuple(tf.image.extract_jpeg_shape(jpeg).numpy().tolist()))
                    writer.write(_record(images[index], jpeg))
            written.append(path)
        described = tuple(map(describe, written))
        # Only now: somebody may have written the other part meanwhile.
        files = {"train": (), "validation": (), **_indexed(folder, num_classes), part: described}
        index = Index(num_classes=num_classes, label_offset=0, files=files, classes=tuple(classes))
        index.write(folder)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return index, shapes


def _indexed(folder: Path, num_classes: int) -> Mapping[Part, tuple[RecordFile, ...]]:
    """The files that the folder's index names, if there is one. Raises UsageError where it has other classes."""
    if not (folder / INDEX).exists():
        return {}
    known = read_index(folder)
    if (known.num_classes, known.label_offset, known.folder) != (num_classes, 0, "."):
        raise UsageError(
            f"{str(folder / INDEX)!r} has {known.num_classes} classes from {known.label_offset} on, which does not go "
            f"with {num_classes} from 0 on: choose another --output"
        )
    return known.files


def _record(image: Image, jpeg: bytes) -> bytes:
    features = {
        IMAGE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg])),
        LABEL: tf.train.Feature(int64_list=tf.train.Int64List(value=[image.label])),
        FILENAME: tf.train.Feature(bytes_list=tf.train.BytesList(value=[os.fsencode(image.name)])),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
