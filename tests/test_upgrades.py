"""What a new TrainScale says of the figures of an earlier one that timed something else, or recorded less."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from analysis import compare, regress
from analysis.baselines import read
from analysis.configurations import configurations
from analysis.findings import warnings
from analysis.load import Results
from analysis.metrics import METRICS
from analysis.options import Selection
from analysis.scaling import standings
from analysis.trends import trends
from tests.benchmark import ROOT
from tests.synthetic_store import START, add_run

TIMES_S = (0.1, 0.1004, 0.0996, 0.1002, 0.0998)
ON_GPUS = {
    "strategy": "mwms",
    "device_kind": "gpu",
    "requested_all_reduce": "auto",
    "actual_all_reduce": "nccl",
    "num_devices": 2,
    "num_processes": 2,
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default store of a folder to work in."""
    monkeypatch.chdir(tmp_path)
    return Path("results", "data")


def measure(store: Path, experiment: str, version: int, slower: float = 1.0, **fields: object) -> None:
    for step_s in TIMES_S:
        add_run(store, [step_s * slower], experiment=experiment, measurement_version=version, **fields)


def judged(*flags: str) -> tuple[int, list[tuple[str, bool]]]:
    """The exit code of the gate; of each line the verdict, and whether a change stands there."""
    code = regress.main([*flags, "--json=gate.json"])
    lines = json.loads(Path("gate.json").read_text())["verdicts"]
    return code, [(line["verdict"], line["change"] is not None) for line in lines]


def test_between_measurement_versions_nothing_has_regressed_or_is_missing(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(store, "before", 1)
    measure(store, "after", 2, slower=2)
    for baseline in ("before", "saved"):
        assert judged(f"--baseline={baseline}", "--candidate=after") == (5, [("inconclusive", False)])
        assert "measurement_version: 1 -> 2" in " ".join(capsys.readouterr().out.split())
        assert regress.main(["--candidate=before", "--save-baseline=saved"]) == 0


def test_the_same_version_is_found_first(store: Path) -> None:
    measure(store, "before", 1)
    measure(store, "after", 1)
    measure(store, "after", 2, slower=2)
    assert judged("--baseline=before", "--candidate=after") == (0, [("ok", True)])


def test_what_failed_under_a_new_version_is_missing(store: Path) -> None:
    measure(store, "before", 1)
    add_run(store, [], experiment="after", measurement_version=2, status="failed", error="x")
    assert judged("--baseline=before", "--candidate=after") == (1, [("missing", False)])


def test_a_comparison_names_the_versions(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(store, "before", 1)
    measure(store, "after", 2, slower=2)
    assert compare.main(["before", "after"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "compared across measurement_version: 1 -> 2" in out
    assert " 0.500 (" in out


def test_an_upgrade_is_no_change_over_time(store: Path) -> None:
    for night in range(24):
        upgraded = night >= 12
        at = START + timedelta(days=night)
        step_s = TIMES_S[night % len(TIMES_S)] * (2 if upgraded else 1)
        add_run(store, [step_s], experiment=f"{night}", started_at=at, measurement_version=1 + upgraded)
    found = trends(Results(Selection()).runs, METRICS["images_per_s"], 0.01)
    assert [(len(trend.points), trend.changes) for trend in found] == [(12, []), (12, [])]
    assert len({trend.configuration.title for trend in found}) == 2


def test_a_base_case_of_another_version_is_none(store: Path) -> None:
    measure(store, "e", 1)
    measure(store, "e", 2, strategy="mwms", num_devices=2, num_processes=2)
    _, two = standings(configurations(Results(Selection()).runs))
    assert (two.configuration.setup["strategy"], two.efficiency) == ("mwms", None)


@pytest.mark.parametrize("schema", range(1, 7))
def test_runs_of_earlier_schemas_are_of_the_first_version(schema: int) -> None:
    folder = ROOT / "tests" / "fixtures" / f"schema-{schema}"
    runs = Results(Selection(results_dir=(str(folder),))).runs
    assert runs["measurement_version"].tolist() == [1]


@pytest.mark.parametrize(
    ("fields", "all_reduce"),
    [
        ({}, None),
        ({"requested_all_reduce": "nccl"}, "nccl"),
        ({"measurement_version": 2}, "nccl"),
        ({"strategy": "mirrored"}, "nccl"),
        ({"device_kind": "cpu", "actual_all_reduce": "ring"}, "ring"),
    ],
)
def test_a_ring_that_was_recorded_as_nccl_is_read_as_unknown(
    store: Path, fields: dict[str, object], all_reduce: str | None
) -> None:
    runs = {"measurement_version": 1, **ON_GPUS, **fields}
    version = int(str(runs.pop("measurement_version")))
    measure(store, "e", version, **runs)
    held = Results(Selection()).runs
    regress.main(["--candidate=e", "--save-baseline=saved"])
    path = Path("results/baselines/saved.json")
    saved = json.loads(path.read_text())
    for row in saved["runs"]:
        row["actual_all_reduce"] = fields.get("actual_all_reduce", "nccl")
    path.write_text(json.dumps(saved))
    for frame in (held, read("saved", path.parent)):
        assert {value or None for value in frame["actual_all_reduce"]} == {all_reduce}
        said = [line for line in warnings(standings(configurations(frame)), None) if "recorded NCCL" in line]
        assert bool(said) is (all_reduce is None)


def test_one_device_reduces_nothing(store: Path) -> None:
    measure(store, "e", 1, **{**ON_GPUS, "num_devices": 1, "num_processes": 1, "actual_all_reduce": None})
    said = warnings(standings(configurations(Results(Selection()).runs)), None)
    assert [line for line in said if "recorded NCCL" in line] == []
