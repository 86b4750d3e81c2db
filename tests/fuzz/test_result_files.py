"""Files of a store, damaged: readers leave out what cannot be read and name it, or say in one line what is wrong."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import baselines
from analysis.errors import AnalysisError
from analysis.load import Results
from analysis.options import Selection
from results.record import Ending, conclude
from results.schema import TABLES_OF_RUNS
from results.store import Store, StoreError
from tests.fuzz import costly, hostile_texts, is_one_line
from tests.synthetic_store import add_run
from tests.test_record import RUN

Damage = Callable[[bytes], bytes]


def cut(share: float) -> Damage:
    return lambda data: data[: int(len(data) * share)]


def flip(share: float, mask: int) -> Damage:
    def damage(data: bytes) -> bytes:
        at = int(len(data) * share)
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :] if data else data

    return damage


def insert(share: float, what: bytes) -> Damage:
    return lambda data: data[: int(len(data) * share)] + what + data[int(len(data) * share) :]


shares = st.floats(0, 1, exclude_max=True)
damages = (
    st.builds(cut, shares)
    | st.builds(flip, shares, st.integers(1, 255))
    | st.builds(insert, shares, st.binary(max_size=20))
    | st.binary(max_size=40).map(lambda data: lambda _: data)
)


def write_shards(store: Store) -> Path:
    """The shards of a run of two ranks; their folder."""
    shard = store.open_shard("R", "run")
    shard.update_run(**RUN)
    shard.close()
    for rank in range(2):
        shard = store.open_shard("R", f"rank-{rank:05d}")
        shard.update_rank(rank=rank, hostname="h", clock_offset_ns=5)
        for number in range(2):
            times = {"t_start_ns": number * 10**9, "duration_s": 0.9, "data_wait_s": 0.1, "loss": 1.0}
            shard.add_iter({"iter": number, "warmup": number == 0, "num_batches": 5, **times})
            shard.add_telemetry({"t_ns": number * 10**9, "rss_bytes": 2**30})
        shard.update_rank(status="ok", exit_code=0, weight_digests=["same"])
        shard.close()
    return store.root / ".shards" / "R"


lines = st.sampled_from(
    (
        *(
            b"5",
            b"{}",
            b'["run"]',
            b'["run",5]',
            b'{"run":1,"rank":2}',
            b'["name",{}]',
            b"[[],{}]",
            b'["run",{"config":5}]',
        ),
        *(
            b'["run",{"provenance":5}]',
            b'["rank",{"rank":"x"}]',
            b'["iters",{}]',
            b'["evals",{}]',
            b'["run",{"started_at":1e300}]',
            b"\xff",
        ),
        *(b"[" * 100_000, b'["run",{"num_processes":1e300}]', b'["run",{"num_processes":1000000000000}]'),
    )
).map(lambda line: insert(0.999, b"\n" + line + b"\n"))


@costly(2)
@given(st.sampled_from(("run", "rank-00000", "rank-00001")), damages | lines)
def test_damaged_shards_are_a_run_or_one_line(name: str, damage: Damage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        path = write_shards(store) / f"{name}.jsonl"
        path.write_bytes(damage(path.read_bytes()))
        shards = store.read_shards("R")
        assert [shard.name for shard in shards] == ["rank-00000", "rank-00001", "run"]
        store.open_run("rank-00000", pid=5)
        store.newest_run(experiment="e")
        try:
            tables = conclude("R", shards, Ending(), datetime.now(timezone.utc))
        except StoreError as error:
            assert is_one_line(error)
        else:
            assert len(tables["runs"]) == 1
            assert [row["rank"] for row in tables["ranks"]] == list(range(len(tables["ranks"])))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three runs."""
    folder = tmp_path_factory.mktemp("store")
    for _ in range(3):
        add_run(folder, samples=2, accuracies=[0.5])
    return folder


@costly(16)
@given(st.sampled_from(TABLES_OF_RUNS), st.integers(0, 2), damages)
def test_damaged_tables_are_left_out_and_named(store: Path, table: str, number: int, damage: Damage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(store, folder, dirs_exist_ok=True)
        path = sorted(Path(folder).glob(f"{table}/date=*/*.parquet"))[number]
        path.write_bytes(damage(path.read_bytes()))
        Store(folder).newest_run(experiment="e")
        try:
            results = Results(Selection(results_dir=(folder,)))
            results.read_raw("telemetry", results.runs["run_id"])
        except AnalysisError as error:
            assert is_one_line(error)
            return
        assert {skipped.path for skipped in results.skipped} <= {path}
        assert all(is_one_line(skipped) for skipped in results.skipped)
        assert len(results.runs) == (2 if results.skipped and table == "runs" else 3)


@pytest.fixture(scope="module")
def baseline(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a baseline file holds."""
    path = baselines.save(
        "good", Results(Selection(results_dir=(str(store),))).runs, tmp_path_factory.mktemp("baselines")
    )
    held: dict[str, Any] = json.loads(path.read_text())
    return held


strange = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | hostile_texts
    | st.sampled_from(([], {}, [{}], [[]], 10**400))
)


def places(inside: Any) -> Iterator[tuple[Any, Any]]:
    """Every (table or list, key or index) below."""
    for key, value in inside.items() if isinstance(inside, dict) else enumerate(inside):
        yield inside, key
        if isinstance(value, dict | list):
            yield from places(value)


@given(st.data(), st.lists(strange, max_size=2), st.none() | damages)
def test_a_damaged_baseline_is_read_or_is_one_line(
    baseline: dict[str, Any], data: st.DataObject, values: list[Any], damage: Damage | None
) -> None:
    held = json.loads(json.dumps(baseline))
    for value in values:
        inside, key = data.draw(st.sampled_from(list(places(held))))
        inside[key] = copy.deepcopy(value)  # which later ones may go into
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(held).encode()
        (Path(folder) / "b.json").write_bytes(damage(text) if damage else text)
        try:
            runs = baselines.read("baseline:b", Path(folder))
        except AnalysisError as error:
            assert is_one_line(error)
        else:
            assert set(runs.columns) >= {"run_id", "images_per_s", "machine"}
