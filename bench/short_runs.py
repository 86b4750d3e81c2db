"""Two real steps of each strategy on this node: `python -m bench.short_runs PARENT_PID STRATEGY...`.

The part of `bench.doctor` that trains. Each strategy is a run of `bench.run`, recorded below TMPDIR. One process makes
the runs, one after another: as forks of it where TensorFlow can be loaded and forked, which costs one import instead of
a dozen; otherwise as commands, which then fail, or not, as the user's own would.

The last line of output is, in JSON, strategy -> the `flags` of bench.run that choose it and its devices, the number of
`devices`, whether the run was `forked`, its `exit_code`, and `error`, the line that names the error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config import parse
from bench.errors import BenchError, EnvironmentFault, UsageError
from bench.preload import CompletedRun, keep_numpy_single_threaded, prepare, run_in_fork
from jobs.launch import die_with_launcher
from strategies import load

# NumPy, and all that imports it, is imported when its threads are tamed: this process is forked.
if TYPE_CHECKING:
    from bench.telemetry import Gpus

RUN_S = 180
"""Bound on a run [s]. A fork takes 2 to 5 s on an idle machine, a command as long as TensorFlow's import on top."""

STEPS = ("--batch-size=8", "--num-warmup-batches=1", "--num-batches-per-iter=1", "--num-iters=1")
"""Two steps of a small batch: the first is the warm-up, the second is timed."""


def main() -> int:
    """Makes the runs and returns 0, however they end."""
    parent, *strategies = sys.argv[1:]
    die_with_launcher(int(parent))
    env = dict(os.environ)
    keep_numpy_single_threaded()
    from bench.telemetry import Gpus

    gpus = Gpus(env)
    chosen = {name: _flags(name, gpus, env) for name in strategies}
    try:
        prepare()
        forked = True
    except EnvironmentFault:
        forked = False
    results: dict[str, dict[str, Any]] = {}
    for name, (flags, devices) in chosen.items():
        words = [*flags, *STEPS, f"--timeout={RUN_S}", f"--results-dir={Path(tempfile.gettempdir()) / 'data'}"]
        run = run_in_fork(words) if forked else _run_command(words, env)
        how = {"flags": flags, "devices": devices, "forked": forked}
        results[name] = how | {"exit_code": run.exit_code, "error": run.error}
    print(json.dumps(results))
    return 0


def _flags(strategy: str, gpus: Gpus, env: Mapping[str, str]) -> tuple[list[str], int]:
    """The flags that choose a strategy on two devices, or on one where two do not fit, and the number of devices."""
    from bench.launch_plan import plan_launch

    one_process = load(strategy).one_process
    for devices in (2, 1):
        workers = [] if one_process else [f"--num-workers={devices}"]
        flags = [f"--strategy={strategy}", *workers, f"--devices-per-worker={devices if one_process else 1}"]
        try:
            plan_launch(parse(flags), None, gpus, env)
        except UsageError:
            continue
        except BenchError:  # the run says it
            pass
        break
    return flags, devices


def _run_command(argv: Sequence[str], env: Mapping[str, str]) -> CompletedRun:
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", *argv],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return CompletedRun(done.returncode, done.stdout)


if __name__ == "__main__":
    sys.exit(main())
