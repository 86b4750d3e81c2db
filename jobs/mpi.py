"""Where the processes that mpirun started find each other: with mpi4py, so that nobody types addresses."""

from __future__ import annotations

import socket

from jobs.cluster import ClusterEnv, ClusterError
from jobs.launch import free_ports


class MpiFault(ClusterError):
    """MPI is missing, or is not the MPI that started this job."""

    exit_code = 3


def library() -> str:
    """The MPI that mpi4py loads, such as `Open MPI v4.1.8`. Raises MpiFault. Initialises MPI."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise MpiFault(f"mpi4py cannot be loaded ({error}): pip install -e '.[mpi]'") from error
    return str(MPI.Get_library_version()).split(",")[0].splitlines()[0].strip("\0 ")


def check_size(cluster: ClusterEnv, size: int, what: str) -> None:
    """Raises MpiFault when MPI sees another number of processes than the launcher started: each of them then believes
    to be alone, which no error would ever tell."""
    if size != cluster.size:
        fitting = "its own mpirun, or srun --mpi=pmix" if "Open MPI" in what else "its own mpirun, or srun --mpi=pmi2"
        raise MpiFault(
            f"{cluster.source} started {cluster.size} processes but {what} sees {size}: the launcher does not fit the "
            f"MPI library. Start with {fitting}"
        )


def locate(cluster: ClusterEnv) -> ClusterEnv:
    """The cluster with every process's host and a free port. Raises MpiFault."""
    name = library()
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    check_size(cluster, world.Get_size(), f"mpi4py's {name}")
    hosts = world.allgather(socket.gethostname())
    ports = world.allgather(free_ports(1)[0])
    if len(set(hosts)) == 1:
        hosts = ["127.0.0.1"] * len(hosts)
    return cluster.with_addresses([f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)])
