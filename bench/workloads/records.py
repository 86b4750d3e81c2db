"""Folders of TFRecord shards in ImageNet's layout: what `dataset.json` beside them says, and who reads which file.

Public shards say neither how many images they hold nor from where their labels count. `python -m bench.data index`
finds out once and writes it down; every process of every run then knows it without reading them. No framework.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from bench.errors import EnvironmentFault, UsageError
from bench.workloads.datasets import Cache
from results.text import printable
from results.writing import replacing

Part = Literal["train", "validation"]
PARTS: tuple[Part, ...] = ("train", "validation")

INDEX = "dataset.json"
IMAGE, LABEL = "image/encoded", "image/class/label"

_VERSION = 1
_MOST_SAMPLES = (1 << 31) - 1
"""Positions of samples are 32 bits wide."""
MOST_CLASSES = 1 << 20
"""That an index may name, and the largest label offset."""
_UNEVEN = 1.1
"""The most records of a share of files / the fewest, beyond which the shares are too unlike."""
_LENGTH = struct.Struct("<Q")
_BEFORE, _AFTER = 12, 4
"""Bytes around a record: its length with a checksum, and a checksum of its data (TensorFlow's tfrecord format)."""


@dataclass(frozen=True)
class RecordFile:
    """A shard."""

    name: str
    records: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Index:
    """What `dataset.json` says."""

    num_classes: int
    label_offset: int
    """The label of the first class as the shards have it; ImageNet's count from 1."""
    files: Mapping[Part, tuple[RecordFile, ...]]
    folder: str = "."
    """Where the shards are, seen from the index."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where they are known."""

    def num_samples(self, part: Part) -> int:
        """Images of a part."""
        return sum(file.records for file in self.files[part])

    def digest(self, part: Part) -> str:
        """16 hex digits: equal for the same files read in the same way."""
        said = [self.num_classes, self.label_offset, [asdict(file) for file in self.files[part]]]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Into `folder`, whole or not at all."""
        text = json.dumps({"version": _VERSION, **asdict(self)}, indent=1)
        with replacing(folder / INDEX) as new:
            new.write_text(text + "\n", encoding="utf-8")


class RecordSet:
    """The row `tfrecord` of the table of data sets."""

    caches: ClassVar[tuple[Cache, ...]] = ("none", "memory", "disk")
    made_up: ClassVar[bool] = False

    def find(self, data_dir: Path | None, split: str = "train") -> list[Path]:
        """The files of a split, seen to be there and whole. Raises UsageError and EnvironmentFault."""
        index, part = self.index(data_dir), part_of(split)
        assert data_dir is not None
        if not index.files[part]:
            other = "write or index some (python -m bench.data)"
            raise UsageError(
                f"{str(data_dir / INDEX)!r} names no {part}-* files: {other}, or choose another --data-dir"
            )
        return [_whole(data_dir / index.folder / file.name, file, data_dir / INDEX) for file in index.files[part]]

    def classes(self, data_dir: Path | None) -> int:
        """How many classes there are."""
        return self.index(data_dir).num_classes

    def num_samples(self, data_dir: Path | None) -> int | None:
        """How many images training reads."""
        return self.index(data_dir).num_samples("train")

    def digest(self, data_dir: Path | None, *, evaluated: bool) -> str | None:
        """Of the files that training reads, and of those that it is evaluated on where it is. Raises UsageError."""
        index = self.index(data_dir)
        return "-".join(index.digest(part) for part in (PARTS if evaluated else PARTS[:1]))

    def index(self, data_dir: Path | None) -> Index:
        """What the folder's index says. Raises UsageError."""
        if data_dir is None:
            raise UsageError("dataset 'tfrecord' has no usual place: name the folder of its files with --data-dir")
        return read_index(data_dir)


def describe_images(shapes: Collection[tuple[int, ...]]) -> str:
    """The size (width x height) and colour of images [h, w, c], from the smallest to the largest area."""
    sizes = sorted({(height, width) for height, width, _ in shapes}, key=lambda size: (size[0] * size[1], size))
    small, large = (f"{width}x{height}" for height, width in (sizes[0], sizes[-1]))
    kinds = [kind for kind, is_grey in (("grey", True), ("colour", False)) if is_grey in {c == 1 for *_, c in shapes}]
    return f"{small if len(sizes) == 1 else f'{small} to {large}'} {' and '.join(kinds)}"


def part_of(split: str) -> Part:
    """Which files hold a split: the parts are apart, so nothing needs to be held out."""
    return "validation" if split == "test" else "train"


def read_index(folder: Path) -> Index:
    """The index of a folder. Raises UsageError where there is none, or none that can be read."""
    path = folder / INDEX
    if not folder.is_dir():
        raise UsageError(f"data folder {str(folder)!r} does not exist: name that of the TFRecord files with --data-dir")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return _index(said)
    except FileNotFoundError:
        raise UsageError(
            f"data folder {str(folder)!r} has no {INDEX}, which says how many images its files hold: write files with "
            f"python -m bench.data write, or let python -m bench.data index {shlex.quote(str(folder))} look at those "
            "that are there"
        ) from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{str(path)!r} is not what python -m bench.data writes: index the folder again "
            f"({type(error).__name__}: {printable(error)[:200]})"
        ) from None


