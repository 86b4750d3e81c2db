"""What reading a large store costs: `python -m tests.perf.analysis_scale`.

Writes 125 nights of 20 configurations, five runs each: 10,000 runs of 8 ranks and 2,500 of one, 100 timed iterations,
8.25 million rows of iterations. Once with a file a day and table, and with `--file-a-run` once more as jobs write them,
a file a run and table. Then times the commands, each in a process of its own, and prints wall-clock time, peak memory
and the size of the report.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from results.schema import SCHEMA_VERSION, arrow_schema, comparability_key
from tests.benchmark import ROOT

NIGHTS, REPEATS, RANKS, ITERS, WARMUP, SAMPLES = 125, 5, 8, 100, 5, 10
START = datetime(2026, 1, 1, 1, tzinfo=timezone.utc)
SPREAD, JITTER = 0.02, 0.01
MODELS = {"mnist_cnn": (0.01, 249_384), "vgg16": (0.35, 553_430_176), "vgg19": (0.4, 574_668_960), "resnet": (0.2, 1e8)}
STRATEGIES = {"single": 1.0, "independent": 1.02, "mwms": 1.3, "horovod": 1.15, "central": 1.6}
"""Strategy -> its step time over that of one device."""


@dataclass(frozen=True)
class Layout:
    """Where the rows of one night go."""

    root: Path
    file_a_run: bool

    def write(self, night: str, rows: dict[str, pa.Table]) -> None:
        for table, content in rows.items():
            folder = self.root / table / f"date={night}"
            folder.mkdir(parents=True)
            if not self.file_a_run:
                pq.write_table(content, folder / f"night-{night}.parquet")
                continue
            ids = content["run_id"].combine_chunks().dictionary_encode()
            for code, run_id in enumerate(ids.dictionary.to_pylist()):
                pq.write_table(content.filter(pa.compute.equal(ids.indices, code)), folder / f"{run_id}.parquet")


def runs_of(night: int) -> Iterator[dict[str, Any]]:
    started = START + timedelta(days=night)
    for repeat in range(REPEATS):
        for model, (_, gradients) in MODELS.items():
            for strategy in STRATEGIES:
                ranks = 1 if strategy == "single" else RANKS
                started += timedelta(seconds=30)
                run = {
                    "schema_version": SCHEMA_VERSION,
                    "status": "ok",
                    "exit_code": 0,
                    "synchronous": True,
                    "run_id": f"{started:%Y%m%dT%H%M%S}-{night:04d}{repeat}",
                    "label": f"{model} {strategy}",
                    "experiment": f"nightly-{started:%Y-%m-%d}",
                    "started_at": started,
                    "ended_at": started,
                    "strategy": strategy,
                    "model": model,
                    "dataset": "synthetic",
                    "trainable_params": 1000,
                    "batch_per_device": 64,
                    "global_batch": 64 * ranks,
                    "num_batches_per_iter": 10,
                    "xla": False,
                    "precision": "fp32",
                    "num_nodes": ranks,
                    "num_processes": ranks,
                    "num_ps": 0,
                    "exchange": {},
                    "num_devices": ranks,
                    "device_kind": "gpu",
                    "device_name": "A GPU",
                    "preloaded": False,
                    "cores_per_device": 8.0,
                    "scaling": "weak",
                    "gradient_bytes": int(gradients),
                    "provenance": {"hostname": f"node{night % 7}", "tensorflow_version": "2.21.0"},
                }
                yield run | {"comparability_key": comparability_key(run)}


def tables_of(runs: list[dict[str, Any]], random: np.random.Generator) -> dict[str, pa.Table]:
    ranks: list[dict[str, Any]] = []
    iters: dict[str, list[np.ndarray[Any, Any]]] = {column.name: [] for column in arrow_schema("iters")}
    telemetry: list[dict[str, Any]] = []
    for run in runs:
        count, each = run["num_devices"], ITERS + WARMUP
        step = MODELS[run["model"]][0] * STRATEGIES[run["strategy"]] * random.lognormal(0, SPREAD)
        # All ranks of a synchronous run end an iteration together; what each needs by itself differs.
        durations = np.tile(10 * step * random.lognormal(0, JITTER, each), (count, 1))
        begin = int(run["started_at"].timestamp() * 1e9) + np.cumsum(durations * 1e9, axis=1).astype(np.int64)
        own = durations * 0.7 * random.lognormal(0, JITTER, (count, 1))
        for name, values in {
            "rank": np.repeat(np.arange(count), each),
            "iter": np.tile(np.arange(each), count),
            "warmup": np.tile(np.arange(each) < WARMUP, count),
            "num_batches": np.full(count * each, 10),
            "t_start_ns": begin,
            "duration_s": durations,
            "data_wait_s": 0.01 * durations,
            "compute_s": own,
            "loss": np.ones(count * each),
        }.items():
            iters[name].append(values.reshape(-1))
        for rank in range(count):
            who = {"run_id": run["run_id"], "rank": rank}
            peaks = {"peak_rss_bytes": 2**31, "framework_peak_mem_bytes": 2**30, "startup_time_s": 20.0}
            ranks.append({**who, "num_devices": 1, "hostname": f"node{rank}", "status": "ok", "timed_s": 1.0, **peaks})
            for sample in range(SAMPLES):
                at = int(begin[rank, WARMUP] + (begin[rank, -1] - begin[rank, WARMUP]) * sample / SAMPLES)
                telemetry.append({**who, "t_ns": at, "rss_bytes": 2**31, "cpu_pct": 100.0})
    ids = np.repeat([run["run_id"] for run in runs], [run["num_devices"] * (ITERS + WARMUP) for run in runs])
    columns = {"run_id": ids, **{name: np.concatenate(parts) for name, parts in iters.items() if parts}}
    return {
        "iters": pa.Table.from_pydict(columns, schema=arrow_schema("iters")),
        "ranks": pa.Table.from_pylist(ranks, schema=arrow_schema("ranks")),
        "telemetry": pa.Table.from_pylist(telemetry, schema=arrow_schema("telemetry")),
        "runs": pa.Table.from_pylist(runs, schema=arrow_schema("runs")),
    }


def write(layout: Layout, nights: int = NIGHTS) -> None:
    """The same rows whatever the layout."""
    random = np.random.default_rng(1)
    for night in range(nights):
        layout.write(f"{START + timedelta(days=night):%Y-%m-%d}", tables_of([*runs_of(night)], random))


def perform(*words: str) -> tuple[float, float, int]:
    """(wall-clock s, peak resident GiB, exit code) of a command of ours."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT)
    _, status, used = os.wait4(child.pid, 0)
    return time.perf_counter() - start, used.ru_maxrss / 2**20, os.waitstatus_to_exitcode(status)


