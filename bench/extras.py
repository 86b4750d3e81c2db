"""Measures what stands beside the training, so that none of it costs a run.

Such an extra may fail, or hang, on a machine that nobody has seen. Then its columns are null, `runs.null_reasons` says
why, and the run goes on. All extras stand in EXTRAS; none is measured while iterations are timed, but for telemetry,
which has threads of its own.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from bench.errors import gist

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Extra:
    """One measurement beside the training."""

    columns: tuple[str, ...]
    """The columns of a record that it fills, as `runs.null_reasons` names them."""
    bound_s: float
    """The longest time that it may take [s]."""


EXTRAS: Mapping[str, Extra] = {
    "source": Extra(columns=("provenance.git_commit", "provenance.git_dirty"), bound_s=15),
    "host": Extra(
        columns=tuple(
            f"provenance.{name}" for name in ("kernel", "os", "cpu_model", "instruction_set", "memory_bytes")
        ),
        bound_s=10,
    ),
    "control groups": Extra(
        columns=("provenance.cgroup_cpu_limit", "provenance.cgroup_memory_limit_bytes"), bound_s=10
    ),
    "topology": Extra(columns=("provenance.topology",), bound_s=20),
    "NVML": Extra(columns=("provenance.gpus", "provenance.driver_version"), bound_s=20),
    "frameworks": Extra(
        columns=tuple(
            f"provenance.{name}"
            for name in ("tensorflow_version", "tensorflow_git_version", "keras_version", "numpy_version")
        ),
        bound_s=10,
    ),
    "libraries": Extra(
        columns=tuple(
            f"provenance.{name}"
            for name in ("cuda_version", "cudnn_version", "nccl_version", "mpi_library", "horovod_version")
        ),
        bound_s=10,
    ),
    "oneDNN": Extra(columns=("onednn",), bound_s=10),
    "other load": Extra(columns=("other_cores",), bound_s=10),
    "peak FLOP/s": Extra(columns=("peak_flops_per_s", "peak_source"), bound_s=60),
    "predicted memory": Extra(columns=("predicted_mem_bytes",), bound_s=20),
    "allocator": Extra(columns=("framework_peak_mem_bytes",), bound_s=10),
    "FLOPs": Extra(columns=("flops_per_image", "train_flops_per_image"), bound_s=60),
    "process samples": Extra(columns=("rss_bytes", "cpu_pct", "net_rx_bytes", "net_tx_bytes"), bound_s=5),
    "GPU samples": Extra(
        columns=(
            *("gpu_mem_used_bytes", "gpu_util_pct", "power_w", "energy_j", "sm_clock_mhz", "throttle_reasons"),
            *("temperature_c", "ecc_errors", "gpu_peak_mem_used_bytes"),
        ),
        bound_s=5,
    ),
}


class Extras:
    """Measures extras of one run, and hands the reasons for what is missing to `report`: column -> reason.

    `limit_s` bounds every extra besides its own bound [s]: where steps have a tight bound, extras have one, too.
    """

    def __init__(self, report: Callable[[dict[str, str]], None], limit_s: float = math.inf) -> None:
        self._report = report
        self._limit_s = limit_s
        self._failed: set[str] = set()

    def measure(self, name: str, function: Callable[[], Result]) -> Result | None:
        """Return what `function` measures for the extra `name`, or None where it fails or takes too long. An extra that
        has failed is not tried again."""
        if name in self._failed:
            return None
        try:
            return bounded(function, min(EXTRAS[name].bound_s, self._limit_s))
        except Exception as error:
            self.give_up(name, error)
            return None

    def give_up(self, name: str, why: object) -> None:
        """Report that the extra `name` could not be measured."""
        self._failed.add(name)
        self._report(dict.fromkeys(EXTRAS[name].columns, failure(why)))


def failure(why: object) -> str:
    """Return the reason for a column that is null because measuring it failed."""
    return f"could not be measured: {gist(str(why)) or type(why).__name__}"


def bounded(function: Callable[[], Result], bound_s: float) -> Result:
    """Return what `function` returns, or raise what it raises; TimeoutError where that takes longer than `bound_s`.

    It is called in a thread, which is abandoned where it hangs: nothing can end a call into a driver or a file system
    that does not answer.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            results.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="extra", daemon=True)
    thread.start()
    thread.join(bound_s)
    if results:
        return results[0]
    raise errors[0] if errors else TimeoutError(f"no answer within {bound_s:g} s")
