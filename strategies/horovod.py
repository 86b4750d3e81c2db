"""`horovod`: Horovod's all-reduce, one process a device, over Gloo (which needs nothing else) or MPI."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Any

from bench.errors import EnvironmentFault, UsageError
from jobs.cluster import ClusterEnv, Task
from jobs.mpi import check_launcher, check_size
from strategies.base import Strategy, Trainer, Workload

_HOW_TO_GET = "make setup builds it, or python -m jobs.build_horovod in an environment of yours"
_HIERARCHICAL = "hierarchical_"
_LOOPBACK = "127.0.0.1"
_GLOO_TIMEOUT_S = "300"
"""Horovod's own 30 s are too short for hosts that load TensorFlow from a shared file system."""


class Horovod(Strategy):
    """Gradients are averaged by Horovod inside the compiled step; weights start as rank 0's."""

    name = "horovod"
    synchronous = True
    one_process = False
    all_reduces = ("auto", "ring", "nccl")
    peer_errors = ("Horovod has been shut down", "gloo/transport/")
    knobs = frozenset(
        {"controller", "fusion_threshold_mib", "cycle_time_ms", "compression", "hierarchical_all_reduce", "timeline"}
    )

    def check(self) -> None:
        super().check()
        if (self.resources.devices or 1) > 1:
            raise UsageError(
                f"strategy 'horovod' trains one device a process, so --devices-per-worker {self.resources.devices} has "
                f"no effect: use --num-workers {self.resources.devices}"
            )
        if self.exchange.hierarchical_all_reduce and self.resources.device_kind != "gpu":
            raise UsageError("--hierarchical-all-reduce is for GPUs with NCCL, and this run uses the CPU: leave it out")
        if self.exchange.all_reduce == "ring" and self._controller == "mpi":
            raise UsageError("--all-reduce ring is Gloo's; MPI chooses its own algorithm: use --controller gloo")
        if self._controller == "mpi" and not self.cluster.may_use_mpi:
            raise UsageError(
                f"--controller mpi needs processes that MPI started, not {self.cluster.source}: use mpirun or "
                "srun --mpi=..., or --controller gloo"
            )
        require_build_for_tensorflow()

    def replicas(self, task: Task) -> int:
        return 1

    @property
    def _controller(self) -> str:
        asked = self.exchange.controller
        return asked if asked != "auto" else "mpi" if self.cluster.by_mpirun else "gloo"

    def connect(self, exchange: Callable[[bytes], list[bytes]]) -> None:
        from strategies.devices import configure

        configure(self.resources, 1, self.numerics)
        os.environ.update(self._knob_settings())
        import horovod.tensorflow as hvd

        if not getattr(hvd, f"{self._controller}_built")():
            raise EnvironmentFault(
                f"this Horovod was built without {self._controller.upper()}: use --controller "
                f"{'mpi' if self._controller == 'gloo' else 'gloo'}, or build it again ({_HOW_TO_GET})"
            )
        if self._controller == "gloo":
            os.environ.update(_gloo_settings(self.cluster, _serve_store(self.cluster, exchange)))
        else:
            check_launcher(self.cluster, os.environ)
            os.environ.update(HOROVOD_CONTROLLER="mpi", HOROVOD_CPU_OPERATIONS="mpi")
        hvd.init()
        self._hvd = hvd
        check_size(self.cluster, hvd.size(), f"Horovod over {self._controller}")
        asked, actual = self.exchange.all_reduce, self._collective()
        if asked not in ("auto", actual.removeprefix(_HIERARCHICAL)):
            raise EnvironmentFault(f"--all-reduce {asked}, but this Horovod reduces by {actual}: leave the flag out")
        if self.exchange.hierarchical_all_reduce and not actual.startswith(_HIERARCHICAL):
            raise EnvironmentFault(
                f"--hierarchical-all-reduce needs NCCL, but this Horovod reduces by {actual}: leave the flag out, or "
                f"build it with HOROVOD_GPU_OPERATIONS=NCCL ({_HOW_TO_GET})"
            )

    def trainer(self, workload: Workload) -> Trainer:
        import tensorflow as tf

        from strategies.training import Exchange, ReplicatedTrainer

        hvd = self._hvd
        compression = getattr(hvd.Compression, self.exchange.compression)

        def average(gradients: list[Any]) -> list[Any]:
            # One by one, in the order in which the backward pass makes them: Horovod fuses what is ready.
            return [
                hvd.allreduce(gradient, op=hvd.Average, compression=compression, name=f"gradient_{index}")
                for index, gradient in enumerate(gradients)
            ]

        exchange = Exchange(average=average, name=self._collective() if self.cluster.size > 1 else None)
        trainer = ReplicatedTrainer(
            tf.distribute.get_strategy(), workload, self.shard(), None if workload.forward else exchange
        )
        hvd.broadcast_variables(trainer.variables(), root_rank=0)
        return trainer

    def close(self) -> None:
        self._hvd.shutdown()

    def _collective(self) -> str:
        """What adds up the gradients, as the loaded library says."""
        if self.resources.device_kind == "gpu" and self._hvd.nccl_built():
            return f"{_HIERARCHICAL}nccl" if self.exchange.hierarchical_all_reduce else "nccl"
        return "mpi" if self._hvd.mpi_enabled() else "ring"

    def _knob_settings(self) -> dict[str, str]:
        knobs = self.exchange
        wanted = {
            "HOROVOD_FUSION_THRESHOLD": knobs.fusion_threshold_mib and knobs.fusion_threshold_mib << 20,
            "HOROVOD_CYCLE_TIME": knobs.cycle_time_ms,
            "HOROVOD_HIERARCHICAL_ALLREDUCE": 1 if knobs.hierarchical_all_reduce else None,
            "HOROVOD_TIMELINE": knobs.timeline and knobs.timeline.absolute(),
        }
        return {name: str(value) for name, value in wanted.items() if value is not None}