def _index(said: Any) -> Index:
    if said["version"] != _VERSION:
        raise ValueError(f"version {said['version']}, not {_VERSION}")
    files = {part: tuple(_file(part, each) for each in said["files"][part]) for part in PARTS}
    index = Index(
        num_classes=_whole_number(said["num_classes"], 1, MOST_CLASSES),
        label_offset=_whole_number(said["label_offset"], 0, MOST_CLASSES),
        files=files,
        folder=str(said["folder"]),
        classes=tuple(str(name) for name in said["classes"]),
    )
    for part in PARTS:
        _whole_number(index.num_samples(part), 0, _MOST_SAMPLES)
    return index


def _file(part: Part, said: Mapping[str, Any]) -> RecordFile:
    name = said["name"]
    if not isinstance(name, str) or not name.startswith(f"{part}-") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a {part}-* file")
    return RecordFile(name, _whole_number(said["records"], 1), _whole_number(said["size_bytes"], 1))


def _whole_number(value: Any, least: int, most: int = 1 << 62) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{value!r} is no whole number from {least} to {most}")
    return value


def _whole(path: Path, file: RecordFile, index: Path) -> Path:
    """The path of a shard that has the size that the index says. Raises UsageError and EnvironmentFault."""
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError for what is no path, as with a NUL
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"data file {str(path)!r}, which {str(index)!r} names, cannot be found: {why}") from None
    if size != file.size_bytes:
        raise EnvironmentFault(
            f"data file cannot be used: {str(path)!r} has {size} bytes and {str(index)!r} says {file.size_bytes}: it "
            "was cut off or replaced. Fetch it again, or index the folder again (python -m bench.data index)"
        )
    return path


def shards_in(folder: Path, part: Part) -> list[Path]:
    """The files of a part that lie in a folder, in the order of their names."""
    return sorted(path for path in folder.glob(f"{part}-*") if path.is_file())


def lengths(path: Path) -> Iterator[int]:
    """The length of each record of a file [bytes], by the framing alone. Raises EnvironmentFault where it ends within a
    record or is no TFRecord file."""
    size = path.stat().st_size
    at = number = 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(_BEFORE)
            length = _LENGTH.unpack(head[: _LENGTH.size])[0] if len(head) == _BEFORE else 0
            end = at + _BEFORE + length + _AFTER
            if end > size:
                what = f"it ends within record {number}" if number else "it is no whole TFRecord file"
                raise EnvironmentFault(f"data file cannot be used: {str(path)!r}: {what}. Fetch it again")
            yield length
            at, number = end, number + 1


def describe(path: Path) -> RecordFile:
    """A shard's line of the index. Raises EnvironmentFault for one that is cut off or empty."""
    records = sum(1 for _ in lengths(path))
    if not records:
        raise EnvironmentFault(f"data file cannot be used: {str(path)!r} is empty. Fetch it again, or remove it")
    return RecordFile(path.name, records, path.stat().st_size)


def sharding(records: Sequence[int], readers: int) -> Literal["file", "record"]:
    """How processes share files with so many records: each its own files, every `readers`-th, where that gives all of
    them some and about equally many records; else each reads all files and leaves out what is the others'."""
    if len(records) < readers:
        return "record"
    shares = [sum(records[reader::readers]) for reader in range(readers)]
    return "file" if max(shares) <= _UNEVEN * min(shares) else "record"
