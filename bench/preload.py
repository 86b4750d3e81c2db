"""Runs many benchmarks in forks of one process that has loaded TensorFlow: `python -m bench.preload`.

Loading TensorFlow takes longer than a small run. Here it is loaded once; every run and every worker is still a process
of its own with its own TensorFlow runtime, which only comes to life after the fork. What is lost is recorded
(`runs.preloaded`): import and start-up times are null, the import's memory is shared, and all runs have one memory
layout, so they are a little less independent than fresh processes.

Reads a JSON list of `bench.run` arguments a line; each run's output is followed by a line {"exit_code": N}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import frameworks
from bench.errors import EnvironmentFault
from bench.run import main as run_main
from jobs.cluster import SWEEP_PID
from jobs.launch import die_with_launcher, interrupts_wait
from results.exit_codes import ExitCode


def keep_numpy_single_threaded() -> None:
    """To be called before NumPy is imported: its algebra would start a thread for each core, and a process with
    threads must not be forked."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


def prepare() -> None:
    """Loads the frameworks into this process, to be forked. Raises EnvironmentFault where that is not safe."""
    keep_numpy_single_threaded()
    # Workers inherit what TensorFlow read from the environment when it was loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    frameworks.load_quietly()
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        raise EnvironmentFault(f"{threads} threads after loading TensorFlow, so it cannot be forked")


@dataclass(frozen=True)
class CompletedRun:
    """The end of a run: its exit code, and its standard output and standard error together."""

    exit_code: int
    output: str

    @property
    def error(self) -> str:
        """The line that names the error, without the command's name; the exit code where there is no such line."""
        errors = [line.partition(": ")[2] for line in self.output.splitlines() if line.startswith("bench.run: ")]
        return errors[-1] if errors else f"exit code {self.exit_code}"


def run_in_fork(argv: Sequence[str]) -> CompletedRun:
    """Runs `bench.run` with these arguments in a fork, to its end.

    Raises KeyboardInterrupt after a Ctrl-C, when the fork, which gets it too, has recorded how it ended."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        with interrupts_wait():
            exit_code = _exit_code(start_in_fork(argv, output.fileno()))
        output.seek(0)
        return CompletedRun(exit_code, output.read())


def _exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_in_fork(argv: Sequence[str], output: int | None = None) -> int:
    """Starts the same; the process's id."""
    server = os.getpid()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_launcher(server, signal.SIGTERM)  # so that it stops its workers and records how it ended
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
        code = run_main(argv)
    except SystemExit as stop:  # how the command line parser ends
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    """Serves until standard input ends, or the sweep that started it."""
    if SWEEP_PID in os.environ:
        die_with_launcher(int(os.environ[SWEEP_PID]))
    try:
        prepare()
    except EnvironmentFault as error:
        print(f"bench.preload: {error}: set preload = false")
        return ExitCode.ENVIRONMENT
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which stops its workers in order
    for line in sys.stdin:
        print(json.dumps({"exit_code": _exit_code(start_in_fork(json.loads(line)))}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
