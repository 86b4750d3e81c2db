"""`mwms`: tf.distribute.MultiWorkerMirroredStrategy, one process a worker; and `independent`, the same processes
without gradient exchange: what the workers could do if communication were free."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, ClassVar

from bench.errors import EnvironmentFault, UsageError
from strategies.base import Strategy, Trainer, Workload

_PAYLOAD_BYTES = 1024


class MultiWorkerMirrored(Strategy):
    """TF_CONFIG is always written from the cluster, so what joins is what `jobs.cluster` understood."""

    name = "mwms"
    synchronous = True
    one_process = False
    requested_all_reduce: ClassVar[str | None] = "auto"
    _distribution: Any

    def check(self) -> None:
        super().check()
        if self.resources.device_kind == "cpu" and (self.resources.devices or 1) > 1:
            raise UsageError(
                f"strategy {self.name!r} trains one replica a worker on CPUs, so --devices-per-worker "
                f"{self.resources.devices} has no effect: use --num-workers {self.resources.devices}, or mirrored"
            )
        if others := {task.role for task in self.cluster.tasks} - {"chief", "worker"}:
            raise UsageError(f"strategy {self.name!r} has no role {others.pop()!r}: name only workers in TF_CONFIG")

    @property
    def local_replicas(self) -> int:
        return self.resources.devices or max(1, self.resources.num_gpus)

    def connect(self) -> None:
        import tensorflow as tf

        from strategies.devices import configure

        configure(self.resources, self.local_replicas)
        if self.cluster.size > 1:
            _claim(self.cluster.task.port)
            os.environ["TF_CONFIG"] = self.cluster.tf_config()
        else:
            os.environ.pop("TF_CONFIG", None)
        self._distribution = tf.distribute.MultiWorkerMirroredStrategy()
        self._gather = tf.function(self._distribution.gather)

    def exchange(self, payload: bytes) -> list[bytes]:
        import numpy as np

        if len(payload) > _PAYLOAD_BYTES:
            raise ValueError(f"payload of {len(payload)} bytes, at most {_PAYLOAD_BYTES}")
        # float32 is the one type that every collective backend carries on every device; it holds a byte exactly.
        mine = np.zeros((1, _PAYLOAD_BYTES + 2), np.float32)
        mine[0, :2] = divmod(len(payload), 256)
        mine[0, 2 : 2 + len(payload)] = np.frombuffer(payload, np.uint8)
        values = self._distribution.experimental_distribute_values_from_function(lambda _context: mine)
        rows = self._gather(values, axis=0).numpy()[:: self.local_replicas].astype(np.uint8)
        return [row[2 : 2 + int(row[0]) * 256 + int(row[1])].tobytes() for row in rows]

    def trainer(self, workload: Workload) -> Trainer:
        from strategies.training import ReplicatedTrainer

        return ReplicatedTrainer(self._distribution, workload, self.shard())


class Independent(MultiWorkerMirrored):
    """Connects as mwms does, so that start, end and resources are the same, and trains each worker for itself."""

    name = "independent"
    synchronous = False
    requested_all_reduce: ClassVar[str | None] = None

    def check(self) -> None:
        super().check()
        if self.local_replicas > 1:
            raise UsageError(
                f"strategy 'independent' trains one device a worker, not {self.local_replicas}: start a worker for "
                "each device, with --devices-per-worker 1"
            )

    def trainer(self, workload: Workload) -> Trainer:
        import tensorflow as tf

        from strategies.training import ReplicatedTrainer

        return ReplicatedTrainer(tf.distribute.get_strategy(), workload, self.shard())


def _claim(port: int) -> None:
    """Raises EnvironmentFault when somebody else listens on our port: TensorFlow would hang instead (one worker
    fails to start its server, the others wait for it)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EnvironmentFault(
                    f"port {port} of this worker is in use on {socket.gethostname()}: end what listens there, or give "
                    "this task another port"
                ) from error
            raise EnvironmentFault(f"port {port} of this worker cannot be opened: {error.strerror}") from error
