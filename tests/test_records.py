"""The index of TFRecord folders, who reads which file, and what is said of folders that cannot be used."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from bench.errors import BenchError, EnvironmentFault, UsageError
from bench.workloads.datasets import DATASETS
from bench.workloads.records import INDEX, Index, RecordFile, RecordSet, describe, lengths, read_index, sharding


def framed(path: Path, sizes: list[int]) -> Path:
    path.write_bytes(b"".join(struct.pack("<Q", size) + bytes(4 + size + 4) for size in sizes))
    return path


def index_of(folder: Path, /, **changes: object) -> Path:
    """A folder with two shards of 3 and 2 records and their index, in which something is changed."""
    files = {"train": tuple(describe(framed(folder / f"train-{n}", [5] * (3 - n))) for n in range(2)), "validation": ()}
    Index(num_classes=10, label_offset=1, files=files).write(folder)
    said = json.loads((folder / INDEX).read_text()) | changes
    (folder / INDEX).write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    ("records", "readers", "expected"),
    [
        ([5], 1, "file"),
        ([5, 5], 2, "file"),
        ([5, 5, 5, 5], 2, "file"),
        ([5], 2, "record"),
        ([5, 5, 5], 2, "record"),
        ([10, 11], 2, "file"),
        ([10, 12], 2, "record"),
        ([1300] * 1024, 48, "file"),
    ],
)
def test_files_are_shared_where_the_shares_are_about_equal(records: list[int], readers: int, expected: str) -> None:
    assert sharding(records, readers) == expected


def test_records_are_counted_by_their_framing(tmp_path: Path) -> None:
    path = framed(tmp_path / "train-0", [0, 7, 300])
    assert list(lengths(path)) == [0, 7, 300]
    assert describe(path) == RecordFile("train-0", 3, 16 * 3 + 307)


@pytest.mark.parametrize("cut", [1, 10, 300, 315])
def test_a_file_that_ends_within_a_record_is_named_with_the_record(tmp_path: Path, cut: int) -> None:
    path = framed(tmp_path / "train-0", [7, 300])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(EnvironmentFault, match=r"train-0': it ends within record 1. Fetch it again"):
        describe(path)


@pytest.mark.parametrize("content", [b"", b"no TFRecord at all", b"short"])
def test_what_is_no_tfrecord_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-0").write_bytes(content)
    with pytest.raises(EnvironmentFault, match="train-0'"):
        describe(tmp_path / "train-0")


def test_the_index_comes_back_as_it_was_written(tmp_path: Path) -> None:
    index = read_index(index_of(tmp_path))
    assert (index.num_samples("train"), index.num_samples("validation"), index.num_classes) == (5, 0, 10)
    assert RecordSet().find(tmp_path) == [tmp_path / "train-0", tmp_path / "train-1"]
    digest = index.digest("train")
    assert digest == read_index(index_of(tmp_path)).digest("train")
    assert digest != read_index(index_of(tmp_path, label_offset=0)).digest("train")


def test_the_digest_of_a_run_is_of_the_files_that_it_reads(tmp_path: Path) -> None:
    files = json.loads((index_of(tmp_path) / INDEX).read_text())["files"]
    trained, evaluated = (RecordSet().digest(tmp_path, evaluated=evaluated) for evaluated in (False, True))
    validation = [{"name": "validation-0", "records": 1, "size_bytes": 1}]
    index_of(tmp_path, files=files | {"validation": validation})
    assert RecordSet().digest(tmp_path, evaluated=False) == trained
    assert RecordSet().digest(tmp_path, evaluated=True) != evaluated
    index_of(tmp_path, files=files | {"train": files["train"][:1]})
    assert RecordSet().digest(tmp_path, evaluated=False) != trained
    assert DATASETS["digits"].digest(None, evaluated=True) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version 2, not 1"),
        ({"num_classes": 0}, "0 is no whole number from 1"),
        ({"num_classes": True}, "True is no whole number"),
        ({"label_offset": "1"}, "'1' is no whole number"),
        ({"files": {"train": []}}, "KeyError: 'validation'"),
        (
            {"files": {"train": [{"name": "train-/etc/passwd", "records": 1, "size_bytes": 1}]}},
            "is no name of a train-",
        ),
        ({"files": {"train": [{"name": "../train-0", "records": 1, "size_bytes": 1}]}}, "is no name of a train-"),
        ({"files": {"train": [{"name": "train-\x1b[2J", "records": "x"}]}}, "is no whole number"),
        (
            {"files": {"train": [{"name": "train-0", "records": 1 << 40, "size_bytes": 1}], "validation": []}},
            "no whole",
        ),
        ({"classes": 3}, "TypeError"),
    ],
)
def test_an_index_that_means_nothing_is_one_line_with_the_remedy(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_index(index_of(tmp_path, **changes))
    text = str(caught.value)
    assert words in text
    assert "index the folder again" in text
    assert text.isprintable()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000, b"null"])
def test_an_index_that_is_no_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(UsageError, match="index the folder again"):
        read_index(tmp_path)


def test_what_is_missing_is_said_with_the_remedy(tmp_path: Path) -> None:
    def said(folder: Path | None, split: str = "train") -> str:
        with pytest.raises(UsageError) as caught:
            RecordSet().find(folder, split)
        return str(caught.value)

    assert "--data-dir" in said(None)
    assert "does not exist" in said(tmp_path / "gone")
    assert "python -m bench.data write" in said(tmp_path)
    index_of(tmp_path)
    assert "names no validation-* files" in said(tmp_path, "test")
    (tmp_path / "train-1").unlink()
    assert "train-1" in said(tmp_path)


@pytest.mark.parametrize(
    ("folder", "name"), [("a\0b", "train-0"), ("\ud800", "train-0"), (".", "train-\ud800"), ("x" * 5000, "train-0")]
)
def test_an_index_whose_paths_are_none_is_one_line(tmp_path: Path, folder: str, name: str) -> None:
    files = {"train": [{"name": name, "records": 1, "size_bytes": 1}], "validation": []}
    with pytest.raises(UsageError, match="cannot be found") as caught:
        RecordSet().find(index_of(tmp_path, folder=folder, files=files))
    assert str(caught.value).isprintable()


def test_a_file_of_another_size_is_named_before_anything_starts(tmp_path: Path) -> None:
    index_of(tmp_path)
    path = tmp_path / "train-1"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EnvironmentFault, match=r"train-1' has 41 bytes and .*dataset\.json' says 42: it was cut off"):
        RecordSet().find(tmp_path)


def test_every_fault_is_an_error_of_ours(tmp_path: Path) -> None:
    """Whatever byte of an index is changed."""
    index_of(tmp_path)
    whole = (tmp_path / INDEX).read_bytes()
    for position in range(len(whole)):
        (tmp_path / INDEX).write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        try:
            RecordSet().find(tmp_path)
        except BenchError as error:
            assert str(error).isprintable()
