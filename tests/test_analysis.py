"""From rows with known timings to known figures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from analysis import charts
from analysis.load import AnalysisError, Results
from analysis.report import main, write
from analysis.scaling import configurations
from analysis.stats import median_interval
from analysis.table import HEADINGS, cells, notes, warnings
from tests.synthetic_store import add_run


def test_the_figures_of_a_run_by_hand(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1, 0.3])
    (run,) = Results(tmp_path).runs.to_dict("records")
    assert run["images_per_s"] == pytest.approx(20 * 64 / 4.0)  # 20 steps in 1 s + 3 s, warm-up left out
    assert run["step_time_p50_s"] == pytest.approx(0.2)
    assert run["data_wait_share"] == pytest.approx(0.1)
    assert run["peak_rss_bytes"] == 2**30
    assert run["startup_time_s"] == 3.0


def test_every_rank_counts_in_the_window_and_images_are_counted_once(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1, 0.1], num_processes=2, num_devices=2, strategy="mwms")
    (run,) = Results(tmp_path).runs.to_dict("records")
    assert run["images_per_s"] == pytest.approx(20 * 128 / 2.0)


def test_failed_runs_are_kept_and_have_no_figures(tmp_path: Path) -> None:
    add_run(tmp_path)
    add_run(tmp_path, status="failed", error="boom")
    runs = Results(tmp_path).runs
    assert list(runs["status"]) == ["ok", "failed"]
    assert runs["images_per_s"].isna().tolist() == [False, True]


def test_an_experiment_is_chosen_by_name_and_unknown_ones_are_told(tmp_path: Path) -> None:
    add_run(tmp_path, experiment="one")
    add_run(tmp_path, experiment="two")
    assert list(Results(tmp_path, "two").runs["experiment"]) == ["two"]
    with pytest.raises(AnalysisError, match=r"no run of experiment 'three'.*one, two"):
        Results(tmp_path, "three")


@pytest.mark.parametrize("make", [False, True])
def test_an_empty_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool) -> None:
    if make:
        (tmp_path / "runs").mkdir()
    assert main(["--results-dir", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert "no runs in" in captured.err


@pytest.mark.parametrize(
    ("n", "low", "high", "coverage"),
    [
        (2, 0, 1, 0.5),
        (3, 0, 2, 0.75),
        (5, 0, 4, 0.9375),
        (6, 0, 5, 0.96875),
        (9, 1, 7, 0.9609375),
        (10, 1, 8, 0.978515625),
    ],
)
def test_rank_intervals_are_the_textbook_ones(n: int, low: int, high: int, coverage: float) -> None:
    values = [float(value) for value in reversed(range(n))]
    interval = median_interval(values)
    assert (interval.low, interval.high) == (float(low), float(high))
    assert interval.coverage == pytest.approx(coverage)
    assert interval.median == np.median(values)


def test_one_run_has_no_interval() -> None:
    interval = median_interval([3.0])
    assert (interval.median, interval.low, interval.high, interval.runs) == (3.0, None, None, 1)


def test_rank_intervals_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    hits, trials = 0, 4000
    for values in random.lognormal(size=(trials, 3)):
        interval = median_interval(values)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 1.0 <= interval.high
    # 75% promised; 4 standard deviations of the count are 2.7%.
    assert abs(hits / trials - 0.75) < 0.03


def test_weak_scaling_efficiency_names_its_base_case(tmp_path: Path) -> None:
    for step in (0.1, 0.2, 0.1):
        add_run(tmp_path, [step])
    for step in (0.125, 0.125, 0.25):
        add_run(tmp_path, [step], strategy="mwms", num_processes=2, num_devices=2)
    single, mwms = configurations(Results(tmp_path).runs)
    assert single["efficiency"] == pytest.approx(1.0)
    assert mwms["images_per_s"].median == pytest.approx(1024)
    assert mwms["efficiency"] == pytest.approx(0.8)
    assert mwms["efficiency_range"] == pytest.approx((512 / (2 * 640), 1024 / (2 * 320)))


def test_strong_scaling_compares_at_the_same_global_batch(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1], batch_per_device=64)
    add_run(tmp_path, [0.06], strategy="mirrored", num_devices=2, batch_per_device=32, scaling="strong")
    (mirrored,) = (row for row in configurations(Results(tmp_path).runs) if row["strategy"] == "mirrored")
    assert mirrored["efficiency"] == pytest.approx(0.1 / (2 * 0.06))
    assert mirrored["workload"] == "mnist_cnn on synthetic, 64 images in all, 1 core a device"


def test_weak_and_strong_runs_of_the_same_size_are_not_pooled(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1], batch_per_device=32)
    add_run(tmp_path, [0.1], batch_per_device=64)
    add_run(tmp_path, [0.11], strategy="mirrored", num_devices=2, batch_per_device=32)
    add_run(tmp_path, [0.11], strategy="mirrored", num_devices=2, batch_per_device=32, scaling="strong")
    found = {
        row["scaling"]: row["efficiency"]
        for row in configurations(Results(tmp_path).runs)
        if row["strategy"] == "mirrored"
    }
    assert found == {"weak": pytest.approx(0.1 / 0.11), "strong": pytest.approx(0.1 / (2 * 0.11))}


@pytest.mark.parametrize(
    "other", [{"cores_per_device": 2.0}, {"batch_per_device": 32}, {"device_name": "B"}, {"preloaded": True}]
)
def test_without_a_like_base_case_efficiency_is_null_with_a_reason(tmp_path: Path, other: dict[str, object]) -> None:
    add_run(tmp_path)
    add_run(tmp_path, strategy="mirrored", num_devices=2, **other)
    row = next(row for row in configurations(Results(tmp_path).runs) if row["strategy"] == "mirrored")
    assert row["efficiency"] is None
    assert "base case" in row["why_no_efficiency"]
    assert any("no run of the base case" in note for note in notes([row]))
    assert cells(row)[HEADINGS.index("efficiency")] == "-"


def test_published_factors_reproduce(tmp_path: Path) -> None:
    """Horovod's table for 16 GPUs (pull request 44): absolute rates in, factors out."""
    published = {("VGG-16", 130.9, 1308.7): 10.0, ("ResNet-101", 119.4, 1685.1): 14.1}
    for model, one, sixteen in ((*key,) for key in published):
        add_run(tmp_path, [64 / one], model=model)
        add_run(tmp_path, [64 * 16 / sixteen], model=model, strategy="horovod", num_devices=16)
    rows = configurations(Results(tmp_path).runs)
    for (model, _, _), factor in published.items():
        row = next(row for row in rows if row["model"] == model and row["num_devices"] == 16)
        assert row["efficiency"] * 16 == pytest.approx(factor, abs=0.05)