def require_build_for_tensorflow() -> None:
    """Raises EnvironmentFault without a Horovod for the installed TensorFlow. Loads neither."""
    try:
        found = distribution("horovod")
    except PackageNotFoundError:
        raise EnvironmentFault(f"Horovod is not installed: {_HOW_TO_GET}") from None
    metadata = found.locate_file("horovod/metadata.json")
    built_for = json.loads(metadata.read_text())["tensorflow"]
    if built_for != version("tensorflow"):
        raise EnvironmentFault(
            f"Horovod was built for TensorFlow {built_for}, but {version('tensorflow')} is installed: {_HOW_TO_GET}"
        )


def _serve_store(cluster: ClusterEnv, exchange: Callable[[bytes], list[bytes]]) -> int:
    """The port of the store in which Gloo's ranks find each other; rank 0 serves it. The store has no secret, so where
    all ranks are on one host no other host can reach it."""
    port = 0
    if cluster.rank == 0:
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

        server = RendezvousHTTPServer((_LOOPBACK if _on_one_host(cluster) else "", 0), RendezvousHandler, verbose=0)
        threading.Thread(target=server.serve_forever, name="gloo store", daemon=True).start()
        port = server.server_address[1]
    return int(exchange(str(port).encode())[0])


def _on_one_host(cluster: ClusterEnv) -> bool:
    return len({task.host for task in cluster.tasks}) == 1


def _address(host: str) -> str:
    """Of rank 0's host. Raises EnvironmentFault."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise EnvironmentFault(
            f"rank 0's host {host!r} is not known here ({error.strerror}): enter it in DNS or in /etc/hosts"
        ) from error


def _gloo_settings(cluster: ClusterEnv, port: int) -> dict[str, str]:
    """What Gloo reads from the environment; the store answers at `port` of rank 0's host."""
    hosts = [task.host for task in cluster.tasks]
    # The ranks that have this place on their hosts: hosts with fewer processes have none.
    across = [host for host in dict.fromkeys(hosts) if hosts.count(host) > cluster.local_rank]
    one_host = _on_one_host(cluster)
    return {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_RANK": str(cluster.rank),
        "HOROVOD_SIZE": str(cluster.size),
        "HOROVOD_LOCAL_RANK": str(cluster.local_rank),
        "HOROVOD_LOCAL_SIZE": str(cluster.local_size),
        "HOROVOD_CROSS_RANK": str(across.index(cluster.task.host)),
        "HOROVOD_CROSS_SIZE": str(len(across)),
        "HOROVOD_HOSTNAME": cluster.task.host,
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": _LOOPBACK if one_host else _address(hosts[0]),
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_TIMEOUT_SECONDS": os.environ.get("HOROVOD_GLOO_TIMEOUT_SECONDS", _GLOO_TIMEOUT_S),
        **({"HOROVOD_GLOO_IFACE": "lo"} if one_host else {}),
    }
