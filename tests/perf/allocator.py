"""The cost of a CPU allocator that keeps statistics: `python -m tests.perf.allocator`.

With oneDNN off, TensorFlow's own choice counts nothing, so runs choose another (`strategies.devices`). This runs
`bench.run` with either, in alternation, and prints the ratio of their images/s for two models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

from analysis.stats import typical

MODELS = {"mnist_cnn": (64, 20), "vgg16_cifar": (4, 1)}
"""Model -> (images per device, steps per iteration)."""
ROUNDS = 6


def images_per_s(model: str, use_bfc: str, results: str) -> float:
    """Measure one run on one core, with the allocator that `use_bfc` (0 or 1) chooses."""
    batch, steps = MODELS[model]
    flags = [f"--model={model}", f"--batch-size={batch}", f"--num-batches-per-iter={steps}", "--num-iters=6"]
    flags += ["--cores-per-device=1", "--device=cpu", f"--results-dir={results}", "--json"]
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPU_ALLOCATOR_USE_BFC": use_bfc}
    command = [sys.executable, "-m", "bench.run", *flags]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["images_per_s"])


def main() -> int:
    """Print a line per model and return 0."""
    with tempfile.TemporaryDirectory() as results:
        for model in MODELS:
            ratios = []
            for number in range(ROUNDS):
                order = ("1", "0") if number % 2 else ("0", "1")
                rates = {use_bfc: images_per_s(model, use_bfc, results) for use_bfc in order}
                ratios.append(rates["1"] / rates["0"])
            ratio = typical(ratios)
            print(f"{model}: with statistics / without: {ratio.value:.3f} (95% {ratio.low:.3f} to {ratio.high:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
