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
import traceback
from pathlib import Path

from bench import frameworks
from bench.errors import ExitCode
from bench.run import main as run_main
from jobs.launch import die_with_launcher


def main() -> int:
    """Serves until standard input ends."""
    # Workers inherit what TensorFlow read from the environment when it was loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # NumPy's algebra would start a thread for each core, and a process with threads must not be forked.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    frameworks.load()
    if (threads := len(list(Path("/proc/self/task").iterdir()))) > 1:
        print(f"bench.preload: {threads} threads after loading TensorFlow, so it cannot be forked: set preload = false")
        return ExitCode.ENVIRONMENT
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which stops its workers in order
    for line in sys.stdin:
        status = _run(json.loads(line))
        print(json.dumps({"exit_code": os.waitstatus_to_exitcode(status)}), flush=True)
    return 0


def _run(argv: list[str]) -> int:
    server = os.getpid()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    code = 1
    try:
        die_with_launcher(server)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run_main(argv)
    except SystemExit as stop:  # how the command line parser ends
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
