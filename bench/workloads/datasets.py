"""Labelled images: a table of data sets, each found and read without a framework and never downloaded.

Compute nodes are offline: a missing file is an error that says where it was looked for and how a login node gets it.
"""

from __future__ import annotations

import codecs
import gzip
import importlib.util
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from bench.errors import BenchError, EnvironmentFault, UsageError

Shape = tuple[int, int, int]

Split = Literal["train", "rest", "test"]
"""Which images: those that training reads, those to be recognised, and what training reads when these are held out."""

Cache = Literal["none", "memory", "disk"]
"""Where images are kept between epochs; the default of a data set is the first of its `caches`."""

_SYNTHETIC_BYTES = 64 << 20
_SYNTHETIC_IMAGES = 2048
_CLASSES = 10
_TEST_SHARE = 0.2
"""Of a set that comes in one part."""


def how_to_fetch(module: str) -> str:
    """The command that fetches the files of one of Keras's data sets."""
    return f'python -c "import keras; keras.datasets.{module}.load_data()"'


@dataclass(frozen=True)
class Images:
    """pixels [n, h, w, c] uint8, labels [n] int32."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Dataset:
    """A row of the table: images that every process holds in memory."""

    caches: ClassVar[tuple[Cache, ...]] = ("memory",)
    num_classes: int
    read: Callable[[list[Path], Shape, int, Split], Images]
    """From the files found, the model's input shape, the seed and what is wanted of them."""
    files: tuple[str, ...] = ()
    """Paths below --data-dir; a name with alternatives separates them by '|'."""
    test_files: tuple[str, ...] = ()
    """The same for the images to be recognised."""
    fetch: str = ""
    """The Keras module whose load_data() fetches the files where there is internet."""
    no_test: str = ""
    """Why no images are to be recognised; empty where some are."""
    made_up: bool = False
    """Its classes mean nothing, so that a model with fewer has enough with the first of them."""

    def classes(self, _data_dir: Path | None) -> int:
        """How many classes there are."""
        return self.num_classes

    def num_samples(self, _data_dir: Path | None) -> int | None:
        """How many images training reads; None where only reading them tells."""
        return None

    def digest(self, _data_dir: Path | None, *, evaluated: bool) -> str | None:
        """Of what the files hold; None where the name says it."""
        return None

    def find(self, data_dir: Path | None, split: Split = "train") -> list[Path]:
        """The files of the data set. Raises UsageError, which says what is missing and how to get it, and for a set
        without images to be recognised."""
        if split == "test" and self.no_test:
            raise UsageError(self.no_test)
        names = self.test_files if split == "test" else self.files
        if not names:  # nor is a home needed, which some jobs do not have
            return []
        root = data_dir if data_dir is not None else _kept_by_keras()
        found = []
        for name in names:
            candidates = [root / alternative for alternative in name.split("|")]
            path = next((candidate for candidate in candidates if candidate.is_file()), None)
            if path is None:
                raise UsageError(
                    f"data file {candidates[0].name!r} not found; looked for {' and '.join(map(str, candidates))}. "
                    f"Where there is internet, {how_to_fetch(self.fetch)} "
                    "fetches it into ~/.keras/datasets; name another folder with --data-dir"
                )
            found.append(path)
        return found

    def load(self, data_dir: Path | None, shape: Shape, seed: int, split: Split = "train") -> Images:
        """The images of a split. Raises UsageError as `find` does, EnvironmentFault for a corrupt file."""
        files = self.find(data_dir, split)
        try:
            images = self.read(files, shape, seed, split)
            _validate(images, self.num_classes)
        except (BenchError, MemoryError):  # no fault of the files
            raise
        except Exception as error:  # decompressors and unpicklers raise whatever a broken byte makes of them
            names = ", ".join(map(str, files))
            raise EnvironmentFault(f"data file cannot be used: {names}: {error}. Fetch it again") from error
        return images


def _kept_by_keras() -> Path:
    try:
        return Path.home() / ".keras" / "datasets"
    except RuntimeError:  # a container's user of whom it knows nothing but a number
        raise UsageError("this user has no home folder to look for data files in: name theirs, --data-dir") from None


def _validate(images: Images, num_classes: int) -> None:
    if images.pixels.ndim != 4 or len(images.pixels) != len(images.labels) or not len(images.labels):  # noqa: PLR2004
        raise ValueError(f"{images.pixels.shape} pixels do not go with {images.labels.shape} labels")
    if images.labels.min() < 0 or images.labels.max() >= num_classes:
        raise ValueError(
            f"labels reach from {images.labels.min()} to {images.labels.max()}, not 0 to {num_classes - 1}"
        )


