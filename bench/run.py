"""Command line of one benchmark: `python -m bench.run --strategy mwms --num-workers 2`.

It starts the workers as processes of their own and watches them; where srun, mpirun or TF_CONFIG say that this process
is one of several, it starts and watches that one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial

from bench import frameworks
from bench.config import parse
from bench.errors import BenchError, UsageError
from jobs import launchers
from jobs.cluster import LAUNCHER_PID, SWEEP_PID, ClusterEnv, ClusterError
from jobs.launch import die_with_launcher
from results.command_line import complain, outliving_readers
from results.exit_codes import ExitCode
from results.store import StoreError


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code (`bench.errors.ExitCode`)."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("bench.run: interrupted before anything was started", file=sys.stderr)
        return ExitCode.SIGINT
    except (BenchError, ClusterError, StoreError) as error:
        if "--debug" in argv:
            raise
        return complain("bench.run", error, int(error.exit_code))
    except OSError as error:
        if "--debug" in argv:
            raise
        why = f"{error.filename or 'this machine'}: {error.strerror or error}"
        return complain("bench.run", why, ExitCode.ENVIRONMENT)


def _run(argv: Sequence[str]) -> int:
    config = parse(argv)
    cluster = launchers.read(os.environ)
    if LAUNCHER_PID in os.environ:
        from bench import worker

        return worker.run(config, cluster or ClusterEnv.alone(), os.environ)
    if SWEEP_PID in os.environ and not frameworks.preloaded():
        die_with_launcher(int(os.environ[SWEEP_PID]), signal.SIGTERM)
    if cluster is not None and config.machine.port_base is not None:
        raise UsageError(
            f"--port-base is for workers on this machine, but {cluster.source} names the ports: leave it out"
        )
    if config.workload.find_max_batch:
        from bench import max_batch

        return max_batch.find(config, cluster)

    from bench.launch_plan import plan_launch, show
    from bench.supervise import supervise
    from bench.telemetry import Gpus

    gpus = Gpus(os.environ)
    launch_plan = plan_launch(config, cluster, gpus, os.environ)
    if config.output.dry_run:
        with outliving_readers():
            show(launch_plan, argv)
        return 0
    in_fork = partial(main, argv) if frameworks.preloaded() else None
    return supervise(launch_plan, argv, os.environ, gpus, in_fork=in_fork)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
