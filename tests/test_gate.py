"""The gate: the command that a nightly job calls."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.markdown import inert
from analysis.regress import main
from results.schema import SCHEMA_VERSION
from tests.synthetic_store import add_run
from tests.test_verdicts import STEADY


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments of two configurations, `before` and `same`, five runs each, in the default place."""
    root = tmp_path_factory.mktemp("measured")
    for experiment in ("before", "same"):
        measure(root, experiment)
    return root


@pytest.fixture
def store(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in."""
    monkeypatch.chdir(shutil.copytree(measured, tmp_path / "store"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return Path.cwd()


def measure(root: Path, experiment: str, slower: float = 1.0, **fields: object) -> None:
    for factor in (1.0, 1.004, 0.996, 1.002, 0.998):
        data = root / "results" / "data"
        add_run(data, [0.1 * factor], experiment=experiment, **fields)
        two = {"strategy": "mwms", "num_processes": 2, "num_devices": 2}
        add_run(data, [0.12 * factor * slower], experiment=experiment, **two, **fields)


def junit_results(path: str) -> list[tuple[str, str | None]]:
    """What stands in the test cases of a JUnit file: element and type. The counts of the suite must agree."""
    suite = ET.parse(path).getroot()  # noqa: S314 of our own making
    results = [(result.tag, result.get("type")) for result in suite.iterfind("testcase/*")]
    tags = [tag for tag, _ in results]
    counts = {"failures": tags.count("failure"), "errors": tags.count("error"), "skipped": tags.count("skipped")}
    assert {name: int(str(suite.get(name))) for name in counts} == counts
    assert int(str(suite.get("tests"))) == len(suite.findall("testcase"))
    return results


def test_a_night_like_the_one_before_is_fine(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--baseline=before", "--candidate=same"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "2 comparisons: 2 ok"
    assert "nothing that is recorded changed between them" in out


def test_what_became_slower_is_an_alarm_in_every_form(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(store, "slow", 1.2, provenance={"hostname": "h", "tensorflow_version": "2.22.0"})
    files = ["--json=gate.json", "--junit=gate.xml", "--markdown"]
    assert main(["--baseline=before", "--candidate=slow", *files]) == 1
    out = capsys.readouterr().out
    assert "tensorflow_version: 2.21.0 -> 2.22.0" in out
    assert "2 comparisons: 1 regressed, 1 ok" in out
    assert "| regressed | images\\_per\\_s | mwms x2: mnist\\_cnn on synthetic" in out
    held = json.loads(Path("gate.json").read_text())
    assert (held["exit_code"], held["threshold"]) == (1, 0.05)
    first, second = held["verdicts"]
    assert (first["verdict"], second["verdict"]) == ("regressed", "ok")
    assert first["change"]["value"] == pytest.approx(1 / 1.2)
    assert first["change"]["high"] < 1
    assert first["setup"]["strategy"] == "mwms"
    suite = ET.parse("gate.xml").getroot()  # noqa: S314 of our own making
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "1", "0")
    assert suite.get("errors") == "0"
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "change: -16.7%" in str(failure.get("message"))


def test_the_summary_of_a_ci_job_gets_the_table(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert main(["--baseline=before", "--candidate=same", "--markdown"]) == 0
    kept = Path("summary.md").read_text()
    assert kept.startswith("before\n### 2 comparisons: 2 ok\n")
    assert kept.removeprefix("before\n") in capsys.readouterr().out


@pytest.mark.parametrize("status", ["failed", None])
def test_a_configuration_that_failed_or_vanished_is_a_regression(
    store: Path, status: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = store / "results" / "data"
    for factor in (1.0, 1.001, 0.999):
        add_run(data, [0.1 * factor], experiment="after")
    if status:
        two = {"strategy": "mwms", "num_processes": 2, "num_devices": 2}
        add_run(data, experiment="after", status=status, error="rank 1 died", **two)
    assert main(["--baseline=before", "--candidate=after"]) == 1
    out = capsys.readouterr().out
    assert "2 comparisons: 1 missing, 1 ok" in out
    assert ("it failed: failed: rank 1 died" if status else "it did not run") in " ".join(out.split())


def test_too_few_runs_are_inconclusive(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(store / "results" / "data", [0.1], experiment="one")
    assert main(["--baseline=before", "--candidate=one", "--strategy=single", "--junit=gate.xml"]) == 5
    assert "run at least 2 more a side" in " ".join(capsys.readouterr().out.split())
    assert junit_results("gate.xml") == [("error", "inconclusive")]


def test_other_figures_are_judged_too(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(store, "slow", 1.2)
    metrics = ["--metric=step_time_p95_s", "--metric=peak_rss_bytes", "--metric=startup_time_s", "--metric=efficiency"]
    assert main(["--baseline=before", "--candidate=slow", *metrics, "--json=g.json"]) == 1
    found = {
        (one["metric"], one["setup"]["strategy"]): one["verdict"]
        for one in json.loads(Path("g.json").read_text())["verdicts"]
    }
    assert found == {
        ("step_time_p95_s", "single"): "ok",
        ("step_time_p95_s", "mwms"): "regressed",
        ("peak_rss_bytes", "single"): "ok",
        ("peak_rss_bytes", "mwms"): "ok",
        ("startup_time_s", "single"): "ok",
        ("startup_time_s", "mwms"): "ok",
        ("efficiency", "mwms"): "regressed",
    }
    capsys.readouterr()


@pytest.mark.parametrize(
    ("reached", "slower", "code", "note"),
    [
        (5, 1.0, 0, ""),
        (4, 1.0, 5, "4 of 5 runs reached the accuracy 0.97, in the baseline 5 of 5"),
        (1, 1.0, 5, "1 of 5 runs reached the accuracy 0.97, in the baseline 5 of 5"),
        (4, 0.5, 5, "4 of 5 runs reached"),
        (4, 1.2, 1, "4 of 5 runs reached"),
        (0, 1.0, 5, "the candidate has no time_to_accuracy_s"),
    ],
)
def test_runs_that_do_not_reach_the_accuracy_are_not_left_out_in_silence(
    tmp_path: Path, reached: int, slower: float, code: int, note: str
) -> None:
    data, gate = tmp_path / "data", tmp_path / "gate.json"
    for experiment, good, factor in (("older", 5, 1.0), ("newer", reached, slower)):
        for number, value in enumerate(STEADY):
            time_s = value * factor if number < good else None
            learned = {"epochs": 3, "target_accuracy": 0.97, "time_to_accuracy_s": time_s}
            add_run(data, [0.1], experiment=experiment, **learned)
    words = ["--baseline=older", "--candidate=newer", "--metric=time_to_accuracy_s", f"--json={gate}"]
    assert main([*words, f"--results-dir={data}"]) == code
    (found,) = json.loads(gate.read_text())["verdicts"]
    assert note in found["note"]


def test_a_baseline_is_saved_read_and_small(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--candidate=before", "--save-baseline=good"]) == 0
    path = Path("results/baselines/good.json")
    assert capsys.readouterr().out == f"{path}: 2 configurations, 10 good runs of 10\n"
    assert path.stat().st_size < 20_000
    assert main(["--baseline=good", "--candidate=same"]) == 0
    measure(store, "slow", 1.2)
    assert main(["--baseline=baseline:good", "--candidate=slow", "--metric=efficiency"]) == 1
    assert main(["--baseline=good", "--candidate=slow", "--strategy=single"]) == 0
    # What selects runs selects those of the baseline too, or they would be called missing.
    assert main(["--baseline=good", "--candidate=slow", "--where=num_devices = 1 and step_time_p50_s > 0"]) == 0
    assert main(["--baseline=good", "--candidate=slow", "--where=num_devices = 2"]) == 1
    held = json.loads(path.read_text())
    held["schema_version"] = SCHEMA_VERSION + 1
    Path("results/baselines/later.json").write_text(json.dumps(held))
    capsys.readouterr()
    assert main(["--baseline=later", "--candidate=same"]) == 3
    assert f"has schema {SCHEMA_VERSION + 1}; this TrainScale knows" in capsys.readouterr().err


def test_days_select_runs_of_a_baseline_as_those_of_a_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--candidate=before", "--save-baseline=good"]) == 0
    words = ["--baseline=baseline:good", "--candidate=baseline:good-too"]
    Path("results/baselines/good-too.json").write_text(Path("results/baselines/good.json").read_text())
    capsys.readouterr()
    for flag, given in (("since", "2026-5-1"), ("until", "yesterday")):
        assert main([*words, f"--{flag}={given}"]) == 2
        assert f"--{flag} is '{given}': give a day as YYYY-MM-DD" in capsys.readouterr().err
    assert main([*words, "--since=2026-05-02"]) == 2
    assert "no run of 'baseline:good' fits" in capsys.readouterr().err


def test_no_address_and_no_name_of_a_store_is_live_in_markdown() -> None:
    gap = "&#8203;"
    assert inert("see https://x.org, WWW.y.org or @me") == f"see https:{gap}//x.org, WWW{gap}.y.org or @{gap}me"
    assert inert("images/s: 3 & 4") == "images/s: 3 &amp; 4"


def test_a_baseline_of_an_earlier_schema_meets_the_runs_of_today(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vgg = {"model": "vgg16", "image_size": 224, "num_classes": 1000}
    for experiment in ("older", "newer"):
        measure(store, experiment)
        measure(store, experiment, **vgg)
    assert main(["--candidate=older", "--save-baseline=old"]) == 0
    path = Path("results/baselines/old.json")
    held = json.loads(path.read_text())
    held["schema_version"] = 5
    for row in held["runs"]:
        for name in ("image_size", "num_classes", "cache", "phase", "optimizer", "learning_rate"):
            del row[name]
    path.write_text(json.dumps(held))
    capsys.readouterr()
    assert main(["--baseline=old", "--candidate=newer"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 comparisons: 4 ok"


def test_a_damaged_file_keeps_the_gate_from_saying_fine(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "results" / "data" / "runs" / "date=2026-05-01" / "broken.parquet").write_text("?")
    assert main(["--baseline=before", "--candidate=same"]) == 5
    captured = capsys.readouterr()
    assert "2 comparisons: 2 ok; 1 file could not be read" in captured.out
    assert "broken.parquet" in captured.err
    assert main(["--baseline=before", "--candidate=same", "--json=g.json", "--junit=gate.xml"]) == 5
    assert junit_results("gate.xml") == [("error", "unreadable")]
    held = json.loads(Path("g.json").read_text())
    assert held["exit_code"] == 5
    assert "broken.parquet" in held["skipped"][0]


@pytest.mark.parametrize("table", ["iters", "telemetry"])
def test_a_foreign_file_among_the_raw_rows_is_one_too(
    store: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    pq.write_table(pa.table({"a": [1]}), store / "results" / "data" / table / "date=2026-05-01" / "foreign.parquet")
    expected = 5 if table == "iters" else 0  # the gate reads no telemetry
    assert main(["--baseline=before", "--candidate=same"]) == expected
    assert ("foreign.parquet" in capsys.readouterr().err) == bool(expected)


def test_what_vanished_is_missing_in_every_metric(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the baseline has no such figure: this configuration has no base case."""
    data = store / "results" / "data"
    for experiment in ("before", "stays"):
        add_run(data, [0.1], experiment=experiment, strategy="mwms", num_processes=2, num_devices=2, xla=True)
    measure(store, "gone")
    measure(store, "stays")
    assert main(["--baseline=before", "--candidate=gone", "--metric=efficiency"]) == 1
    assert "2 comparisons: 1 missing, 1 ok" in capsys.readouterr().out
    assert main(["--baseline=before", "--candidate=stays", "--metric=efficiency"]) == 0
    assert "without efficiency in the baseline, not judged (measure the base case" in capsys.readouterr().out


def test_one_name_for_a_baseline_and_an_experiment_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--candidate=before", "--save-baseline=same"]) == 0
    assert main(["--baseline=before", "--candidate=same"]) == 2
    assert "'same' is the name of different runs: say experiment:same or baseline:same" in capsys.readouterr().err
    assert main(["--baseline=before", "--candidate=experiment:same"]) == 0


def test_a_store_of_damaged_files_alone_is_an_environment_error(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (store / "results" / "data" / "runs").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    assert main(["--baseline=before", "--candidate=same"]) == 3
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "20 files cannot be read, first " in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--candidate=same"], "give --baseline"),
        (["--candidate=same", "--baseline=same"], "both 'same'"),
        (
            ["--candidate=same", "--baseline=befor"],
            "no run of experiment or label or run or baseline 'befor'. Did you mean 'before'?",
        ),
        (["--candidate=same", "--baseline=baseline:x"], "no baseline 'x'"),
        (["--candidate=same", "--baseline=before", "--threshold=5"], "--threshold is '5': give a share"),
        (
            ["--candidate=same", "--baseline=before", "--metric=speed"],
            "--metric speed: no such metric. There are: images_per_s",
        ),
        (
            ["--candidate=same", "--baseline=before", "--metric=gpu_peak_mem_used_bytes"],
            "no run of 'before' has gpu_peak",
        ),
        (["--candidate=same", "--baseline=before", "--across=colour"], "--across colour: no such field"),
        (["--candidate=same", "--baseline=before", "--save-baseline=x"], "leave out --baseline"),
        (["--candidate=same", "--save-baseline=../x"], "a name of letters"),
        (["--candidate=same", "--save-baseline=x", "--metric=efficiency"], "leave out --metric"),
        (["--candidate=same", "--save-baseline=x", "--threshold=50%"], "leave out --threshold"),
        (
            ["--candidate=same", "--baseline=x", "--json=no/gate.json"],
            "--json is 'no/gate.json': there is no folder 'no'",
        ),
        (["--candidate=same", "--baseline=x", "--junit=no/gate.xml"], "--junit is 'no/gate.xml': there is no folder"),
        (["--candidate=same", "--baseline=label:l"], "share run"),
        ([], "--candidate"),
    ],
)
def test_bad_questions_are_one_line(
    store: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert said in err


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema_version": 3}',
        '{"schema_version": 3, "machines": [], "runs": [{"machine": 4}]}',
        '{"schema_version": 3, "machines": [{}], "runs": [{"machine": 0, "images_per_s": "fast"}]}',
        # Found by fuzzing: a number that no float holds.
        f'{{"schema_version": 6, "machines": [{{}}], "runs": [{{"machine": 0, "images_per_s": {"9" * 400}}}]}}',
        "[" * 100_000,
    ],
    ids=range(7),
)
def test_what_is_no_baseline_is_one_line(store: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("results/baselines").mkdir()
    Path("results/baselines/bad.json").write_text(text)
    assert main(["--baseline=bad", "--candidate=same"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "bad.json' is no baseline" in err
