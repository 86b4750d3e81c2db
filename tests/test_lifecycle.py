"""What is said when a run begins of columns that may be null in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.config import parse
from bench.launch_plan import plan_launch
from bench.lifecycle import describe_run
from bench.telemetry import Gpus
from results.store import Store
from tests.emulated_nvml import H200, install

GPUS = [H200 | {"uuid": f"GPU-{index}".encode()} for index in range(2)]


def reasons(folder: Path, *flags: str) -> dict[str, Any]:
    """Column -> why it would be null."""
    gpus = Gpus({})
    plan = plan_launch(parse(flags), None, gpus, {}).plan
    store = Store(folder)
    store.prepare()
    shard = store.open_shard("R", "run")
    describe_run(shard, store, plan, {}, gpus)
    said: dict[str, Any] = shard.content().run["null_reasons"]
    shard.close()
    store.discard("R")
    return said


def test_a_run_that_ends_before_it_trains_says_why_it_does_not_know_its_model_and_data(tmp_path: Path) -> None:
    known = reasons(tmp_path, "--dataset=digits", "--epochs=1", "--device=cpu")
    for column in ("num_samples", "data_digest", "sharding", "num_iters"):
        assert known[column] == "the run ended before its data was read"
    for column in ("num_params", "trainable_params", "gradient_bytes", "predicted_mem_bytes"):
        assert known[column] == "the run ended before its model was built"
    for column in ("peak_flops_per_s", "peak_source"):
        assert known[column] == "the run ended before its peak was known"
    assert reasons(tmp_path, "--phase=forward")["gradient_bytes"] == "the forward phase makes no gradients"


def test_ranks_that_sample_no_gpu_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, GPUS)
    column = "gpu_peak_mem_used_bytes"
    assert column not in reasons(tmp_path, "--strategy=mirrored")
    assert reasons(tmp_path, "--strategy=mirrored", "--telemetry-period=0")[column] == (
        "--telemetry-period 0 takes no samples"
    )
    shared = reasons(tmp_path, "--strategy=mwms", "--num-workers=2")[column]
    assert shared == "of a host's processes, the first that trains samples the GPUs they share"