def measure(root: Path, out: Path) -> None:
    last = f"nightly-{START + timedelta(days=NIGHTS - 1):%Y-%m-%d}"
    where = f"--results-dir={root}"
    commands = {
        "summary table": ("analysis.report", where, "--format=text"),
        "report": ("analysis.report", where, f"--output={out}"),
        "gate, last night against all before": (
            *("analysis.regress", where, "--baseline=nightly-2026-0[1-4]-*", f"--candidate={last}"),
        ),
        "history": ("analysis.history", where, f"--output={out}"),
    }
    for name, words in commands.items():
        seconds, gib, code = perform(*words)
        print(f"{name}: {seconds:.1f} s, {gib:.2f} GiB, exit {code}", file=sys.stderr)
    print(f"report.html: {(out / 'report.html').stat().st_size / 1e6:.1f} MB", file=sys.stderr)


def main(argv: list[str]) -> int:
    """Prints the figures, on standard error: the commands use standard output."""
    with tempfile.TemporaryDirectory() as name:
        for layout in (
            Layout(Path(name, "days"), False),
            *([Layout(Path(name, "runs"), True)] if "--file-a-run" in argv else []),
        ):
            write(layout)
            files = sum(1 for _ in layout.root.rglob("*.parquet"))
            print(f"{files} files:", file=sys.stderr)
            measure(layout.root, Path(name, "out"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
