from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.conftest import nobody_is_left
from tests.slurm.cluster import SlurmCluster
from tests.slurm.sweeps import SweepOnSlurm

__all__ = ["nobody_is_left"]


def why_not() -> str | None:
    """Why no Slurm can be started here."""
    if os.geteuid() != 0:
        return "a Slurm with nodes of their own needs root"
    missing = [name for name in ("slurmctld", "slurmd", "srun", "munged", "ip") if not shutil.which(name)]
    return f"missing: {', '.join(missing)} (make packages)" if missing else None


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if reason := why_not():
        pytest.skip(reason)
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm") / "cluster")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def sweep(slurm: SlurmCluster, tmp_path: Path) -> SweepOnSlurm:
    return SweepOnSlurm(slurm, tmp_path)