def test_runs_that_differ_are_not_pooled_and_failures_are_counted(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    add_run(tmp_path, [0.1], status="timeout", error="late")
    add_run(tmp_path, [0.2], num_batches_per_iter=20)
    rows = configurations(Results(tmp_path).runs)
    assert [(len(row["run_ids"]), row["failed"]) for row in rows] == [(1, 1), (1, 0)]
    assert cells(rows[0])[HEADINGS.index("runs")] == "1 + 1 failed"
    assert rows[0]["errors"] == ["late"]
    assert any("never averaged in" in note for note in notes(rows))


def test_wide_spreads_few_runs_and_impossible_efficiency_are_called_out(tmp_path: Path) -> None:
    for step in (0.1, 0.1, 0.13):
        add_run(tmp_path, [step])
    for step in (0.08, 0.0801, 0.0802):
        add_run(tmp_path, [step], strategy="mwms", num_processes=2, num_devices=2)
    spread, over, few = warnings(configurations(Results(tmp_path).runs))
    assert "1 of 2 configurations" in spread
    assert "single x1 mnist_cnn, 23%" in spread
    assert "(mwms x2 mnist_cnn)" in over
    assert few == "3 run(s) a configuration: 6 give an interval of 95%."


def test_quiet_measurements_raise_no_warning(tmp_path: Path) -> None:
    for step in (0.1, 0.1001, 0.1002, 0.1003, 0.1004, 0.1005):
        add_run(tmp_path, [step])
    assert warnings(configurations(Results(tmp_path).runs)) == []


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_the_report_is_one_file_that_escapes_and_loads_nothing(tmp_path: Path) -> None:
    add_run(tmp_path / "data", [0.1], model=HOSTILE, strategy=HOSTILE)
    add_run(tmp_path / "data", status="failed", error=HOSTILE, label=HOSTILE, provenance={"hostname": HOSTILE})
    *plots, report = write(Results(tmp_path / "data"), tmp_path / "out", HOSTILE)
    assert [path.parent for path in plots] == [tmp_path / "out"]
    text = report.read_text()
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert "Content-Security-Policy" in text
    body = text[: text.index("<script>")]
    assert not re.search(r"<(?:link|img|iframe|script src|object|embed)\b", body)
    assert "://" not in body
    assert "&lt;img src=x" in text


def test_a_store_with_failures_only_still_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(tmp_path / "data", status="oom", error="too big")
    assert main(["--results-dir", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 0
    assert "0 + 1 failed" in capsys.readouterr().out
    assert "too big" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_prints_the_table_and_the_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (0.1, 0.11, 0.12):
        add_run(tmp_path / "data", [step])
    assert main(["--results-dir", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert all(heading in out for heading in HEADINGS[1:])
    assert "mnist_cnn on synthetic" in out
    assert "533.3 - 640" in out
    assert out.splitlines()[-1] == f"Report: {tmp_path / 'out' / 'report.html'}"
    assert (tmp_path / "out" / "mnist_cnn_on_synthetic_64_images_a_device_1_core_a_device.png").stat().st_size > 10_000


def test_the_plots_show_the_computed_values(tmp_path: Path) -> None:
    for step in (0.1, 0.2, 0.1):
        add_run(tmp_path, [step])
    add_run(tmp_path, [0.1], strategy="mwms", num_processes=2, num_devices=2)
    results = Results(tmp_path)
    rows = configurations(results.runs)
    traces = {trace.name: trace for trace in charts.throughput(rows).data}
    assert list(traces["ideal"].y) == pytest.approx([640, 1280])
    assert list(traces["single"].y) == pytest.approx([640])
    assert list(traces["single"].error_y.arrayminus) == pytest.approx([320])
    assert list(traces["mwms"].y) == pytest.approx([1280])
    assert [trace.y[0] for trace in charts.efficiency(rows).data] == pytest.approx([1.0, 1.0])
    times = results.step_times([row["run_ids"][0] for row in rows])
    assert [list(box.y) for box in charts.step_times(rows, times).data] == [[100.0], [100.0]]
