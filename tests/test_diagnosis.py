"""From runs with known faults to the sentences that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest

from analysis.configurations import configurations
from analysis.diagnosis import THROTTLING, warnings
from analysis.load import Results
from analysis.options import Selection
from tests.synthetic_store import SECOND, add_run

STEADY = [0.1, 0.101, 0.099] * 4
TWO: dict[str, Any] = {"strategy": "mwms", "num_processes": 2, "num_devices": 2, "num_nodes": 2}


def said(root: Path, **selection: Any) -> list[str]:
    results = Results(Selection(results_dir=(str(root),), **selection))
    return warnings(results, configurations(results.runs))


def sample(second: float, reasons: int | None = 0, clock: int | None = 1980, uuid: str = "GPU-1") -> dict[str, Any]:
    """A reading so long after the run began; STEADY is timed from 50 s to 62 s."""
    return {"t_ns": round(second * SECOND), "gpu_uuid": uuid, "throttle_reasons": reasons, "sm_clock_mhz": clock}


def test_a_quiet_run_is_left_alone(tmp_path: Path) -> None:
    add_run(tmp_path, STEADY, telemetry=[sample(51), sample(52, 0x1, 345), {"t_ns": 53 * SECOND, "rss_bytes": 1}])
    assert said(tmp_path) == []


def test_noise_in_many_runs_is_left_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        add_run(tmp_path, list(random.lognormal(np.log(0.1), 0.03, 30)))
    assert said(tmp_path) == []


def test_two_levels(tmp_path: Path) -> None:
    add_run(tmp_path, STEADY)
    add_run(tmp_path, [0.1, 0.1, 0.12, 0.1, 0.12] * 4)
    add_run(tmp_path, [0.1, 0.1, 0.13, 0.1, 0.13] * 4)
    assert said(tmp_path) == [
        "Step times have two levels in 2 of 3 runs (worst: single x1 mnist_cnn, run R00002, 30% apart): something "
        "switched on and off, such as another job or a clock; look for it, and do not trust their medians."
    ]


def test_unequal_workers_of_parameter_servers_are_no_levels(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1, 0.1, 0.13, 0.1, 0.13] * 4, strategy="ps", synchronous=False, num_ps=1, num_processes=2)
    assert said(tmp_path) == []


@pytest.mark.parametrize(
    ("first", "last", "words"), [(0.1, 0.133, "23% longer"), (0.133, 0.1, "19% shorter"), (0.1, 0.1011, None)]
)
def test_drift(tmp_path: Path, first: float, last: float, words: str | None) -> None:
    add_run(tmp_path, list(np.linspace(first, last, 12)))
    sentence = (
        f"Step times drift in 1 of 1 run (worst: single x1 mnist_cnn, run R00000, {words} in the last third than in "
        "the first): let the machine come to rest and measure more iterations, --num-iters."
    )
    assert [each for each in said(tmp_path) if "drift" in each] == ([sentence] if words else [])


def test_a_warm_up_that_was_too_short(tmp_path: Path) -> None:
    add_run(tmp_path, [0.2, *STEADY])
    assert said(tmp_path) == [
        "Warm-up had not settled in 1 of 1 run (worst: single x1 mnist_cnn, run R00000, the first tenth of the timed "
        "iterations 100% slower than the rest): measure again with more --num-warmup-batches."
    ]


def test_the_bits_are_those_of_nvml() -> None:
    assert {
        "software power cap": pynvml.nvmlClocksEventReasonSwPowerCap,
        "hardware slowdown": pynvml.nvmlClocksEventReasonHwSlowdown,
        "software thermal slowdown": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        "hardware thermal slowdown": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
        "power brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    } == {name: bit for bit, name in THROTTLING.items()}


def test_throttling_counts_only_while_timing(tmp_path: Path) -> None:
    add_run(tmp_path, STEADY, telemetry=[sample(49, 0x8), sample(51), sample(52), sample(63, 0x8)])
    assert said(tmp_path) == []
    add_run(tmp_path, STEADY, telemetry=[sample(51, 0x4), sample(52), sample(53), sample(54)])
    add_run(tmp_path, STEADY, telemetry=[sample(51, 0x48), sample(52, 0x4), sample(53, None), sample(54, 0x102)])
    assert said(tmp_path) == [
        "GPUs were throttled while timing in 2 of 3 runs: software power cap in 2, hardware slowdown in 1, hardware "
        "thermal slowdown in 1 (worst: single x1 mnist_cnn, run R00002, 67% of the samples): cool them, raise their "
        "power limit or lock a lower clock with nvidia-smi --lock-gpu-clocks, and measure again."
    ]


def test_clocks_are_compared_within_a_gpu(tmp_path: Path) -> None:
    add_run(tmp_path, STEADY, telemetry=[sample(51, 0, 1980), sample(51, 0, 1400, "GPU-2")])
    assert said(tmp_path) == []
    changing = [sample(51, 0, 1980), sample(52, 0, 1410), sample(53, 0x1, 345), sample(63, 0, 345)]
    add_run(tmp_path, STEADY, hostnames=["node3"], telemetry=changing)
    assert said(tmp_path) == [
        "SM clocks changed by more than 10% while timing in 1 of 2 runs (worst: single x1 mnist_cnn, run R00001, 1410 "
        "to 1980 MHz on node3): lock them with nvidia-smi --lock-gpu-clocks, and measure again."
    ]


def test_stragglers_and_the_host_that_is_slowest_most_often(tmp_path: Path) -> None:
    for shares in ((0.5, 0.7), (0.5, 0.8), (0.7, 0.5), (0.6, 0.61)):
        add_run(tmp_path, STEADY, hostnames=["node6", "node7"], compute_shares=shares, **TWO)
    assert said(tmp_path) == [
        "One rank is a straggler in 3 of 4 runs: it needs more than 5% of a step longer than the median rank (worst: "
        "mwms x2 mnist_cnn, run R00001, rank 1 on node7, 15%; slowest is node7 in 2 of 3 on several nodes): look there "
        "for other load, fewer cores or a lower clock."
    ]


def test_runs_without_iterations(tmp_path: Path) -> None:
    add_run(tmp_path, STEADY)
    add_run(tmp_path, [])
    add_run(tmp_path, status="failed")
    assert said(tmp_path) == [
        "Iterations are missing or cannot be read in 1 of 2 runs that ended well (first: single x1 mnist_cnn, run "
        "R00001): bring back their files, or measure again."
    ]


def test_only_the_chosen_runs_are_looked_at(tmp_path: Path) -> None:
    add_run(tmp_path, STEADY)
    add_run(tmp_path, [0.2, *STEADY], experiment="other", telemetry=[sample(51, 0x8)])
    assert said(tmp_path, experiment=("e",)) == []
    assert said(tmp_path, where="experiment = 'e'") == []
    assert len(said(tmp_path)) == 2


def test_damaged_telemetry_is_skipped_and_named(tmp_path: Path) -> None:
    add_run(tmp_path, STEADY, telemetry=[sample(51, 0x8)])
    add_run(tmp_path, STEADY, telemetry=[sample(51, 0x8)])
    (damaged,) = (tmp_path / "telemetry").rglob("R00001.parquet")
    damaged.write_bytes(b"PAR1 and then the disk was full PAR1")
    results = Results(Selection(results_dir=(str(tmp_path),)))
    (sentence,) = warnings(results, configurations(results.runs))
    assert sentence.startswith("GPUs were throttled while timing in 1 of 2 runs: hardware slowdown in 1 (worst:")
    assert [skipped.path for skipped in results.skipped] == [damaged]
