"""The ways to exchange gradients: collectives, Horovod's knobs, precision under several processes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs.launch import free_ports
from tests.benchmark import BOUND_S, Benchmark
from tests.processes.test_endings import TWO, tf_config

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("strategy", "asked", "actual"),
    [
        ("mirrored", "hierarchical_copy", "hierarchical_copy"),
        ("mirrored", "reduction_to_one_device", "reduction_to_one_device"),
        ("mwms", "ring", "ring"),
    ],
)
def test_the_collective_asked_for_is_the_one_that_runs(
    benchmark: Benchmark, strategy: str, asked: str, actual: str
) -> None:
    devices = "--devices-per-worker=2" if strategy == "mirrored" else "--num-workers=2"
    done = benchmark.run(f"--strategy={strategy}", devices, f"--all-reduce={asked}", "--xla")
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert (run["requested_all_reduce"], run["actual_all_reduce"], run["xla"]) == (asked, actual, True)


def test_the_weights_of_central_live_where_they_are_put(benchmark: Benchmark) -> None:
    program = (
        "import strategies.training as t\nweights = t.ReplicatedTrainer.weights\n"
        "def tell(self, replica):\n"
        "    devices = {v.value.device.rpartition('device:')[2] for v in self.model.trainable_variables}\n"
        "    print('WEIGHTS', *devices)\n    return weights(self, replica)\n"
        "t.ReplicatedTrainer.weights = tell"
    )
    done = benchmark.run("--strategy=central", "--devices-per-worker=2", "--parameter-device=CPU:1", patch=program)
    assert done.returncode == 0, done.stderr
    assert set(re.findall("^WEIGHTS (.*)$", done.stdout, re.M)) == {"CPU:1"}
    assert dict(benchmark.only_run()["exchange"]) == {"parameter_device": "CPU:1"}


def test_horovods_knobs_are_turned_and_recorded(benchmark: Benchmark, tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.json"
    knobs = ["--fusion-threshold-mib=0", "--cycle-time-ms=2.5", "--compression=fp16", f"--timeline={timeline}"]
    done = benchmark.run("--strategy=horovod", "--num-workers=2", "--precision=bf16", *knobs)
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert dict(run["exchange"]) == {
        "fusion_threshold_mib": "0",
        "cycle_time_ms": "2.5",
        "compression": "fp16",
        "timeline": str(timeline),
    }
    assert (run["precision"], run["actual_all_reduce"]) == ("bf16", "ring")
    digests = {digest for row in benchmark.table("ranks")["weight_digests"] for digest in row}
    assert len(digests) == 1
    events = json.loads(timeline.read_text())
    kinds = {event.get("name") for event in events}
    assert "GLOO_ALLREDUCE" in kinds
    # Without fusion nothing is copied into a common buffer; sent as float16, the 16 bits show.
    assert "MEMCPY_IN_FUSION_BUFFER" not in kinds
    sent = {event["args"]["dtype"] for event in events if "dtype" in event.get("args", {})}
    assert "float16" in sent


def test_fp16_scales_the_loss_under_several_workers(benchmark: Benchmark) -> None:
    done = benchmark.run(*TWO, "--precision=fp16", "--dataset=digits")
    assert done.returncode == 0, done.stderr
    run = benchmark.only_run()
    assert (run["precision"], run["status"]) == ("fp16", "ok")
    assert benchmark.table("iters")["loss"].between(1.0, 4.0).all()


def test_servers_end_when_the_coordinator_does(benchmark: Benchmark) -> None:
    """Nothing is left afterwards, as after every test; and the fault is the coordinator's."""
    fault = "def run(self, n): raise RuntimeError('broken on purpose')"
    patch = f"import strategies.ps as p\n{fault}\np.CoordinatedTrainer.run = run"
    done = benchmark.run("--strategy=ps", "--num-workers=2", patch=patch)
    assert done.returncode == 4
    assert "rank 0 in trace: RuntimeError: broken on purpose" in done.stderr
    assert benchmark.only_run()["failed_rank"] == 0


@pytest.mark.parametrize("strategy", ["mwms", "ps"])
def test_a_site_s_proxy_is_not_asked_for_the_way_to_a_peer(benchmark: Benchmark, strategy: str) -> None:
    """Nobody answers at that proxy."""
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    done = benchmark.run(f"--strategy={strategy}", "--num-workers=2", "--rendezvous-timeout=30", env=proxy)
    assert done.returncode == 0, done.stderr


def test_ranks_with_other_libraries_are_told_apart(benchmark: Benchmark) -> None:
    """Two tasks by TF_CONFIG, the second with another Keras."""
    other = "import keras, os\nif '\"index\": 1' in os.environ['TF_CONFIG']: keras.__version__ = '3.99.0'"
    ports = free_ports(2)
    tasks = [benchmark.start(TWO[0], env=tf_config(ports, index), patch=other) for index in range(2)]
    for task in tasks:
        _, stderr = task.communicate(timeout=BOUND_S)
        assert task.returncode == 3
        assert "rank 1 (" in stderr
        assert "has Keras 3.99.0 but rank 0 (" in stderr
        assert "install the same everywhere" in stderr
    assert benchmark.left_behind() == []


def test_a_horovod_without_the_controller_says_which_it_has(benchmark: Benchmark) -> None:
    patch = "import horovod.tensorflow as hvd\nhvd.gloo_built = lambda: False"
    done = benchmark.run("--strategy=horovod", "--num-workers=2", patch=patch)
    assert done.returncode == 3
    assert "this Horovod was built without GLOO: use --controller mpi" in done.stderr
    assert benchmark.left_behind() == []
