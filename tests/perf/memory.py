"""Predicted memory beside the measured peak: `python -m tests.perf.memory [RUNS]`, the table of docs/arithmetic.md.

Every figure is a run of `bench.run` in a process of its own, strategy single on the CPU; with RUNS (1) several of each,
for the peak of TensorFlow's allocator depends on the order in which its threads come to things.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from analysis.metrics import GIB

CASES = [("mnist_cnn", batch) for batch in (64, 128, 256, 512, 1024)] + [("vgg16", batch) for batch in (1, 2, 4)]
STEPS = ("--num-warmup-batches=2", "--num-batches-per-iter=2", "--num-iters=2", "--telemetry-period=0")
WITHIN = 0.25


def measure(model: str, batch: int, results: Path) -> None:
    """Makes one run."""
    words = (f"--model={model}", f"--batch-size={batch}", "--device=cpu", f"--results-dir={results}", *STEPS)
    subprocess.run([sys.executable, "-m", "bench.run", *words], check=True, stdout=subprocess.DEVNULL)


def show(results: Path) -> bool:
    """Prints a line for each case; returns whether all predictions are good."""
    runs = pd.read_parquet(results / "runs").set_index("run_id")
    runs["measured"] = pd.read_parquet(results / "ranks").groupby("run_id")["framework_peak_mem_bytes"].max()
    runs["ratio"] = runs["predicted_mem_bytes"] / runs["measured"]
    print("| model | images | predicted | measured | predicted / measured |\n|---|---|---|---|---|")
    for model, batch in CASES:
        some = runs[(runs["model"] == model) & (runs["batch_per_device"] == batch)]
        predicted = some["predicted_mem_bytes"].max() / GIB
        measured, ratio = _span(some["measured"] / GIB, ".3f"), _span(some["ratio"], ".2f")
        print(f"| `{model}` | {batch} | {predicted:.3f} GiB | {measured} GiB | {ratio} |")
    return bool(runs["ratio"].between(1 - WITHIN, 1 + WITHIN).all())


def _span(values: pd.Series[float], form: str) -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"


def main(argv: list[str]) -> int:
    """Prints the table and returns 0, or 1 where a prediction is off by more than a quarter."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "data"
        for model, batch in CASES * int(argv[0] if argv else 1):
            measure(model, batch, results)
        return 0 if show(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
