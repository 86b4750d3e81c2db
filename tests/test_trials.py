"""Trials of --find-max-batch are neither workloads nor failures: the analysis leaves them out and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis import compare, history, regress, report
from analysis.errors import AnalysisError
from analysis.load import Results, trials_left_out
from analysis.options import Selection
from bench import max_batch
from bench.config import RunConfig, parse
from results.schema import TRIAL_EXPERIMENT
from tests.synthetic_store import add_run

SHORT: dict[str, Any] = {"num_warmup_batches": 2, "num_batches_per_iter": 1, "num_iters": 1}
KINDS: dict[str, dict[str, Any]] = {
    "marked": {"config": json.dumps({"trial": True})},
    "of the search's experiment": {"experiment": TRIAL_EXPERIMENT},
    "of an earlier version": {**SHORT, "config": "{}"},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two experiments of three runs, and a search in the second."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "results" / "data"
    for experiment in ("before", "after"):
        for step in (0.1, 0.1004, 0.0996):
            add_run(data, [step], experiment=experiment)
    for batch, status in ((64, "ok"), (128, "oom")):
        fields = {"status": status, "batch_per_device": batch, "config": json.dumps({"trial": True})}
        add_run(data, [0.1], experiment="after", **fields)
    return data


def test_a_search_marks_its_runs() -> None:
    config = RunConfig()
    assert not config.as_dict()["trial"]
    assert parse(max_batch.words(config, 8, 60)).as_dict()["trial"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_trials_are_left_out_unless_asked_for(tmp_path: Path, kind: str) -> None:
    add_run(tmp_path)
    add_run(tmp_path, **KINDS[kind])
    without = Results(Selection(results_dir=(str(tmp_path),)))
    assert (without.runs["run_id"].tolist(), without.trials) == (["R00000"], 1)
    assert trials_left_out(without.trials).endswith("--trials shows them.")
    both = Results(Selection(results_dir=(str(tmp_path),), trials=True))
    assert (both.runs["run_id"].tolist(), both.trials) == (["R00000", "R00001"], 0)


@pytest.mark.parametrize("config", ["{}", "no JSON", json.dumps({"trial": False})])
def test_other_runs_are_no_trials(tmp_path: Path, config: str) -> None:
    add_run(tmp_path, config=config)
    add_run(tmp_path, config=json.dumps({"trial": False}), **SHORT)
    assert len(Results(Selection(results_dir=(str(tmp_path),))).runs) == 2


def test_a_selection_of_trials_alone_names_the_flag(root: Path) -> None:
    add_run(root, experiment=TRIAL_EXPERIMENT)
    with pytest.raises(AnalysisError, match="--trials"):
        Results(Selection(results_dir=(str(root),), experiment=(TRIAL_EXPERIMENT,)))


def test_every_command_says_how_many_it_leaves_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = (
        (report.main, ["--format=text"]),
        (history.main, []),
        (compare.main, ["before", "after"]),
        (regress.main, ["--baseline=before", "--candidate=after"]),
    )
    for main, words in commands:
        assert main(words) == 0
        out = capsys.readouterr().out
        assert trials_left_out(2) in " ".join(out.split())
        assert "128 images" not in out
        assert "oom" not in out
        main([*words, "--trials"])
        assert trials_left_out(2) not in " ".join(capsys.readouterr().out.split())
    assert report.main(["--format=text", "--trials"]) == 0
    assert "128 images a device" in capsys.readouterr().out
