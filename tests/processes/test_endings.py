"""Runs that don't end well: what the user is told, what is kept, and that nobody is left."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from jobs.launch import free_ports
from tests.benchmark import (
    BOUND_S,
    Benchmark,
    shard_lines,
    wait_until_timing,
    worker_pid,
)

pytestmark = pytest.mark.processes

TWO = ("--strategy=mwms", "--num-workers=2")
ENDLESS = ("--num-iters=100000", "--telemetry-period=0")


def test_a_killed_worker_ends_the_run_and_every_iteration_is_kept(benchmark: Benchmark) -> None:
    process = benchmark.start(*TWO, *ENDLESS, "--json")
    wait_until_timing(benchmark, process)
    before = [shard_lines(benchmark, rank, "iters") for rank in range(2)]
    os.kill(worker_pid(benchmark, 1), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "rank 1 in timed: was killed by SIGKILL" in stderr
    assert json.loads(stdout.splitlines()[-1])["status"] == "lost"
    run = benchmark.only_run()
    assert (run["status"], run["exit_code"], run["failed_rank"], run["failed_phase"]) == ("lost", 4, 1, "timed")
    kept = benchmark.table("iters").groupby("rank").size()
    assert kept[0] >= before[0]
    assert kept[1] >= before[1]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_is_recorded(benchmark: Benchmark, signum: signal.Signals, code: int) -> None:
    process = benchmark.start(*TWO, *ENDLESS)
    wait_until_timing(benchmark, process)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert f"stopped by {signum.name}" in stderr
    run = benchmark.only_run()
    assert (run["status"], run["exit_code"]) == ("interrupted", code)
    assert len(benchmark.table("iters")) >= 12


IMPATIENT = """
from results.store import Store
import signal

commit = Store.commit

def interrupted(*what):
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), signum)
    commit(*what)

