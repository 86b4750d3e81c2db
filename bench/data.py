"""TFRecord data sets: `python -m bench.data write | index | check | fetch`.

`write` makes shards of a folder of images, or of generated ones; `index` looks at shards that are there; `check` reads
every image; `fetch` says how public data sets come to a machine. Nothing is downloaded here.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from tyro.conf import Positional, subcommand

from bench import frameworks
from bench.errors import BenchError, UsageError
from bench.workloads.datasets import DATASETS, how_to_fetch
from bench.workloads.records import (
    INDEX,
    MOST_CLASSES,
    PARTS,
    Index,
    Part,
    RecordSet,
    describe,
    describe_images,
    read_index,
    shards_in,
)
from results.command_line import complain, flag, perform
from results.exit_codes import ExitCode
from results.text import printable

PROG = "bench.data"
_MOST = (1 << 31) - 1
_USES: dict[Part, str] = {"train": "train", "validation": "validate"}


@dataclass(frozen=True, kw_only=True)
class WriteShards:
    """Write TFRecord shards from a folder of images, or from generated ones."""

    output: Path
    """Folder that they are written to [path]."""
    images: Path | None = None
    """Folder with a sub-folder of images for each class [path]. JPEGs are stored as they are, other images as JPEGs."""
    generate: int | None = None
    """How many images to generate instead [images]: random fields as hard to decode as photographs, tinted by class."""
    part: Part = "train"
    """What they are for: train, or validation, which evaluations read."""
    shards: int | None = None
    """Into how many files [files]; None is 8, or one per image where there are fewer. Give each process that will train
    one or more."""
    image_size: int = 256
    """Height and width of generated images [pixels]."""
    num_classes: int = 10
    """Classes of generated images."""
    seed: int = 1
    """Seed of generated images, and of the order in which images are stored."""

    def perform(self) -> int:
        """Raises BenchError."""
        if (self.images is None) == (self.generate is None):
            raise UsageError("give either --images, a folder, or --generate, a number of images")
        for name in ("generate", "shards", "image_size", "num_classes", "seed"):
            value, most = getattr(self, name), MOST_CLASSES if name == "num_classes" else _MOST
            if value is not None and not 1 <= value <= most:
                raise UsageError(f"--{name.replace('_', '-')} is {value}: give a whole number from 1 to {most}")
        if self.images is not None and (self.image_size, self.num_classes) != (256, 10):
            raise UsageError("--image-size and --num-classes are of generated images: leave them out with --images")
        _load_tensorflow()
        from bench import shards

        known = read_index(self.output) if (self.output / INDEX).exists() else None
        if self.images is not None:
            found, classes = shards.in_folder(self.images, known.classes if known else ())
            num_classes = len(classes)
        else:
            found = shards.generated(self.generate or 0, self.image_size, self.num_classes, self.seed, self.part)
            classes, num_classes = (), self.num_classes
        index, shapes = shards.write(
            found, self.output, self.part, self.shards, num_classes=num_classes, classes=classes, seed=self.seed
        )
        files = index.files[self.part]
        print(
            f"Wrote {sum(file.records for file in files):,} images of {num_classes:,} classes "
            f"({describe_images(shapes)}) as {len(files)} {self.part}-* files to {self.output}"
        )
        return _show(index, self.output)


@dataclass(frozen=True, kw_only=True)
class IndexShards:
    """Look at train-* and validation-* files that are there, and write down what training must know of them."""

    folder: Positional[Path]
    """Folder of the files [path]."""
    label_offset: int = 1
    """Label of the first class; ImageNet's shards count from 1, because 0 is for what is none of them."""
    num_classes: int = 1000
    """How many classes there are."""
    output: Path | None = None
    """Folder for the index, which --data-dir then names, where the files' own cannot be written to [path]."""

    def perform(self) -> int:
        """Raises BenchError."""
        for name, least in (("label_offset", 0), ("num_classes", 1)):
            value = getattr(self, name)
            if not least <= value <= MOST_CLASSES:
                raise UsageError(f"{flag(name)} is {value}: give a whole number from {least} to {MOST_CLASSES}")
        if not self.folder.is_dir():
            raise UsageError(f"data folder {str(self.folder)!r} does not exist: name that of the TFRecord files")
        files = {part: tuple(describe(path) for path in shards_in(self.folder, part)) for part in PARTS}
        if not files["train"]:
            raise UsageError(
                f"data folder {str(self.folder)!r} holds no train-* files: name that of the TFRecord files"
            )
        place = self.output or self.folder
        place.mkdir(parents=True, exist_ok=True)
        folder = str(self.folder.absolute()) if self.output else "."
        index = Index(num_classes=self.num_classes, label_offset=self.label_offset, files=files, folder=folder)
        index.write(place)
        return _show(index, place)


@dataclass(frozen=True, kw_only=True)
class CheckShards:
    """Read and decode every image, and name the records that cannot be trained; exit 3 when there are any."""

    folder: Positional[Path]
    """Folder of the index [path], as in --data-dir."""

    def perform(self) -> int:
        """Raises BenchError."""
        index, bad = read_index(self.folder), 0
        _load_tensorflow()
        from bench.workloads.tfrecord import Records

        for part, split in zip(PARTS, ("train", "test"), strict=True):
            if not index.files[part]:
                continue
            paths = RecordSet().find(self.folder, split)
            for line in Records(paths, index, part, (1, 1, 3), 0).faults():
                print(printable(line))
                bad += 1
        if bad:
            return complain(PROG, f"{bad} faults: fetch these files again, or write them anew", ExitCode.ENVIRONMENT)
        return _show(index, self.folder)


@dataclass(frozen=True, kw_only=True)
class FetchHow:
    """Print how public data sets come to a machine whose compute nodes have no internet; downloads nothing."""

    def perform(self) -> int:
        """Prints."""
        print("On a node with internet, as the user who will train, or into a folder that --data-dir then names:")
        for name, data in DATASETS.items():
            if data.fetch:
                print(f"  {name}: {how_to_fetch(data.fetch)}")
        print("These need nothing: " + ", ".join(name for name, data in DATASETS.items() if not data.files))
        print(
            "tfrecord, from images: python -m bench.data write --images FOLDER --output DIR, where FOLDER holds one\n"
            "  a class, and again with --part validation. ImageNet's, the archives of ILSVRC2012, come from\n"
            "  image-net.org, where one has to register\n"
            "tfrecord, from shards that a site has: python -m bench.data index DIR"
        )
        return ExitCode.OK


Command = (
    Annotated[WriteShards, subcommand("write")]
    | Annotated[IndexShards, subcommand("index")]
    | Annotated[CheckShards, subcommand("check")]
    | Annotated[FetchHow, subcommand("fetch")]
)


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 done, 2 usage, 3 a file that cannot be used."""

    def work(command: WriteShards | IndexShards | CheckShards | FetchHow) -> int:
        try:
            return command.perform()
        except BenchError as error:
            return complain(PROG, error, int(error.exit_code))

    return perform(PROG, cast(Any, Command), argv, work)


def _load_tensorflow() -> None:
    """Without GPUs, and without what it logs when it is loaded and first used. Raises EnvironmentFault."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with frameworks.quietly():
        frameworks.load()
        import tensorflow as tf

        tf.zeros([])


def _show(index: Index, folder: Path) -> int:
    parts = [f"{index.num_samples(part):,} to {verb} in {len(index.files[part])} files" for part, verb in _USES.items()]
    print(f"{folder / INDEX}: images {' and '.join(parts)}, {index.num_classes:,} classes")
    print(f"Use it with --dataset tfrecord --data-dir {shlex.quote(str(folder))}")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
