"""What freezing a model's base saves a step: `python -m tests.perf.freezing`.

`digits_cnn` on five classes of digits, 128 images a step, is trained whole and with its base frozen, in runs of their
own by turns, each kind first equally often. Prints the step times (median of a run, geometric mean over runs) and
whole / frozen, round by round. The published figure is 202 ms / 73 ms = 2.8 on another CPU.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.preload import keep_numpy_single_threaded, prepare, run_in_fork

if TYPE_CHECKING:
    from analysis.stats import Interval

ROUNDS = 10
WORKLOAD = (
    *("--model=digits_cnn", "--dataset=digits", "--classes=0-4", "--batch-size=128", "--device=cpu"),
    *("--num-warmup-batches=4", "--num-batches-per-iter=2", "--num-iters=12", "--telemetry-period=0", "--json"),
)
KINDS = {"whole": (), "frozen": ("--freeze=base",)}


def step_time_s(flags: Sequence[str]) -> float:
    """The median step time of a run."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_in_fork([*WORKLOAD, *flags, f"--results-dir={folder}"])
    if run.exit_code:
        raise SystemExit(run.output)
    return float(json.loads(run.output.splitlines()[-1])["step_time_p50_s"])


def main() -> int:
    """Prints three lines and returns 0."""
    keep_numpy_single_threaded()
    prepare()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(ROUNDS):
        for kind in [*KINDS][:: -1 if number % 2 else 1]:
            times[kind].append(step_time_s(KINDS[kind]))
    from analysis.stats import typical  # not before: it starts threads, and a process with threads must not be forked

    for kind, values in times.items():
        print(f"{kind:7} {_said(typical([1000 * value for value in values]), 'ms a step')}")
    ratios = [whole / frozen for whole, frozen in zip(times["whole"], times["frozen"], strict=True)]
    print(f"whole / frozen: {_said(typical(ratios), f'over {ROUNDS} rounds')}")
    return 0


def _said(found: Interval, unit: str) -> str:
    return f"{found.value:.3g} (95% interval {found.low:.3g} to {found.high:.3g}) {unit}"


if __name__ == "__main__":
    sys.exit(main())
