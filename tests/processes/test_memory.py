"""Predicted memory, the peak of a device, and the largest batch: against what TensorFlow really does on a CPU."""

from __future__ import annotations

import subprocess

import pandas as pd
import pytest

from tests.benchmark import ONEDNN, ROOT, SEVERAL_S, Benchmark, clean_environment, last_json, run_all

pytestmark = [pytest.mark.processes, pytest.mark.timeout(SEVERAL_S)]

WITHIN = 0.25
FEW = ("--num-warmup-batches=1", "--num-batches-per-iter=1", "--num-iters=1", "--device=cpu", "--telemetry-period=0")
"""The second step needs all that any later one needs."""
CASES = [("mnist_cnn", 64), ("mnist_cnn", 1024), ("vgg16", 1), ("vgg16", 2), ("vgg16", 4)]
WITH_PEAK = ("mnist_cnn", 1024)


@pytest.fixture(scope="module", params=["0", "1"], ids=["without oneDNN", "with oneDNN"])
def runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> pd.DataFrame:
    """A row of `runs` for each case, with the highest peak of a rank, and the figures that the run printed; TensorFlow
    is loaded once for all."""
    results = tmp_path_factory.mktemp("memory") / "data"
    commands = [
        [
            *(f"--model={model}", f"--batch-size={batch}", *FEW, f"--results-dir={results}", "--json"),
            *(["--measure-peak"] if (model, batch) == WITH_PEAK else []),
        ]
        for model, batch in CASES
    ]
    printed = {line["run_id"]: line for line in map(last_json, run_all(commands, {ONEDNN: request.param}))}
    table = pd.read_parquet(results / "runs").set_index("run_id")
    table["measured"] = pd.read_parquet(results / "ranks").groupby("run_id")["framework_peak_mem_bytes"].max()
    table["printed"] = pd.Series(printed)
    return table.set_index(["model", "batch_per_device"])


@pytest.mark.parametrize(("model", "batch"), CASES)
def test_the_prediction_is_within_a_quarter_of_the_allocators_peak(runs: pd.DataFrame, model: str, batch: int) -> None:
    run = runs.loc[(model, batch)]
    ratio = run["predicted_mem_bytes"] / run["measured"]
    assert 1 - WITHIN <= ratio <= 1 + WITHIN, (run["predicted_mem_bytes"], run["measured"])
    assert run["printed"]["predicted_mem_bytes"] == run["predicted_mem_bytes"]


def test_a_timed_matrix_product_gives_the_peak_that_mfu_counts_from(runs: pd.DataFrame) -> None:
    run = runs.loc[WITH_PEAK]
    assert run["peak_source"].startswith("measured: matrix product n=")
    printed = run["printed"]
    expected = run["train_flops_per_image"] * printed["images_per_s_per_device"] / run["peak_flops_per_s"]
    assert printed["mfu"] == pytest.approx(expected)
    assert printed["mfu"] > 0
    other = runs.loc[("mnist_cnn", 64)]
    assert other["printed"]["mfu"] is None
    assert "--measure-peak" in dict(other["null_reasons"])["peak_flops_per_s"]
    assert "--measure-peak" in dict(other["null_reasons"])["peak_source"]


LIMITS = {
    "0": {"TF_CPU_BFC_MEM_LIMIT_IN_MB": "140"},
    "1": {"TF_MKL_ALLOC_MAX_BYTES": "110000000"},
}
"""oneDNN -> the limit of the allocator that goes with it."""


@pytest.mark.parametrize("onednn", LIMITS)
def test_trials_that_run_out_of_memory_are_recorded_as_such(benchmark: Benchmark, onednn: str) -> None:
    """TensorFlow's allocator on the CPU can be given a limit; then it says what it says of a full GPU."""
    words = [word for word in benchmark.command() if not word.startswith("--num-")]
    done = subprocess.run(
        [*words, "--find-max-batch", "--batch-size=512", "--max-batch-size=512", "--json"],
        cwd=ROOT,
        env=clean_environment() | {ONEDNN: onednn, **LIMITS[onednn]},
        capture_output=True,
        text=True,
        timeout=SEVERAL_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = last_json(done.stdout)
    good, bad = found["max_batch_per_device"], found["smallest_that_does_not_fit"]
    assert 256 <= good < bad <= 512
    assert bad - good == 32
    recorded = benchmark.table("runs").set_index("run_id")
    for trial in found["trials"]:
        row = recorded.loc[trial["run_id"]]
        # Where TensorFlow's operations on the CPU crash for want of memory, its warning tells why.
        assert row["status"] in (("ok",) if trial["fits"] else ("oom", "lost"))
        assert row["batch_per_device"] == trial["batch_per_device"]
        assert trial["fits"] or "OOM when allocating" in trial["error"] or "ran out of memory" in trial["error"]
        assert row["experiment"] == "find-max-batch"
        assert trial["fits"] == (trial["batch_per_device"] <= good)
    assert len(found["trials"]) == len(recorded)
