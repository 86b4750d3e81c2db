"""Predicted memory beside the measured peak: `python -m tests.perf.memory`, the table of docs/arithmetic.md.

Every figure is a run of `bench.run` in a process of its own, strategy single on the CPU, a few times over: the peak of
TensorFlow's allocator depends on the order in which its threads come to things.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from analysis.metrics import GIB

CASES = [("mnist_cnn", batch) for batch in (64, 128, 256, 512, 1024)] + [("vgg16", batch) for batch in (1, 2, 4)]
REPEATS = 3
STEPS = ("--num-warmup-batches=2", "--num-batches-per-iter=2", "--num-iters=2", "--telemetry-period=0")


def measured(model: str, batch: int, results: Path) -> None:
    """Makes one run."""
    words = (f"--model={model}", f"--batch-size={batch}", "--device=cpu", f"--results-dir={results}", *STEPS)
    subprocess.run([sys.executable, "-m", "bench.run", *words], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Prints a line for each case and returns 0, or 1 where a prediction is off by more than a quarter."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "data"
        for model, batch in CASES * REPEATS:
            measured(model, batch, results)
        runs = pd.read_parquet(results / "runs").set_index("run_id")
        runs["measured"] = pd.read_parquet(results / "ranks").groupby("run_id")["framework_peak_mem_bytes"].max()
    print("| model | images | predicted | measured | predicted / measured |\n|---|---|---|---|---|")
    good = True
    for model, batch in CASES:
        some = runs[(runs["model"] == model) & (runs["batch_per_device"] == batch)]
        ratios = some["predicted_mem_bytes"] / some["measured"]
        peaks = some["measured"] / GIB
        predicted = some["predicted_mem_bytes"].max() / GIB
        good &= bool(ratios.between(0.75, 1.25).all())
        span = f"{peaks.min():.3f} to {peaks.max():.3f} GiB | {ratios.min():.2f} to {ratios.max():.2f}"
        print(f"| `{model}` | {batch} | {predicted:.3f} GiB | {span} |")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