Store.commit = interrupted
"""


def test_signals_that_come_while_the_run_is_recorded_do_not_cut_that_off(benchmark: Benchmark) -> None:
    done = benchmark.run("--strategy=single", patch=IMPATIENT)
    assert done.returncode == 0, done.stderr
    assert benchmark.only_run()["status"] == "ok"
    assert not (benchmark.results / ".shards").exists()


def test_the_time_limit_ends_the_run_and_names_who_was_where(benchmark: Benchmark) -> None:
    done = benchmark.run(*TWO, *ENDLESS, "--timeout=12")
    assert done.returncode == 124
    assert "not finished after 12 s" in done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["exit_code"]) == ("timeout", 124)
    assert set(benchmark.table("ranks")["rank"]) == {0, 1}


def tf_config(ports: list[int], index: int) -> dict[str, str]:
    workers = [f"127.0.0.1:{port}" for port in ports]
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})}


def test_two_processes_join_by_tf_config_and_write_one_run(benchmark: Benchmark) -> None:
    ports = free_ports(2)
    processes = [
        benchmark.fresh.start("--strategy=mwms", "--json", "--cores-per-device=1", env=tf_config(ports, index))
        for index in (1, 0)
    ]
    outputs = [process.communicate(timeout=BOUND_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == ""
    assert json.loads(outputs[1][0].splitlines()[-1])["num_devices"] == 2
    run = benchmark.only_run()
    assert (run["status"], run["num_processes"]) == ("ok", 2)
    ranks = benchmark.table("ranks")
    assert len({digest for row in ranks["weight_digests"] for digest in row}) == 1
    assert set(benchmark.table("iters")["run_id"]) == {run["run_id"]}
    assert set(ranks["import_s"].notna()) == {True}


def test_a_peer_that_never_comes_ends_in_a_timeout_that_is_recorded(benchmark: Benchmark) -> None:
    ports = free_ports(2)
    done = benchmark.run("--strategy=mwms", "--rendezvous-timeout=4", env=tf_config(ports, 0))
    assert done.returncode == 124
    assert f"rank 1 (127.0.0.1:{ports[1]}) never arrived within 4 s: look whether all processes were st" in done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["failed_rank"]) == ("timeout", 1)


def test_a_task_that_waits_in_vain_for_rank_zero_says_so(benchmark: Benchmark) -> None:
    ports = free_ports(2)
    done = benchmark.run("--strategy=mwms", "--rendezvous-timeout=2", env=tf_config(ports, 1))
    assert done.returncode == 124
    (line,) = [line for line in done.stderr.splitlines() if "bench.run: " in line]
    assert f"rank 0 (127.0.0.1:{ports[0]}) did not answer rank 1 within 2 s: look whether" in line


def test_tasks_with_different_settings_are_told_apart(benchmark: Benchmark) -> None:
    ports = free_ports(2)
    processes = [
        benchmark.start("--strategy=mwms", f"--seed={index}", env=tf_config(ports, index)) for index in range(2)
    ]
    errors = [process.communicate(timeout=BOUND_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert all("rank 1" in error and "other settings" in error for error in errors)
    assert benchmark.left_behind() == []


def test_a_port_in_use_is_one_line_and_leaves_nothing_behind(benchmark: Benchmark) -> None:
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen()
        taken = int(listener.getsockname()[1])
        done = benchmark.run("--strategy=mwms", env=tf_config([taken, *free_ports(1)], 0))
    assert done.returncode == 3
    assert f"port {taken} of this process is in use" in done.stderr
    assert benchmark.left_behind() == []


def test_a_diverging_loss_fails_the_run(benchmark: Benchmark) -> None:
    done = benchmark.run(*TWO, "--lr=1e30")
    assert done.returncode == 4
    assert "loss is nan" in done.stderr or "loss is inf" in done.stderr
    assert "Traceback" not in done.stderr
    run = benchmark.only_run()
    assert run["status"] == "failed"
    assert len(benchmark.table("iters")) >= 1


def test_replicas_that_were_not_averaged_fail_the_run(benchmark: Benchmark) -> None:
    patch = "import strategies.mwms as m; m.MultiWorkerMirrored.trainer = m.Independent.trainer"
    done = benchmark.run(*TWO, patch=patch)
    assert done.returncode == 4
    assert "rank 1 in leave" in done.stderr
    assert "not averaged" in done.stderr
    assert benchmark.only_run()["status"] == "failed"


def test_running_out_of_device_memory_has_a_status_of_its_own(benchmark: Benchmark) -> None:
    patch = (
        "import tensorflow as tf, strategies.training as t\n"
        "def run(self, n): raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')\n"
        "t.ReplicatedTrainer.run = run"
    )
    done = benchmark.run("--strategy=single", patch=patch)
    assert done.returncode == 4
    assert "ResourceExhaustedError: OOM when allocating tensor" in done.stderr
    run = benchmark.only_run()
    assert (run["status"], run["failed_phase"]) == ("oom", "trace")


def test_a_corrupt_data_file_is_one_line_and_leaves_nothing_behind(benchmark: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 not really")
    done = benchmark.run("--dataset=mnist", f"--data-dir={tmp_path}")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "mnist.npz") in done.stderr
    assert benchmark.left_behind() == []


@pytest.mark.parametrize(
    ("flags", "env", "code", "message"),
    [
        (["--strategy=mwmss"], {}, 2, "unknown strategy 'mwmss'. Did you mean 'mwms'?"),
        (["--num-workers=2"], {}, 2, "runs in one process and has no use for 2"),
        (["--dataset=mnist", "--data-dir=/nowhere"], {}, 2, "'mnist.npz' not found"),
        (["--results-dir=/proc/nothing"], {}, 3, "results directory '/proc/nothing' cannot be written"),
        ([], {"TF_CONFIG": "{"}, 2, "TF_CONFIG is not JSON"),
        ([], tf_config([1, 2], 0), 2, "strategy 'single' runs in one process but TF_CONFIG has 2"),
        (["--strategy=mwms", "--num-workers=3"], tf_config([1, 2], 0), 2, "TF_CONFIG has 2 tasks"),
        (["--strategy=mwms", "--port-base=9000"], tf_config([1, 2], 0), 2, "TF_CONFIG names the ports"),
        ([], {"NVIDIA_TF32_OVERRIDE": "0"}, 2, "unset NVIDIA_TF32_OVERRIDE, or ask with --precision tf32"),
        (
            ["--strategy=horovod", "--num-workers=2", "--cycle-time-ms=5"],
            {"HOROVOD_CYCLE_TIME": "3"},
            2,
            "HOROVOD_CYCLE_TIME=3, which contradicts --cycle-time-ms: leave one of them out",
        ),
        ([], {"HOROVOD_SIZE": "4"}, 2, "horovodrun started 4 processes, which it leaves no way to meet: use mpirun"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(
    benchmark: Benchmark, flags: list[str], env: dict[str, str], code: int, message: str
) -> None:
    done = benchmark.fresh.run(*flags, env=env)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert benchmark.left_behind() == []


def test_a_run_leaves_no_temporary_files(benchmark: Benchmark, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = benchmark.run("--strategy=mwms", "--num-workers=2", env={"TMPDIR": str(temporary)})
    assert done.returncode == 0, done.stderr
    assert list(temporary.iterdir()) == []
