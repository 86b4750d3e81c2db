"""The lines that other tools match, checked with the patterns that those tools use."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
from pathlib import Path

import pytest

from bench.config import parse
from bench.launch_plan import plan_launch
from bench.output import print_eval, print_header, print_iter, print_summary, tell
from bench.summary import FIGURES
from bench.telemetry import Gpus
from tests.emulated_nvml import install

SUMMARY = dict.fromkeys(FIGURES) | {
    "run_id": "R",
    "status": "ok",
    "device_kind": "cpu",
    "num_devices": 2,
    "images_per_s": 2468.94,
    "images_per_s_spread": 24.6,
    "step_time_p50_s": 0.01,
    "epochs": None,
    "target_accuracy": None,
}


def test_a_run_prints_what_reframe_and_tf_cnn_benchmarks_match(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, [])
    plan = plan_launch(parse(["--strategy=mwms", "--num-workers=2", "--batch-size=32"]), None, Gpus({}), {}).plan
    print_header(plan)
    print_iter(plan, {"num_batches": 10, "duration_s": 0.25}, 3)
    print_summary(SUMMARY, as_json=True)
    out = capsys.readouterr().out
    assert re.search(r"^Model: mnist_cnn$", out, re.M)
    assert "Phase" not in out
    assert re.search(r"^Batch size: 32$", out, re.M)
    assert re.search(r"^Number of CPUs: 2$", out, re.M)
    assert re.search(r"^Iter #3: 1280\.0 img/sec per CPU$", out, re.M)
    assert re.search(r"^Img/sec per CPU: (?P<rate>\S+) \+-(?P<spread>\S+)$", out, re.M)
    total = re.search(r"^Total img/sec on 2 CPU\(s\): (?P<rate>\S+) \+-(?P<spread>\S+)$", out, re.M)
    assert total
    assert (float(total["rate"]), float(total["spread"])) == (2468.9, 24.6)
    assert re.search(r"^total images/sec: (\d+\.\d+)$", out, re.M)
    logged = [json.loads(line.removeprefix(":::MLLOG ")) for line in out.splitlines() if line.startswith(":::MLLOG ")]
    assert [entry["key"] for entry in logged] == ["throughput", "step_time_p50"]
    assert logged[0]["value"] == 2468.94
    assert set(logged[0]) == {"namespace", "time_ms", "event_type", "key", "value", "metadata"}
    assert json.loads(out.splitlines()[-1]) == SUMMARY


def test_a_forward_run_says_so_and_prints_the_same_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, [])
    plans = [plan_launch(parse(flags), None, Gpus({}), {}).plan for flags in ([], ["--phase=forward"])]
    said = []
    for plan in plans:
        print_header(plan)
        print_iter(plan, {"num_batches": 10, "duration_s": 0.25}, 3)
        said.append(capsys.readouterr().out.splitlines())
    assert [line for line in said[1] if line != "Phase: forward"] == said[0]
    assert "Phase: forward" in said[1]


def test_a_run_by_epochs_says_what_it_learned_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    print_eval({"epoch": 2, "accuracy": 0.97123, "loss": 0.1, "train_s": 12.34}, "R")
    asked = {"epochs": 5, "target_accuracy": 0.97}
    print_summary(SUMMARY | asked | {"time_to_accuracy_s": 12.34}, as_json=False)
    print_summary(SUMMARY | asked | {"best_accuracy": 0.91}, as_json=False)
    out = capsys.readouterr().out
    assert "Epoch 2: accuracy 0.9712, loss 0.1000, 12.3 s trained" in out
    assert out.count("Time to accuracy 0.97: 12.34 s of training") == 1
    assert out.count("Target accuracy 0.97 not reached in 5 epoch(s): best 0.9100") == 1
    logged = [json.loads(line.removeprefix(":::MLLOG ")) for line in out.splitlines() if line.startswith(":::MLLOG ")]
    keys = [entry["key"] for entry in logged]
    assert keys == ["eval_accuracy", "throughput", "step_time_p50", "time_to_accuracy", "throughput", "step_time_p50"]
    assert logged[0]["metadata"] == {"epoch_num": 2, "train_s": 12.34, "run_id": "R"}
    assert (logged[0]["value"], logged[3]["value"]) == (0.97123, 12.34)
    assert out.splitlines()[-1] == "total images/sec: 2468.94"


def test_on_gpus_the_lines_say_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(SUMMARY | {"device_kind": "gpu"}, as_json=False)
    out = capsys.readouterr().out
    assert "Img/sec per GPU: 1234.5 +-12.3" in out
    assert "Total img/sec on 2 GPU(s): 2468.9 +-24.6" in out
    assert out.splitlines()[-1] == "total images/sec: 2468.94"


def test_a_failed_run_prints_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(SUMMARY | {"status": "failed"}, as_json=True)
    out = capsys.readouterr().out
    assert "mg/sec" not in out
    assert json.loads(out)["status"] == "failed"


def test_a_terminal_that_is_gone_fails_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, terminal = pty.openpty()
    os.close(ours)  # from here on a write to the terminal is EIO
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        tell("a line")
        tell("another")
        assert str(Path(f"/proc/self/fd/{stream.fileno()}").readlink()) == os.devnull
