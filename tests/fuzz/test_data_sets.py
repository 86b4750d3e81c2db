"""What stands beside TFRecord shards, damaged: an index that makes sense, or one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError, UsageError
from bench.workloads.records import INDEX, PARTS, RecordSet, read_index, sharding
from tests.fuzz import costly, hostile_texts, is_one_line
from tests.fuzz.test_result_files import damages
from tests.test_records import index_of

numbers = st.integers() | st.floats() | st.sampled_from((0, 1, 10, 1 << 31, 1 << 63, True))
anything = st.recursive(
    st.none() | st.booleans() | numbers | hostile_texts,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(hostile_texts, inside, max_size=3),
    max_leaves=5,
)
names = hostile_texts | st.sampled_from(("train-0", "train-1", "validation-0", "train-/x", "train-\0"))
files = st.fixed_dictionaries({"name": names | anything, "records": numbers, "size_bytes": numbers | st.just(63)})
"""63 bytes are what the first shard has."""
indices = st.fixed_dictionaries(
    {"version": st.just(1) | anything, "num_classes": numbers, "label_offset": numbers | st.just(1)},
    optional={
        "files": st.fixed_dictionaries({part: st.lists(files, max_size=3) for part in PARTS}) | anything,
        "folder": st.just(".") | hostile_texts | anything,
        "classes": st.lists(hostile_texts, max_size=3) | anything,
    },
)


def look(folder: Path) -> None:
    """Reads the index as commands and runs do."""
    try:
        index = read_index(folder)
    except UsageError as error:
        assert is_one_line(error)
        assert "index the folder again" in str(error)
        return
    assert index.num_classes >= 1
    for part in PARTS:
        assert index.num_samples(part) == sum(file.records for file in index.files[part])
        assert len(index.digest(part)) == 16
    if index.files["train"]:
        assert sharding([file.records for file in index.files["train"]], 2) in ("file", "record")
    try:
        assert all(path.is_file() for path in RecordSet().find(folder))
    except BenchError as error:
        assert is_one_line(error)


@costly(3)
@given(changes=indices)
def test_an_index_of_anything(tmp_path_factory: Any, changes: dict[str, Any]) -> None:
    folder = index_of(tmp_path_factory.mktemp("set"))
    said = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(said | changes))
    look(folder)


@costly(3)
@given(damage=damages)
def test_an_index_that_is_damaged(tmp_path_factory: Any, damage: Any) -> None:
    folder = index_of(tmp_path_factory.mktemp("set"))
    (folder / INDEX).write_bytes(damage((folder / INDEX).read_bytes()))
    look(folder)
