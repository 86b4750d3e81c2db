"""The lines with which README.md and docs/ read a store: all rows and columns, whatever wrote it and is writing it."""

from __future__ import annotations

import re
import shutil
from datetime import date
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results import files, folders
from results.compact import compact
from results.schema import PROVENANCE, RUN_TABLES, SCHEMA_VERSION, TABLES, arrow_schema
from results.verification import verify
from tests.benchmark import ROOT
from tests.store_writers import write_runs

DATA = "results/data"
DOCS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCKS = {
    f"{path.name}:{number}": (language, block)
    for path in DOCS
    for number, (language, block) in enumerate(re.findall(r"```(python|sql)\n(.*?)```", path.read_text(), re.S))
    if DATA in block
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a run of every earlier schema version, where the documents have it."""
    monkeypatch.chdir(tmp_path)
    for version in range(1, SCHEMA_VERSION):
        shutil.copytree(ROOT / "tests" / "fixtures" / f"schema-{version}", DATA, dirs_exist_ok=True)
    return tmp_path / DATA


def read(language: str, block: str) -> pd.DataFrame:
    """What a reader of the documents gets."""
    if language == "sql":
        return duckdb.sql(block).df()
    names: dict[str, pd.DataFrame] = {}
    exec(block, names)  # noqa: S102 the documents' own example
    return names["runs"]


def assert_whole(runs: pd.DataFrame) -> None:
    """All columns, and a run of every schema version."""
    assert set(runs.columns) == {*(column.name for column in TABLES["runs"]), "date"}
    assert sorted(runs["schema_version"]) == [*range(1, SCHEMA_VERSION + 1)]
    assert runs.set_index("schema_version")["num_train_samples"].isna()[:5].all()
    assert {*runs["provenance"].dropna().iloc[0]} == {column.name for column in PROVENANCE}


def test_the_documents_read_with_pandas_and_duckdb() -> None:
    assert {language for language, _ in BLOCKS.values()} == {"python", "sql"}
    assert {"README.md:0", "store.md:0", "store.md:1"} <= {*BLOCKS}


@pytest.mark.parametrize("name", BLOCKS)
def test_documented_lines_read_runs_of_all_schemas_while_a_run_is_written(root: Path, name: str) -> None:
    write_runs(root, lambda *_: None, 1)
    assert_whole(read(*BLOCKS[name]))
    (day, *_) = files.days(root, "runs")
    with folders.opened(root, "runs", day.name) as folder, folders.replaced(folder, "R.parquet") as file:
        file.write(b"PAR1")
        file.flush()
        assert len(list(day.glob(".R.parquet.*"))) == 1
        assert_whole(read(*BLOCKS[name]))


def test_the_plain_line_gives_all_columns_of_every_table(root: Path) -> None:
    write_runs(root, lambda *_: None, 1)
    for table in RUN_TABLES:
        rows = pd.read_parquet(root / table)
        assert {*rows.columns} == {*arrow_schema(table).names, "date"}
        paths = [path for day in files.days(root, table) for path in files.of_day(day)]
        assert len(rows) == sum(pq.read_metadata(path).num_rows for path in paths)
        assert [*rows["date"].cat.categories] == [day.name[5:] for day in files.days(root, table)]
    assert verify(root).findings == []


def test_compact_adds_the_columns_to_a_store_of_earlier_versions(root: Path) -> None:
    assert "num_train_samples" not in pd.read_parquet(root / "runs").columns
    compact(root, date(1970, 1, 1))  # merges nothing
    assert {*pd.read_parquet(root / "runs").columns} == {*arrow_schema("runs").names, "date"}
    assert not (root / "verifications").exists()


def test_the_file_of_columns_is_written_once_for_each_schema(tmp_path: Path) -> None:
    path = tmp_path / "runs" / files.COLUMNS

    def renewed() -> bool:
        before = path.stat().st_ino if path.exists() else None
        files.note_columns(tmp_path, "runs")
        return path.stat().st_ino != before

    assert renewed()
    assert not renewed()
    schema = arrow_schema("runs")
    pq.write_table(schema.append(pa.field("of_a_later_schema", pa.string())).empty_table(), path)
    assert not renewed()
    pq.write_table(schema.remove(5).empty_table(), path)
    assert renewed()
    assert pq.read_schema(path).names == schema.names


def test_damaged_columns_are_named_and_written_anew(root: Path) -> None:
    write_runs(root, lambda *_: None, 1)
    path = root / "runs" / files.COLUMNS
    path.write_bytes(path.read_bytes()[:-8])
    (finding,) = verify(root).findings
    assert str(path) in str(finding)
    compact(root, date(1970, 1, 1))
    assert verify(root).findings == []


def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    path = tmp_path / "data" / "runs" / files.COLUMNS
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    files.note_columns(tmp_path / "data", "runs")
    assert not path.is_symlink()
    assert outside.read_text() == "untouched"
