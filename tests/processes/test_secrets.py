"""What a run writes, while it lives and after, holds none of the secrets that stand in its environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.benchmark import BOUND_S, ROOT, Benchmark, clean_environment, wait_until_timing

pytestmark = pytest.mark.processes

RECORDED = "/a/place/that/is/recorded"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws0planted0secret",
    "HF_TOKEN": "hf_planted0secret",
    "GITHUB_TOKEN": "ghp_planted0secret",
    "SLURM_JWT": "jwt0planted0secret",
    "NCCL_AUTH": "nccl0planted0secret",
    "https_proxy": "http://user:proxy0planted0secret@proxy.invalid:3128",
    "HOROVOD_TIMELINE_URL": "https://user:url0planted0secret@host.invalid/path",
    "SLURM_EXPORT_ENV": "ALL,WANDB_API_KEY=export0planted0secret,HF_TOKEN=hf_planted0secret",
    "TF_NOTE": "copied: ghp_planted0secret",
}
ENVIRONMENT = {**SECRETS, "NCCL_DEBUG_FILE": RECORDED, "no_proxy": "127.0.0.1,localhost"}
ARGUMENT = "argument0planted0secret"
FORM = "planted0secret"
"""Stands in all of them."""


def texts(root: Path) -> dict[str, str]:
    """What every file below holds, compressed tables as their rows."""
    found = {}
    for path in root.rglob("*"):
        if path.suffix == ".parquet":
            found[path.name] = repr(pq.read_table(path, partitioning=None).to_pylist())
        elif path.is_file():
            found[path.name] = path.read_bytes().decode(errors="replace")
    return found


def holding(found: dict[str, str], word: str) -> list[str]:
    return [name for name, text in found.items() if word in text]


def test_no_secret_of_the_environment_is_written(benchmark: Benchmark, tmp_path: Path) -> None:
    words = benchmark.command("--strategy=mwms", "--num-workers=2", "--num-iters=20", "--debug", "--json")
    # A parent that was given a secret as an argument, as wrappers are.
    parent = ["bash", "-c", 'shift; "$@"; exit $?', "wrapper", ARGUMENT, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(parent, cwd=ROOT, env=clean_environment() | ENVIRONMENT, text=True, **pipes)
    try:
        wait_until_timing(benchmark, process)
        alive = texts(benchmark.results)
        stdout, stderr = process.communicate(timeout=BOUND_S)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    assert holding(alive, RECORDED) == ["run.jsonl"]  # the environment is in it
    assert holding(alive, FORM) == []

    after = texts(benchmark.results)
    (run_id,) = benchmark.table("runs")["run_id"]
    assert holding(after, RECORDED) == [f"{run_id}.parquet"]
    assert holding(after | {"stdout": stdout, "stderr": stderr}, FORM) == []
    (kept,) = (row["environment"] for row in benchmark.table("runs")["provenance"])
    environment = dict(kept)
    assert environment["HOROVOD_TIMELINE_URL"] == "https://***@host.invalid/path"
    assert environment["SLURM_EXPORT_ENV"] == "ALL,WANDB_API_KEY=***,HF_TOKEN=***"

    commands = {
        "report": ["analysis.report", f"--results-dir={benchmark.results}", f"--output={tmp_path / 'report'}"],
        "scripts": [
            "jobs.sweep",
            "jobs/sweeps/quick.toml",
            f"--results-dir={benchmark.results}",
            "--submit",
            "--dry-run",
        ],
        "launch": ["bench.run", "--strategy=mwms", "--num-workers=2", "--device=cpu", "--dry-run"],
    }
    for words in commands.values():
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=ROOT, env=clean_environment() | SECRETS, check=True, **pipes, text=True
        )
        assert FORM not in done.stdout + done.stderr
    assert holding(texts(tmp_path / "report"), FORM) == []
