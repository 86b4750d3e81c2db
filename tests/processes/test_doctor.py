"""The command as a user starts it: alone, as several tasks, with a task that never comes, and stopped half way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import probes
from bench.doctor import CHECKS
from jobs.launch import free_ports
from strategies import STRATEGIES
from tests.benchmark import BOUND_S, ROOT, SEVERAL_S, clean_environment, last_json

pytestmark = pytest.mark.processes

HASTY = (
    "import sys; from bench import doctor; doctor._MEETING_S = 2; doctor.Node._probes = lambda self: {}; "
    "sys.exit(doctor.main(sys.argv[1:]))"
)
"""Loads nothing, and waits 2 s for the others."""


def start(results: Path, *flags: str, program: str | None = None, **env: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in clean_environment().items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, *(["-c", program] if program else ["-m", "bench.doctor"]), f"--results-dir={results}", *flags],
        cwd=ROOT,
        env=clean | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tf_config(ports: list[int], index: int) -> str:
    workers = [f"127.0.0.1:{port}" for port in ports]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def status(stdout: str, name: str) -> str:
    (line,) = [line for line in stdout.splitlines() if line[6:].startswith(f"{name}  ")]
    return line[:4].strip()


@pytest.mark.timeout(SEVERAL_S)
def test_this_machine_can_run_and_nothing_is_left_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start(tmp_path / "new" / "results", "--json", TMPDIR=str(temporary))
    stdout, stderr = process.communicate(timeout=SEVERAL_S)
    assert (process.returncode, stderr) == (0, ""), stdout
    assert list(tmp_path.rglob("*")) == [temporary]
    for name in ("TensorFlow", "Python", "packages", "GPUs", "NCCL", "loopback", "results directory", "clocks"):
        assert status(stdout, name) == "ok", stdout
    said = last_json(stdout)
    tried = [name for name in STRATEGIES if name != "horovod" or probes.installed("horovod")]
    names = [check["name"] for check in said["nodes"][0]["checks"]]
    assert names == [*CHECKS, *(f"strategy {name}" for name in tried)]
    assert {status(stdout, f"strategy {name}") for name in tried} == {"ok"}
    assert {"TensorFlow", "Keras", "Python", "cores"} <= set(said["nodes"][0]["facts"])
    assert (len(said["nodes"]), said["differences"], said["exit_code"]) == (1, {}, 0)
    assert not any(check["status"] == "fail" for check in said["nodes"][0]["checks"] + said["together"])


def test_two_tasks_tell_what_differs_between_them(tmp_path: Path) -> None:
    ports = free_ports(2)
    other = start(tmp_path / "r" / "b", "--json", "--quick", TF_CONFIG=tf_config(ports, 1), OMP_NUM_THREADS="1")
    first = start(tmp_path / "r" / "a", "--json", "--quick", TF_CONFIG=tf_config(ports, 0))
    stdout, stderr = first.communicate(timeout=BOUND_S)
    assert other.communicate(timeout=BOUND_S) == ("", "")
    assert (first.returncode, other.returncode, stderr) == (3, 3, ""), stdout
    assert "thread settings           rank 1 (" in stdout
    assert status(stdout, "TensorFlow") == "ok"
    assert status(stdout, "one results directory") == "fail"
    said = last_json(stdout)
    assert said["differences"]["OMP_NUM_THREADS"] == {"none": [0], "1": [1]}
    assert said["differences"]["check of thread settings"] == {"ok": [0], "warn": [1]}
    assert said["differences"]["results directory"] == {f"{tmp_path}/r/a": [0], f"{tmp_path}/r/b": [1]}
    assert said["exit_code"] == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_that_never_comes_is_told_by_the_one_that_did(tmp_path: Path, rank: int) -> None:
    ports = free_ports(2)
    process = start(tmp_path / "r", "--quick", program=HASTY, TF_CONFIG=tf_config(ports, rank))
    stdout, stderr = process.communicate(timeout=BOUND_S)
    assert process.returncode == 3
    said = ("rank 1 (127.0.0.1:{1}) never arrived", "rank 0 (127.0.0.1:{0}) did not answer rank 1")[rank]
    assert f"{said.format(*ports)} within 2 s: look whether" in (stderr if rank else stdout)
    assert len(stderr.splitlines()) == rank
    assert bool(stdout) == (rank == 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("signum", "when"),
    [(signal.SIGTERM, "r/.doctor-*"), (signal.SIGINT, "r/.doctor-*"), (signal.SIGTERM, "doctor-*/data/.shards/*/*")],
    ids=["SIGTERM", "SIGINT", "SIGTERM in a run"],
)
def test_stopped_half_way_it_leaves_nothing_behind(tmp_path: Path, signum: signal.Signals, when: str) -> None:
    process = start(tmp_path / "r", TMPDIR=str(tmp_path))
    deadline = time.monotonic() + BOUND_S
    while not list(tmp_path.glob(when)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signum)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 128 + signum
    assert list(tmp_path.iterdir()) == []
