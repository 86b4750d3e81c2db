from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.provenance import allowed_environment, cgroup_limits, cpu_model, git_state, of_host
from bench.telemetry import Gpus
from results.schema import PROVENANCE


def test_only_allowed_variables_without_secrets_are_recorded() -> None:
    env = {
        "TF_CONFIG": "{}",
        "OMP_NUM_THREADS": "2",
        "NCCL_DEBUG": "INFO",
        "HOROVOD_CYCLE_TIME": "5",
        "SLURM_JOB_ID": "7",
        "CUDA_VISIBLE_DEVICES": "0",
        "SLURM_JWT": "secret",
        "HOROVOD_SECRET_KEY": "secret",
        "TF_API_TOKEN": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HOME": "secret",
        "MY_TF_THING": "secret",
        "CUDA_VISIBLE_DEVICES_X": "secret",
    }
    assert list(allowed_environment(env)) == sorted(name for name, value in env.items() if value != "secret")


def test_secrets_in_values_are_masked() -> None:
    env = {
        "MY_TOKEN": "a-secret-value",
        "LONGER_TOKEN": "a-secret-value-and-more",
        "SHORT_KEY": "1",
        "SLURM_EXPORT_ENV": "ALL,API_KEY=x,HOME=/h",
        "NCCL_NOTE": "1 a-secret-value a-secret-value-and-more",
        "TF_URL": "http://user:p@ss@host/path?token=abc&b=1",
        "TF_CONFIG": '{"password": "x", "task": {"index": 0}}',
        "TF_BYTES": "\udcff",
    }
    assert allowed_environment(env) == {
        "NCCL_NOTE": "1 *** ***",
        "SLURM_EXPORT_ENV": "ALL,API_KEY=***,HOME=/h",
        "TF_BYTES": "?",
        "TF_CONFIG": '{"password": "***", "task": {"index": 0}}',
        "TF_URL": "http://***@host/path?token=***&b=1",
    }


def test_everything_in_the_host_part_is_a_column_and_what_is_missing_has_a_reason() -> None:
    fields, reasons = of_host({}, Gpus({"CUDA_VISIBLE_DEVICES": "-1"}))
    assert set(fields) <= {column.name for column in PROVENANCE}
    for name, value in fields.items():
        assert value is not None or f"provenance.{name}" in reasons


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"job/cpu.max": "150000 100000", "job/memory.max": "1073741824"}, (1.5, 2**30)),
        ({"job/cpu.max": "max 100000", "job/memory.max": "max"}, (None, None)),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, (2.0, None)),
        ({"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": "9223372036854771712"}, (None, None)),
        ({"cpu.max": "100000 100000", "job/cpu.max": "400000 100000", "memory.max": "4096"}, (1.0, 4096)),
        # Version 1 as Slurm makes it: a group per job, step and task below each controller.
        (
            {
                "memory/slurm/uid_1000/job_77/step_0/task_0/memory.limit_in_bytes": "9223372036854771712",
                "memory/slurm/uid_1000/job_77/memory.limit_in_bytes": "4294967296",
                "cpu/slurm/uid_1000/job_77/cpu.cfs_quota_us": "400000",
                "cpu/slurm/uid_1000/job_77/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_quota_us": "-1",
            },
            (4.0, 2**32),
        ),
        ({}, (None, None)),
    ],
)
def test_control_group_limits(tmp_path: Path, files: dict[str, str], limits: tuple[float | None, int | None]) -> None:
    membership = tmp_path / "membership"
    slurm = "/slurm/uid_1000/job_77/step_0/task_0"
    membership.write_text(f"12:cpu,cpuacct:{slurm}\n11:memory:{slurm}\n0::/job\n")
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert cgroup_limits(membership, tmp_path / "fs") == limits


def test_cpu_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name\t: Some CPU @ 2.50GHz\nprocessor : 1\nmodel name\t: Other\n")
    assert cpu_model(cpuinfo) == "Some CPU @ 2.50GHz"


@pytest.mark.commands
def test_git_state_follows_the_checkout(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert git_state(file, {})[:2] == (None, None)
    assert "not in a git checkout" in str(git_state(file, {})[2])
    installed = {"vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    assert git_state(file, installed) == ("c0ffee", False, None)

    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    file.write_text("one")
    git("add", "file")
    git("commit", "-qm", "one")
    assert git_state(file, installed) == (git("rev-parse", "HEAD"), False, None)
    file.write_text("two")
    assert git_state(file, installed)[1] is True
    # Installed into a folder of somebody else's checkout.
    assert git_state(tmp_path / "foreign", installed) == ("c0ffee", False, None)
