from __future__ import annotations

import pytest

from bench.summary import images_per_s, summarise

SECOND = 1_000_000_000


def row(rank: int, iteration: int, start_s: float, duration_s: float, *, warmup: bool = False) -> dict[str, object]:
    return {
        "rank": rank,
        "iter": iteration,
        "warmup": warmup,
        "num_batches": 10,
        "t_start_ns": round(start_s * SECOND),
        "duration_s": duration_s,
        "data_wait_s": duration_s / 4,
        "compute_s": duration_s / 2,
        "loss": 1.0,
    }


TIMED = [row(0, 1, 0.0, 1.0), row(0, 2, 1.0, 3.0), row(1, 1, 0.5, 1.0), row(1, 2, 1.5, 3.5)]


def test_throughput_is_all_images_over_the_window_of_all_ranks() -> None:
    # 20 steps of 32 images, from 0.0 s (rank 0 starts) to 5.0 s (rank 1 ends).
    assert images_per_s(TIMED, {0: 1, 1: 1}, 16) == pytest.approx(20 * 32 / 5.0)


def test_a_worker_counts_for_what_it_did() -> None:
    """Of two workers without steps in common, one took both turns; a coordinator trains nothing."""
    turns = [row(1, 0, 0.0, 1.0), row(1, 1, 1.0, 1.0)]
    assert images_per_s(turns, {0: 0, 1: 1, 2: 1}, 16) == pytest.approx(20 * 16 / 2.0)


def test_a_mean_of_rates_would_be_higher() -> None:
    rates = [320 / 1.0, 320 / 3.0]
    assert images_per_s(TIMED[:2], {0: 1}, 32) == pytest.approx(640 / 4.0)
    assert sum(rates) / 2 > 640 / 4.0


def test_the_figures_of_a_run() -> None:
    run = {"status": "ok", "global_batch": 32, "batch_per_device": 16, "num_devices": 2}
    ranks = [
        {"rank": 0, "num_devices": 1, "startup_time_s": 3.0, "peak_rss_bytes": 5, "framework_peak_mem_bytes": 1},
        {"rank": 1, "num_devices": 1, "startup_time_s": None, "peak_rss_bytes": 7, "framework_peak_mem_bytes": 2},
    ]
    iters = [row(0, 0, -5, 4, warmup=True), *TIMED]
    figures = summarise({"runs": [run], "ranks": ranks, "iters": iters, "telemetry": []})
    assert figures["images_per_s"] == pytest.approx(128.0)
    assert figures["images_per_s_per_device"] == pytest.approx(64.0)
    # The slowest rank's iterations: 1.0 s and 3.5 s for ten steps.
    assert figures["step_time_p50_s"] == pytest.approx(0.225)
    assert figures["step_time_p99_s"] == pytest.approx(0.1 + 0.99 * 0.25)
    assert figures["step_time_jitter_s"] == pytest.approx(1.4826 * 0.125)
    assert figures["data_wait_share"] == pytest.approx(0.25)
    assert (figures["startup_time_s"], figures["peak_rss_bytes"], figures["framework_peak_mem_bytes"]) == (3.0, 7, 2)


def forward(*batches: tuple[int, float], phase: str = "forward") -> dict[str, object]:
    """The figures of a run whose two ranks each inferred so many batches in so many s, again and again."""
    run = {"status": "ok", "global_batch": 32, "batch_per_device": 16, "num_devices": 2, "phase": phase}
    ranks = [{"rank": rank, "num_devices": 1} for rank in range(2)]
    rows = [row(rank, index, index, s) | {"num_batches": n} for rank in (0, 1) for index, (n, s) in enumerate(batches)]
    return summarise({"runs": [run], "ranks": ranks, "iters": rows, "telemetry": []})


def test_latencies_are_those_of_every_batch() -> None:
    figures = forward((1, 0.1), (1, 0.2), (1, 0.6))
    assert figures["latency_p50_s"] == pytest.approx(0.2)
    assert figures["latency_p90_s"] == pytest.approx(0.6)
    # Every batch of every rank counts, not a step's slowest alone.
    uneven = [row(0, 0, 0.0, 0.1) | {"num_batches": 1}, row(1, 0, 0.0, 0.3) | {"num_batches": 1}]
    run = {"status": "ok", "global_batch": 32, "batch_per_device": 16, "num_devices": 2, "phase": "forward"}
    ranks = [{"rank": rank, "num_devices": 1} for rank in range(2)]
    found = summarise({"runs": [run], "ranks": ranks, "iters": uneven, "telemetry": []})
    assert (found["latency_p50_s"], found["step_time_p50_s"]) == (pytest.approx(0.2), pytest.approx(0.3))


def test_there_is_no_latency_of_several_batches_nor_of_training() -> None:
    for figures in (forward((2, 0.1), (2, 0.2)), forward((1, 0.1), phase="train")):
        assert figures["images_per_s"] is not None
        assert [figures[f"latency_p{percent}_s"] for percent in (50, 90, 95, 99)] == [None] * 4


def test_a_share_leaves_out_iterations_in_which_it_could_not_be_measured() -> None:
    run = {"status": "ok", "global_batch": 32, "batch_per_device": 16, "num_devices": 2}
    ranks = [{"rank": rank, "num_devices": 1} for rank in range(2)]
    unknown = [each | {"data_wait_s": None} for each in TIMED]
    share = [
        summarise({"runs": [run], "ranks": ranks, "iters": iters, "telemetry": []})["data_wait_share"]
        for iters in ([TIMED[0], *unknown[1:]], unknown)
    ]
    assert share == [pytest.approx(0.25), None]


def test_a_failed_run_has_no_figures() -> None:
    run = {"status": "failed", "global_batch": 32, "num_devices": 2}
    figures = summarise({"runs": [run], "ranks": [], "iters": TIMED, "telemetry": []})
    assert figures["status"] == "failed"
    assert figures["images_per_s"] is None
