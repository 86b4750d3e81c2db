"""What size costs: `python -m tests.perf.scale`.

Expands and resumes a sweep of 10,000 configurations, reads the environment of a task of 4,096, writes and merges what
1,024 ranks measured, and, where this machine can start a Slurm (tests/slurm), compares an mwms run on two of its nodes
with the same run started here without it, in alternation. Prints the median of some rounds each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jobs.launchers import read
from jobs.matrix import load
from jobs.sweep import Options, step_of, unfinished, wanted
from results.store import Store
from tests.benchmark import ROOT, clean_environment
from tests.many_ranks import write_and_merge
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import why_not

ROUNDS, LAUNCHES = 5, 5
TASKS, RANKS = 4096, 1024
MATRIX = f"""
[matrix]
model = ["mnist_cnn", "cifar_cnn", "vgg16", "vgg19", "vgg16_cifar"]
precision = ["fp32", "bf16"]
nodes = [1, 2, 4, 8, 16]
tasks_per_node = [1, 2, 4, 8]
seed = {list(range(50))}
"""
STEP = {
    "SLURM_PROCID": str(TASKS - 1),
    "SLURM_STEP_NUM_TASKS": str(TASKS),
    "SLURM_NODEID": "511",
    "SLURM_GTIDS": ",".join(map(str, range(TASKS - 8, TASKS))),
    "SLURM_STEP_NODELIST": "rack[1-8]n[01-64]",
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "7",
}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sweep(folder: Path) -> None:
    file = folder / "many.toml"
    file.write_text(MATRIX)
    options = Options(file=file, results_dir=folder / "data")
    runs = wanted(load(file), options)
    store = Store(options.results_dir)
    done = [{"experiment": options.name, "sweep_task": run.task, "status": "ok"} for run in runs[::2]]
    store.note_finished(done)

    def decide() -> None:
        left = unfinished(wanted(load(file), options), store.finished_tasks(options.name))
        assert len(left) == len(runs) // 2, len(left)
        assert len([step_of(run, options) for run in left]) == len(left)

    spent = statistics.median(seconds(decide) for _ in range(ROUNDS))
    print(f"{len(runs)} configurations expanded, half of them found done: {spent:.2f} s")


def who_am_i() -> None:
    def know() -> None:
        cluster = read(STEP)
        assert cluster is not None
        met = cluster.with_addresses([f"host{rank // 8}:{20_000 + rank % 8}" for rank in range(TASKS)])
        assert len(met.tf_config()) > TASKS

    spent = statistics.median(seconds(know) for _ in range(ROUNDS))
    print(f"a task of {TASKS}, from its environment to its TF_CONFIG: {spent * 1000:.1f} ms")


def merge(folder: Path) -> None:
    spent = seconds(lambda: write_and_merge(Store(folder / "ranks"), RANKS))
    files = [path.name for path in (folder / "ranks").rglob("*.parquet")]
    print(f"{RANKS} ranks written and merged into {len(files)} files: {spent:.1f} s")


def launches(folder: Path) -> None:
    """mwms with two workers by `bench.run` itself and by srun on two nodes, which have the same cores."""
    words = ["--strategy=mwms", "--device=cpu", f"--results-dir={folder}/runs"]
    benchmark = [sys.executable, "-m", "bench.run", *words]
    spent: dict[str, list[float]] = {"here": [], "srun": []}
    cluster = SlurmCluster(folder / "slurm")
    cluster.start()
    try:
        commands = {"here": [*benchmark, "--num-workers=2"], "srun": ["srun", "-N2", *benchmark]}
        for _ in range(LAUNCHES):
            for name, command in commands.items():
                start = time.perf_counter()
                env = clean_environment() | cluster.env
                subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True)
                spent[name].append(time.perf_counter() - start)
    finally:
        cluster.stop()
    more = [srun - here for here, srun in zip(spent["here"], spent["srun"], strict=True)]
    print(
        f"mwms x2, srun on two nodes minus two workers here: {statistics.median(more):+.1f} s "
        f"({min(more):+.1f} to {max(more):+.1f}), here {statistics.median(spent['here']):.1f} s"
    )


def main() -> int:
    """Prints all figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        who_am_i()
        sweep(folder)
        merge(folder)
        if reason := why_not():
            print(f"srun was not measured: {reason}")
        else:
            launches(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