def _synthetic(_files: list[Path], shape: Shape, seed: int, _split: Split) -> Images:
    """Noise. Every image is a function of the seed and its index, so the pool's size changes none of them."""
    count = max(1, min(_SYNTHETIC_IMAGES, _SYNTHETIC_BYTES // int(np.prod(shape))))
    pixels = np.empty((count, *shape), np.uint8)
    labels = np.empty(count, np.int32)
    for index in range(count):
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index]))
        pixels[index] = np.frombuffer(random.bytes(pixels[index].size), np.uint8).reshape(shape)
        labels[index] = random.integers(_CLASSES)
    return Images(pixels, labels)


def _digits(_files: list[Path], _shape: Shape, _seed: int, split: Split) -> Images:
    """1797 real handwritten digits, 8x8, 17 gray levels, that ship inside scikit-learn; read without importing it,
    which takes longer than a small run. The last fifth of a fixed permutation can be held out for the test."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFault("dataset 'digits' ships with scikit-learn, which is not installed: pip install -e .")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(io.StringIO(gzip.decompress(path.read_bytes()).decode()), delimiter=",", dtype=np.int32)
    pixels = (table[:, :64].reshape(-1, 8, 8, 1) * 255 // 16).astype(np.uint8)
    if split == "train":
        return Images(pixels, table[:, 64])
    order = np.random.default_rng(0).permutation(len(pixels))  # whatever the run's seed: all are tested on the same
    held_out = int(len(order) * _TEST_SHARE)
    chosen = order[-held_out:] if split == "test" else order[:-held_out]
    return Images(pixels[chosen], table[chosen, 64])


def _mnist(files: list[Path], _shape: Shape, _seed: int, split: Split) -> Images:
    part = "test" if split == "test" else "train"
    with np.load(files[0], allow_pickle=False) as arrays:
        return Images(arrays[f"x_{part}"][..., None].astype(np.uint8), arrays[f"y_{part}"].astype(np.int32))


def _fashion_mnist(files: list[Path], _shape: Shape, _seed: int, _split: Split) -> Images:
    return Images(_idx(files[0], 16).reshape(-1, 28, 28, 1), _idx(files[1], 8).astype(np.int32))


def _idx(path: Path, header: int) -> npt.NDArray[np.uint8]:
    """The bytes of a gzipped IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


class _ArraysOnly(pickle.Unpickler):
    """CIFAR-10 comes as pickles: build NumPy arrays from them and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".", maxsplit=1)[0] in ("numpy", "_codecs") and name in _ARRAY_PARTS:
            return _ARRAY_PARTS[name]
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is no part of CIFAR-10")


_ARRAY_PARTS = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.empty(0).__reduce__()[0],
    "encode": codecs.encode,
}


def _cifar10(files: list[Path], _shape: Shape, _seed: int, _split: Split) -> Images:
    batches = []
    for path in files:
        with path.open("rb") as file:
            batches.append(_ArraysOnly(file, encoding="bytes").load())
    pixels = np.concatenate([np.asarray(batch[b"data"], np.uint8) for batch in batches])
    labels = np.concatenate([np.asarray(batch[b"labels"], np.int32) for batch in batches])
    # Stored channel by channel; the models want them last.
    return Images(np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels)


def _fashion_files(part: str) -> tuple[str, ...]:
    names = (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz")
    return tuple(f"fashion-mnist/{name}|{name}" for name in names)


def _cifar_file(name: str) -> str:
    return f"cifar-10-batches-py-target/cifar-10-batches-py/{name}|cifar-10-batches-py/{name}"


_NOISE = "dataset 'synthetic' is noise, in which nothing can be recognised: evaluate with another, as --dataset digits"

DATASETS = {
    "synthetic": Dataset(_CLASSES, _synthetic, no_test=_NOISE, made_up=True),
    "digits": Dataset(_CLASSES, _digits),
    "mnist": Dataset(_CLASSES, _mnist, ("mnist.npz",), ("mnist.npz",), "mnist"),
    "fashion_mnist": Dataset(
        _CLASSES, _fashion_mnist, _fashion_files("train"), _fashion_files("t10k"), "fashion_mnist"
    ),
    "cifar10": Dataset(
        _CLASSES,
        _cifar10,
        tuple(_cifar_file(f"data_batch_{n}") for n in range(1, 6)),
        (_cifar_file("test_batch"),),
        "cifar10",
    ),
}
