"""A metric over time: levels, change points, and what is blamed for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from analysis.history import main
from analysis.load import Results
from analysis.metrics import METRICS
from analysis.options import Selection
from analysis.trends import Trend, join_levels, trends
from tests.synthetic_store import START, add_run

NOISE = (1.0, 1.003, 0.998, 1.001, 0.997, 1.002, 0.999, 1.0005)


def nights(root: Path, steps: Sequence[float], runs: int = 1, **fields: object) -> None:
    """A night's step time each, one experiment a night."""
    for night, step in enumerate(steps):
        at = START + timedelta(days=night)
        for run in range(runs):
            more = {name: value[night] if isinstance(value, list) else value for name, value in fields.items()}
            moment = {"experiment": f"nightly-{at:%Y-%m-%d}", "started_at": at + timedelta(minutes=run)}
            add_run(root, [step * NOISE[(night + run) % len(NOISE)]], **moment, **more)


def found(root: Path, metric: str = "images_per_s") -> list[Trend]:
    return trends(Results(Selection(results_dir=(str(root),))).runs, METRICS[metric], 0.01)


def test_a_step_is_found_where_it_is_and_what_changed_with_it_is_named(tmp_path: Path) -> None:
    versions = ["2.20.0"] * 8 + ["2.21.0"] * 6
    provenance = [{"hostname": "h", "tensorflow_version": version} for version in versions]
    nights(tmp_path, [0.1] * 8 + [0.11] * 6, provenance=provenance)
    (trend,) = found(tmp_path)
    assert list(trend.starts) == [0, 8]
    assert trend.levels == pytest.approx([640, 640 / 1.1], rel=0.002)
    (change,) = trend.changes
    assert change.at.experiment == "nightly-2026-05-09"
    assert change.ratio == pytest.approx(1 / 1.1, rel=0.002)
    assert change.changed == {"tensorflow_version": ("2.20.0", "2.21.0")}
    assert trend.worse
    (of_time,) = found(tmp_path, "step_time_p95_s")
    assert of_time.worse
    assert of_time.changes[0].ratio == pytest.approx(1.1, rel=0.002)


def test_the_runs_of_a_night_are_one_point(tmp_path: Path) -> None:
    nights(tmp_path, [0.1] * 4, runs=3)
    (trend,) = found(tmp_path)
    assert len(trend.points) == 4
    assert [point.value.runs for point in trend.points] == [3] * 4
    assert trend.points[0].value.value == pytest.approx(64 / 0.1 / (1.0 * 1.003 * 0.998) ** (1 / 3))
    assert not trend.changes
    assert not trend.worse
    assert trend.too_short  # to see any


def test_what_got_better_again_is_not_worse(tmp_path: Path) -> None:
    nights(tmp_path, [0.1] * 7 + [0.12] * 7 + [0.1] * 7)
    (trend,) = found(tmp_path)
    assert list(trend.starts) == [0, 7, 14]
    assert [change.worse for change in trend.changes] == [True, False]
    assert not trend.worse


def test_each_configuration_has_a_trend_of_its_own_and_failures_have_none(tmp_path: Path) -> None:
    nights(tmp_path, [0.1] * 2)
    nights(tmp_path, [0.1] * 3, model="vgg16")
    add_run(tmp_path, status="failed", error="x", model="vgg19")
    assert [(trend.configuration.setup["model"], len(trend.points)) for trend in found(tmp_path)] == [
        ("mnist_cnn", 2),
        ("vgg16", 3),
    ]


@pytest.mark.parametrize(("steps", "code"), [([0.1] * 8 + [0.12] * 6, 1), ([0.12] * 8 + [0.1] * 6, 0), ([0.1] * 9, 0)])
def test_the_command_tells_and_draws_and_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: list[float], code: int
) -> None:
    nights(tmp_path / "data", steps)
    assert main([f"--results-dir={tmp_path}/data", f"--output={tmp_path}/out"]) == code
    out = capsys.readouterr().out
    assert ("nothing that is recorded changed with it" in out) == (len({*steps}) == 2)
    page = (tmp_path / "out" / "history.html").read_text()
    assert "single x1: mnist_cnn on synthetic" in page
    assert out.splitlines()[-1] == f"Plots: {tmp_path}/out/history.html"


def test_nights_in_which_all_failed_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nights(tmp_path / "data", [0.1] * 9, status=["ok"] * 3 + ["failed"] * 2 + ["ok"] * 2 + ["failed"] * 2, error="x")
    nights(tmp_path / "data", [0.1] * 9, model="vgg16")
    failing, fine = found(tmp_path / "data")
    assert failing.failed_since == START + timedelta(days=7)
    assert (len(failing.points), failing.worse) == (5, False)
    assert fine.failed_since is None
    assert main([f"--results-dir={tmp_path}/data", f"--output={tmp_path}/out"]) == 1
    assert "failed since 2026-05-08" in capsys.readouterr().out
    assert "failed since 2026-05-08" in (tmp_path / "out" / "history.html").read_text()


def test_a_run_that_failed_before_its_device_was_known_may_have_been_any(tmp_path: Path) -> None:
    nights(tmp_path, [0.1] * 2)
    nights(tmp_path, [0.1] * 2, num_batches_per_iter=20)
    add_run(
        tmp_path,
        started_at=START + timedelta(days=2),
        status="failed",
        error="x",
        device_name=None,
    )
    failing, other = found(tmp_path)
    assert failing.failed_since == START + timedelta(days=2)
    assert other.failed_since is None


