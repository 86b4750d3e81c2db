"""`dataset.json`, which comes with a data set: whatever it says, the files are found or one line says why not."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.workloads.records import INDEX, RecordSet
from tests.fuzz import HOSTILE_TEXTS, costly, is_one_line

texts = st.sampled_from((*HOSTILE_TEXTS, ".", "\0", "\ud800", "x" * 5000)) | st.text(max_size=12)
numbers = st.integers(-2, 3) | st.sampled_from((1 << 31, 1 << 62, 1 << 80))
values = texts | numbers | st.none() | st.booleans() | st.floats() | st.lists(texts, max_size=2)
names = st.builds("{}-{}".format, st.sampled_from(("train", "validation")), texts)
files = st.fixed_dictionaries({"name": names | values, "records": numbers | values, "size_bytes": numbers | values})
parts = st.lists(files, max_size=2)
indices = st.fixed_dictionaries(
    {
        "version": st.just(1) | values,
        "num_classes": numbers | values,
        "label_offset": numbers | values,
        "files": st.fixed_dictionaries({"train": parts | values, "validation": parts | values}) | values,
        "folder": texts | values,
        "classes": st.lists(texts, max_size=2) | values,
    }
)


@costly(2)
@given(indices | values, st.sampled_from(("train", "test")))
def test_an_index_is_used_or_refused_in_one_line(said: Any, split: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / INDEX).write_text(json.dumps(said))
        try:
            RecordSet().find(Path(name), split)
        except BenchError as error:
            assert is_one_line(error)
            assert str(error).isprintable()
