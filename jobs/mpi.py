"""Where the processes that mpirun started find each other: with mpi4py, so that nobody types addresses.

A launcher that does not fit the MPI library is found before MPI starts: the library would end the process, or, worse,
let every process believe that it is alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from jobs.cluster import ClusterEnv, ClusterError
from jobs.rendezvous import offer

_FITTING = {"Open MPI": "pmix", "MPICH": "pmi2"}
"""MPI library -> what `srun --mpi=` must be for it."""


class MpiFault(ClusterError):
    """MPI is missing, or is not the MPI that started this job."""

    exit_code = 3


def loaded_library() -> str:
    """The MPI that mpi4py loads, such as `Open MPI v4.1.8`. Raises MpiFault. Does not start MPI."""
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise MpiFault(f"mpi4py cannot be loaded ({error}): pip install -e '.[mpi]'") from error
    return library_name(MPI.Get_library_version())


def library_name(version: str) -> str:
    """What an MPI says of itself (MPI_Get_library_version), shortened to name and version: `Open MPI v4.1.8`."""
    return re.split(r"[,\n\t]| Version:", version.replace("\0", ""))[0].strip()


def check_launcher(cluster: ClusterEnv, env: Mapping[str, str]) -> None:
    """Raises MpiFault when what started this process cannot be understood by the MPI library."""
    loaded = loaded_library()
    family = next((name for name in _FITTING if loaded.startswith(name)), None)
    if family is None:
        return
    if cluster.by_mpirun:
        fits = family in cluster.source
    else:
        offered = "pmix" if "PMIX_RANK" in env else "pmi2" if "PMI_FD" in env else "none"
        fits = offered == _FITTING[family]
    if not fits:
        used = cluster.source if cluster.by_mpirun else f"srun --mpi={offered}"
        raise MpiFault(f"{used} does not fit the MPI library, {loaded}: {_remedy(family)}")


def check_size(cluster: ClusterEnv, size: int, what: str) -> None:
    """Raises MpiFault when MPI sees another number of processes than the launcher started."""
    if size != cluster.size:
        family = next((name for name in _FITTING if name in what), "Open MPI")
        raise MpiFault(
            f"{cluster.source} started {cluster.size} processes but {what} sees {size}: the launcher does not fit the "
            f"MPI library; {_remedy(family)}"
        )


def locate(cluster: ClusterEnv, env: Mapping[str, str]) -> ClusterEnv:
    """The cluster with every process's host and a free port. Starts MPI. Raises MpiFault."""
    check_launcher(cluster, env)
    from mpi4py import MPI

    MPI.Init_thread()
    world = MPI.COMM_WORLD
    check_size(cluster, world.Get_size(), f"{loaded_library()} of mpi4py")
    places = [address.rpartition(":")[::2] for address in world.allgather(offer(cluster))]
    one_host = len({host for host, _ in places}) == 1
    return cluster.with_addresses([f"{'127.0.0.1' if one_host else host}:{port}" for host, port in places])


def leave() -> None:
    """Ends MPI where `locate` started it. Only for a good end: it waits for all, and a failed process must not."""
    if "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        if MPI.Is_initialized() and not MPI.Is_finalized():
            MPI.Finalize()


def _remedy(family: str) -> str:
    return f"start with {family}'s own mpirun, or with srun --mpi={_FITTING[family]}"
