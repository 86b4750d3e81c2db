"""One table of strategies drives the same checks on all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.schema import RANKS, RUNS
from tests.benchmark import ONEDNN, SEVERAL_S, SMALL, Benchmark, last_json, null, run_all

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

# strategy, flags, devices, ranks that train, processes, the collective that the traced step must hold
TABLE: list[tuple[str, list[str], int, list[int], int, str | None]] = [
    ("single", [], 1, [0], 1, None),
    ("independent", ["--num-workers=2"], 2, [0, 1], 2, None),
    ("mirrored", ["--devices-per-worker=2"], 2, [0], 1, "ring"),
    ("mwms", ["--num-workers=1"], 1, [0], 1, None),
    ("mwms", ["--num-workers=2"], 2, [0, 1], 2, "ring"),
    ("central", ["--devices-per-worker=2"], 2, [0], 1, "reduction_to_one_device"),
    ("ps", ["--num-workers=2"], 2, [1, 2], 4, None),
    ("horovod", ["--num-workers=1"], 1, [0], 1, None),
    ("horovod", ["--num-workers=2"], 2, [0, 1], 2, "ring"),
]
IDS = [f"{row[0]}-x{row[2]}" for row in TABLE]


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_a_run_records_all_that_it_measured(
    benchmark: Benchmark, row: tuple[str, list[str], int, list[int], int, str | None]
) -> None:
    strategy, flags, devices, training, processes, collective = row
    done = benchmark.fresh.run(
        f"--strategy={strategy}", *flags, "--dataset=digits", "--json", "--telemetry-period=0.05"
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["strategy"], run["num_devices"]) == ("ok", strategy, devices)
    assert (run["num_processes"], run["global_batch"]) == (processes, 8 * devices)
    assert (run["num_params"], run["gradient_bytes"]) == (62_346, 249_384)
    assert (run["flops_per_image"], run["train_flops_per_image"]) == (7_495_680, 21_565_440)
    assert (run["image_size"], run["num_classes"]) == (28, 10)
    assert run["actual_all_reduce"] == collective or (collective is None and null(run["actual_all_reduce"]))
    reasons = dict(run["null_reasons"])
    optional = {"error", "failed_rank", "failed_phase"}
    for column in RUNS:
        assert not null(run[column.name]) or column.name in optional or column.name in reasons, column.name
    for name, value in run["provenance"].items():
        assert value is not None or f"provenance.{name}" in reasons, name
    assert json.loads(run["config"])["strategy"] == strategy

    ranks = benchmark.table("ranks").sort_values("rank")
    assert list(ranks["rank"]) == list(range(processes))
    assert set(ranks["status"]) == {"ok"}
    assert set(ranks["retraces"].dropna()) == {0}
    served = strategy == "ps"
    for column in RANKS:
        if column.name not in ("error", "stacks", "gpu_peak_mem_used_bytes", "other_cores"):
            assert ranks[column.name].notna().all() or (served and column.name in reasons), column.name
            assert ranks[column.name].notna()[0] or column.name == "framework_peak_mem_bytes", column.name
    # The first of the host's processes looks at what the others of the host, which are not of the run, use.
    assert list(ranks["other_cores"].notna()) == [rank == 0 for rank in range(processes)]
    assert list(ranks["num_devices"] > 0) == [rank in training for rank in range(processes)]
    if served:
        assert list(ranks["role"]) == ["chief", "worker", "worker", "ps"]
        ranks = ranks[:1]
    phases = ranks[["import_s", "rendezvous_s", "build_s", "trace_s", "warmup_s"]]
    assert (phases >= 0).all(axis=None)
    assert np.allclose(phases.sum(axis=1), ranks["startup_time_s"], rtol=0.01, atol=0.05)
    digests = {digest for row in ranks["weight_digests"] for digest in row}
    assert len(digests) == (processes if strategy == "independent" else 0 if served else 1)
    if processes == 2:
        assert ranks["cores"].map(tuple).nunique() == 2

    iters = benchmark.table("iters").sort_values(["iter", "rank"])
    check_iterations(iters, training, served=served)

    telemetry = benchmark.table("telemetry")
    assert set(telemetry["rank"]) == set(range(processes))
    assert (telemetry["rss_bytes"] > 2**27).all()
    assert telemetry[telemetry["rank"] == 0]["net_rx_bytes"].notna().all()
    if served:  # who serves is watched for as long as the others train
        timed = iters[~iters["warmup"]]["t_start_ns"].min()
        assert (telemetry.groupby("rank")["t_ns"].max() > timed).all()

    figures = last_json(done.stdout)
    assert figures["run_id"] == run["run_id"]
    window = iters[~iters["warmup"]]
    seconds = ((window["t_start_ns"] + window["duration_s"] * 1e9).max() - window["t_start_ns"].min()) / 1e9
    assert figures["images_per_s"] == pytest.approx(6 * 8 * devices / seconds)


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_every_strategy_runs_with_onednn_off_and_on(tmp_path: Path, onednn: str) -> None:
    """CPUs differ in which of the two TensorFlow chooses, and with it the kernels and the allocator."""
    rows = [row for row in TABLE if "--num-workers=1" not in row[1]]
    run_all(
        [
            [f"--strategy={row[0]}", *row[1], *SMALL, f"--results-dir={tmp_path / str(index)}"]
            for index, row in enumerate(rows)
        ],
        {ONEDNN: onednn},
    )
    for index, (strategy, *_) in enumerate(rows):
        benchmark = Benchmark(tmp_path / str(index))
        run, peaks = benchmark.only_run(), benchmark.table("ranks")["framework_peak_mem_bytes"]
        assert (run["status"], run["strategy"]) == ("ok", strategy)
        assert (peaks > 0).all() or (strategy == "ps" and peaks.isna().all())
        environment = dict(run["provenance"]["environment"])
        assert environment[ONEDNN] == onednn
        assert run["onednn"] == (onednn == "1")
        if strategy != "ps":
            assert environment.get("TF_CPU_ALLOCATOR_USE_BFC") == ("1" if onednn == "0" else None)


def check_iterations(iters: pd.DataFrame, training: list[int], *, served: bool) -> None:
    assert set(iters["rank"]) == set(training)
    if served:
        # Who takes a turn is decided when it comes up; every turn is somebody's.
        assert list(iters["iter"]) == list(range(10))
        assert list(iters["num_batches"]) == [1] * 2 + [2] * 8
        assert list(iters["warmup"]) == [True] * 4 + [False] * 6
    for rank in training:
        mine = iters[iters["rank"] == rank]
        if not served:
            assert list(mine["num_batches"]) == [1, 2, 2, 2, 2]
            assert list(mine["warmup"]) == [True, True, False, False, False]
        assert (mine["duration_s"] > 0).all()
        assert mine["data_wait_s"].between(0, mine["duration_s"]).all()
        assert (mine["compute_s"] > 0).all()
        # By two clocks, of which the step's follows corrections of the system's time.
        assert (mine["data_wait_s"] + mine["compute_s"] <= mine["duration_s"] * 1.01).all()
        assert (mine["t_start_ns"].diff().dropna() >= mine["duration_s"].to_numpy()[:-1] * 1e9 - 1000).all()
        assert mine["loss"].between(1.0, 4.0).all()


DATASETS = ("digits", "synthetic")
PLACES = {
    "single": ["--strategy=single"],
    "mirrored": ["--strategy=mirrored", "--devices-per-worker=2"],
    "mwms": ["--strategy=mwms", "--num-workers=2"],
}


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], pd.Series]:
    """(place, data set) -> loss of each step over all ranks: with equal shares, that of the global batches."""
    root = tmp_path_factory.mktemp("same")
    made = {(place, dataset): Benchmark(root / place / dataset) for place in PLACES for dataset in DATASETS}
    steps = ["--num-warmup-batches=1", "--num-batches-per-iter=1", "--num-iters=5", "--global-batch-size=24"]
    run_all(
        [
            [*PLACES[place], *steps, "--device=cpu", f"--dataset={dataset}", f"--results-dir={run.results}"]
            for (place, dataset), run in made.items()
        ]
    )
    return {which: run.table("iters").groupby("iter")["loss"].mean() for which, run in made.items()}


@pytest.mark.parametrize("dataset", DATASETS)
def test_synchronous_strategies_compute_the_same_training(
    losses: dict[tuple[str, str], pd.Series], dataset: str
) -> None:
    """Six SGD steps on the same global batches give the same losses, however many devices share them."""
    single = losses["single", dataset]
    assert len(single) == single.nunique() == 6
    for place in PLACES:
        assert np.allclose(losses[place, dataset], single, rtol=1e-5), (place, losses[place, dataset] / single - 1)