@pytest.mark.commands
def test_days_are_those_of_utc(tmp_path: Path) -> None:
    """In Tokyo the second run is of the next day."""
    add_run(tmp_path, [0.1], started_at=datetime(2026, 5, 1, 14, tzinfo=timezone.utc))
    add_run(tmp_path, [0.1], started_at=datetime(2026, 5, 1, 16, tzinfo=timezone.utc))
    script = (
        "import sys; from analysis.load import Results; from analysis.metrics import METRICS; "
        "from analysis.options import Selection; from analysis.trends import trends; "
        "(one,) = trends(Results(Selection(results_dir=(sys.argv[1],))).runs, METRICS['images_per_s'], 0.01); "
        "print([f'{point.started_at:%Y-%m-%d}' for point in one.points])"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(words, env={**os.environ, "TZ": "Asia/Tokyo"}, capture_output=True, text=True, check=True)
    assert done.stdout == "['2026-05-01']\n"


def run_history(root: Path, *words: str) -> int:
    return main([f"--results-dir={root}/data", f"--output={root}/out", *words])


def test_an_experiment_is_one_point_where_it_crosses_a_day(tmp_path: Path) -> None:
    """Two bad nights are no level; as halves of nights they were four points."""
    for night in range(14):
        at = START.replace(hour=23, minute=50) + timedelta(days=night)
        for run in range(2):
            step = NOISE[(night + run) % len(NOISE)] * (0.115 if night > 11 else 0.1)
            moment = {"started_at": at + timedelta(minutes=15 * run), "ended_at": at + timedelta(minutes=15 * run + 5)}
            add_run(tmp_path / "data", [step], **moment, experiment="nightly")
    (trend,) = found(tmp_path / "data")
    assert [point.value.runs for point in trend.points] == [2] * 14
    assert not trend.changes
    assert run_history(tmp_path) == 0


RATES = [1273, 1234, 1254, 1260, 884, 964, 891, 887]


@pytest.mark.parametrize(("rates", "code", "ratio"), [(RATES, 1, 0.72), (RATES[4:] + RATES[:4], 0, 1.38)])
def test_a_clear_step_is_found_in_eight_nights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rates: list[int], code: int, ratio: float
) -> None:
    for night, rate in enumerate(rates):
        add_run(tmp_path / "data", [64 / rate], started_at=START + timedelta(days=night), experiment=f"n{night}")
    (trend,) = found(tmp_path / "data")
    assert list(trend.starts) == [0, 4]
    assert trend.changes[0].ratio == pytest.approx(ratio, abs=0.01)
    assert not trend.too_short
    assert run_history(tmp_path) == code
    assert f"{trend.changes[0].ratio - 1:+.1%}, {'worse' if code else 'better'}" in capsys.readouterr().out


def test_a_change_below_the_threshold_is_no_alarm(tmp_path: Path) -> None:
    for night in range(30):
        step = 0.1 * NOISE[night % len(NOISE)] ** 0.05 * (1.0005 if night >= 20 else 1)
        add_run(tmp_path / "data", [step], started_at=START + timedelta(days=night), experiment=f"n{night}")
    assert run_history(tmp_path) == 0
    assert run_history(tmp_path, "--threshold=0.06%") == 0
    assert run_history(tmp_path, "--threshold=0.03%") == 1


@pytest.mark.parametrize(
    ("steps", "level"),
    [
        ([0.1] * 5, "too few nights"),
        ([0.1] * 6, "steady"),
        ([0.1, 0.16, 0.12, 0.19, 0.11, 0.14, 0.1, 0.17], "too few nights"),
        ([0.1, 0.105] * 4, "steady"),
    ],
)
def test_steady_is_only_what_would_have_shown_a_large_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: list[float], level: str
) -> None:
    nights(tmp_path / "data", steps)
    assert run_history(tmp_path) == 0
    newest = capsys.readouterr().out.splitlines()[4]
    assert newest.strip().startswith(level)


def test_segments_that_differ_by_less_than_the_threshold_are_one() -> None:
    drift = [100.0] * 3 + [99.4] * 3 + [98.8] * 3 + [98.2] * 3
    assert join_levels(drift, [0, 3, 6, 9], 0.001)[0] == [0, 3, 6, 9]
    starts, levels = join_levels(drift, [0, 3, 6, 9], 0.01)
    assert len(starts) == len(levels) == 2
    assert levels[1] / levels[0] < 0.99
    assert join_levels(drift, [0, 3, 6, 9], 0.05) == ([0], pytest.approx([99.1], abs=0.01))


def test_bad_questions_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(tmp_path, status="failed", error="x")
    for words, said in (
        (["--metric=speed"], "--metric speed: no such metric"),
        ([], "no run has images_per_s"),
        (["--experiment=x"], "no run of experiment 'x'. There are: e"),
        (["--threshold=5"], "--threshold is '5': give a share between 0 and 1, as 5% or 0.05"),
    ):
        assert main([f"--results-dir={tmp_path}", *words]) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1
        assert said in err
