"""Command line of one benchmark: `python -m bench.run --strategy mwms --num-workers 2`.

Alone, it starts the workers; started as one of several by TF_CONFIG, it is a worker.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from bench.config import parse
from bench.errors import BenchError, UsageError
from jobs.cluster import ClusterEnv, ClusterError
from results.store import StoreError


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code (`bench.errors.ExitCode`)."""
    try:
        return _run(argv)
    except (BenchError, ClusterError, StoreError) as error:
        if "--debug" in argv:
            raise
        print(f"bench.run: {error}", file=sys.stderr)
        return int(error.exit_code)


def _run(argv: Sequence[str]) -> int:
    config = parse(argv)
    cluster = ClusterEnv.from_env(os.environ)
    if cluster is None:
        from bench.local import plan_local, run_local, show
        from bench.telemetry import Gpus

        gpus = Gpus(os.environ)
        local = plan_local(config, gpus)
        if config.output.dry_run:
            show(local, argv)
            return 0
        return run_local(local, argv, os.environ, gpus)
    wanted = config.machine.num_workers
    if wanted not in (None, cluster.size):
        raise UsageError(f"--num-workers {wanted}, but {cluster.source} has {cluster.size} tasks: leave the flag out")
    if config.output.dry_run:
        print(
            json.dumps({"config": config.as_dict(), "rank": cluster.rank, "TF_CONFIG": cluster.tf_config()}, indent=2)
        )
        return 0
    from bench import worker

    return worker.run(config, cluster, os.environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
