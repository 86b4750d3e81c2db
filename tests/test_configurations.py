"""Which runs are samples of one thing, and what it is called."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.configurations import Configuration, configurations
from analysis.load import Results
from analysis.metrics import METRICS
from analysis.options import Selection
from analysis.regress import main
from analysis.trends import trends
from jobs.sweep import record_unheard
from results.store import Store
from tests.synthetic_store import START, add_run

MWMS = {"strategy": "mwms", "num_processes": 2, "num_devices": 2}
LATE = {"status": "timeout", "exit_code": 124, "error": "nobody came", "trainable_params": None, "device_name": None}
"""A run that ended at its rendezvous."""


def read(root: Path) -> list[Configuration]:
    return configurations(Results(Selection(results_dir=(str(root),))).runs)


def record_never_begun(root: Path, experiment: str) -> None:
    """A run whose job ended before it began, as a sweep records it."""
    configuration = SimpleNamespace(flags={"strategy": "mwms", "model": "mnist_cnn"}, nodes=1, tasks=2)
    run: Any = SimpleNamespace(configuration=configuration, name="l", task="t")
    record_unheard(Store(root), run, experiment, {"status": "lost", "error": "its job failed"})


def test_runs_that_failed_early_are_failures_of_the_configuration_that_they_can_have_been(tmp_path: Path) -> None:
    add_run(tmp_path, **MWMS)
    add_run(tmp_path, **MWMS, **LATE)
    add_run(tmp_path, **MWMS, **LATE, freeze="base")  # of this there is no good run
    one, frozen = read(tmp_path)
    assert (len(one.run_ids), one.failures) == (1, ("timeout: nobody came",))
    assert one.setup["trainable_params"] == 62_346
    assert (frozen.run_ids, frozen.setup["freeze"], frozen.failures) == ((), "base", ("timeout: nobody came",))


def test_who_failed_and_can_have_been_several_configurations_is_none_of_them(tmp_path: Path) -> None:
    for params in (1_000, 2_000):
        add_run(tmp_path, **MWMS, trainable_params=params)
    add_run(tmp_path, **MWMS, **LATE)
    assert sorted(len(one.run_ids) for one in read(tmp_path)) == [0, 1, 1]


def test_a_gate_counts_failures_at_the_rendezvous_and_misses_what_only_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path("results/data")
    for factor in (1.0, 1.001, 0.999):
        for experiment in ("before", "after"):
            add_run(root, [0.1 * factor], experiment=experiment, **MWMS)
    for experiment in ("after", "down"):
        add_run(root, experiment=experiment, **MWMS, **LATE, provenance={})
    assert main(["--baseline=before", "--candidate=after"]) == 0
    said = capsys.readouterr().out
    assert "1 of its 4 runs failed: timeout: nobody came" in said
    assert "nothing that is recorded changed" in said
    assert main(["--baseline=before", "--candidate=down"]) == 1
    assert "it failed: timeout: nobody came" in capsys.readouterr().out
    record_never_begun(root, "out")
    assert main(["--baseline=before", "--candidate=out"]) == 1
    assert "it failed: lost: its job failed" in capsys.readouterr().out


def test_titles_differ_where_configurations_do(tmp_path: Path) -> None:
    for cache, batches in (("memory", 10), ("none", 10), ("memory", 100)):
        add_run(tmp_path, **MWMS, cache=cache, num_batches_per_iter=batches)
    plain = "mwms x2: mnist_cnn on synthetic, 64 images a device, 1 core a device"
    assert {one.title for one in read(tmp_path)} == {
        f"{plain}, cache=memory, num_batches_per_iter=10",
        f"{plain}, cache=none, num_batches_per_iter=10",
        f"{plain}, cache=memory, num_batches_per_iter=100",
    }


def test_in_a_history_titles_differ_though_each_night_measured_one(tmp_path: Path) -> None:
    for day, size in ((1, 64), (2, 96)):
        add_run(tmp_path, **MWMS, image_size=size, started_at=START.replace(day=day))
    found = trends(Results(Selection(results_dir=(str(tmp_path),))).runs, METRICS["images_per_s"], 0.01)
    assert [one.configuration.shape for one in found] == [" 64x64", " 96x96"]
