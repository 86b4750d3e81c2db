"""Samples memory, load, power and network while a run trains. What cannot be read is None, never 0."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import psutil
import pynvml

from bench.extras import EXTRAS, bounded, failure
from bench.measure import NanosecondClock

_NONE = ("", "-1", "none", "void", "nodevfiles")
"""By these words sites and schedulers say that no GPU may be used."""

_SAME_START_S = 1.0
"""Within which two readings of a process's start time are of one process [s]."""


class Gpus:
    """The GPUs of this node that the process may use, through NVML, or the reason why there are none.

    `nvml` is the pynvml module. CUDA_VISIBLE_DEVICES limits them as it limits CUDA: by index or UUID, up to the first
    name that fits no GPU.
    """

    def __init__(self, env: Mapping[str, str], nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self.unavailable: str | None = None
        self.failures: dict[str, str] = {}
        """Column of a record -> why a GPU gave no answer."""
        self.driver_version: str | None = None
        """None where NVML is not there."""
        self.installed = 0
        """GPUs of this node, whether this process may use them or not."""
        self.handles: Sequence[Any] = ()
        self.uuids: Sequence[str | None] = ()
        """The UUID of each handle."""
        self.descriptions: Sequence[dict[str, Any]] = ()
        """`results.schema.GPU` of each handle."""
        self.misnamed: str | None = None
        """What CUDA_VISIBLE_DEVICES says, where that is neither that none may be used nor the name of one of them."""
        allowed = env.get("CUDA_VISIBLE_DEVICES")
        try:
            # All that is asked once is asked here, where a driver that hangs costs no more than the bound.
            self.installed, self.driver_version, self.handles, self.uuids, self.descriptions = bounded(
                lambda: self._look(allowed), EXTRAS["NVML"].bound_s
            )
        except Exception as error:
            self.unavailable = f"NVML: {error}"
            return
        if self.installed and not self.handles and allowed and allowed.split(",")[0].strip().lower() not in _NONE:
            self.misnamed = allowed
        if not self.handles:
            hidden = "NVML shows no GPU that CUDA_VISIBLE_DEVICES allows"
            self.unavailable = hidden if self.installed else "NVML: no GPU"

    def _look(self, allowed: str | None) -> tuple[int, str | None, list[Any], list[str | None], list[dict[str, Any]]]:
        nvml = self._nvml
        nvml.nvmlInit()
        installed = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        visible = self._visible(installed, allowed)
        uuids = [self._ask("gpu_uuid", nvml.nvmlDeviceGetUUID, handle) for handle in visible]
        descriptions = [self._describe(handle, uuid) for handle, uuid in zip(visible, uuids, strict=True)]
        return (
            len(installed),
            self._ask("provenance.driver_version", nvml.nvmlSystemGetDriverVersion),
            visible,
            uuids,
            descriptions,
        )

    def _visible(self, handles: list[Any], allowed: str | None) -> list[Any]:
        if allowed is None:
            return handles
        names = {str(index): handle for index, handle in enumerate(handles)}
        uuids = {self._nvml.nvmlDeviceGetUUID(handle): handle for handle in handles}
        chosen: list[Any] = []
        for word in allowed.split(","):
            name = word.strip()
            handle = names.get(name) or next((h for uuid, h in uuids.items() if name and uuid.startswith(name)), None)
            if handle is None:
                break
            chosen.append(handle)
        return chosen

    def _describe(self, handle: Any, uuid: str | None) -> dict[str, Any]:
        nvml = self._nvml
        return {
            "uuid": uuid,
            "name": self._ask("provenance.gpus", nvml.nvmlDeviceGetName, handle),
            "memory_bytes": self._ask("provenance.gpus", lambda h: nvml.nvmlDeviceGetMemoryInfo(h).total, handle),
            "power_limit_w": _scaled(self._ask("provenance.gpus", nvml.nvmlDeviceGetEnforcedPowerLimit, handle), 1000),
            "sm_clock_mhz": self._ask("provenance.gpus", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            "max_sm_clock_mhz": self._ask(
                "provenance.gpus", nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM
            ),
        }

    def sample(self) -> list[dict[str, Any]]:
        """The GPU columns of `results.schema.TELEMETRY`, a dict for each GPU. Waits for the driver without a bound."""
        nvml = self._nvml
        ecc = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        return [
            {
                "gpu_uuid": uuid,
                "gpu_mem_used_bytes": self._ask(
                    "gpu_mem_used_bytes", lambda h: nvml.nvmlDeviceGetMemoryInfo(h).used, handle
                ),
                "gpu_util_pct": self._ask(
                    "gpu_util_pct", lambda h: float(nvml.nvmlDeviceGetUtilizationRates(h).gpu), handle
                ),
                "power_w": _scaled(self._ask("power_w", nvml.nvmlDeviceGetPowerUsage, handle), 1000),
                "energy_j": _scaled(self._ask("energy_j", nvml.nvmlDeviceGetTotalEnergyConsumption, handle), 1000),
                "sm_clock_mhz": self._ask("sm_clock_mhz", nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
                "throttle_reasons": self._ask(
                    "throttle_reasons", nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle
                ),
                "temperature_c": self._ask(
                    "temperature_c", nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
                ),
                "ecc_errors": self._ask("ecc_errors", nvml.nvmlDeviceGetTotalEccErrors, handle, *ecc),
            }
            for handle, uuid in zip(self.handles, self.uuids, strict=True)
        ]

    def _ask(self, column: str, question: Callable[..., Any], *arguments: Any) -> Any:
        # A card answers some questions and not others, and drivers differ in what they know: each is asked for itself.
        return _reading(lambda: question(*arguments), column, self.failures)


def _reading(read: Callable[[], Any], column: str, failures: dict[str, str]) -> Any:
    """Return what `read` returns, or None where it fails: then `failures` says why."""
    try:
        return read()
    except Exception as error:
        failures[column] = failure(error)
        return None


def _scaled(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


class ProcessSampler:
    """The process columns of `results.schema.TELEMETRY`. `node_counters` is true on one rank of each node."""

    def __init__(self, *, node_counters: bool, process: psutil.Process | None = None) -> None:
        self.failures: dict[str, str] = {}
        """Column of a record -> why it could not be read."""
        self._node_counters = node_counters
        self._process = process or psutil.Process()
        self._read("cpu_pct", self._process.cpu_percent)  # the first call only sets the start of the next interval

    def sample(self) -> list[dict[str, Any]]:
        """One row."""
        row = {
            "rss_bytes": self._read("rss_bytes", lambda: self._process.memory_info().rss),
            "cpu_pct": self._read("cpu_pct", self._process.cpu_percent),
            "net_rx_bytes": self._count("net_rx_bytes", "bytes_recv"),
            "net_tx_bytes": self._count("net_tx_bytes", "bytes_sent"),
        }
        return [row]

    def _count(self, column: str, counter: str) -> int | None:
        """A counter of the node's network, on the rank that reads them."""
        if not self._node_counters:
            return None
        count: int | None = self._read(column, lambda: getattr(psutil.net_io_counters(), counter))
        return count

    def _read(self, column: str, read: Callable[[], Any]) -> Any:
        return _reading(read, column, self.failures)


class OtherLoad:
    """The load of this node's other processes, between the start and `cores`. `processes`: pid -> start time [Unix s]
    of the processes of the run on this node. Raises OSError or psutil.Error where one of them is not seen here."""

    def __init__(self, processes: Mapping[int, float]) -> None:
        self._processes = [psutil.Process(pid) for pid in processes]
        for process, started in zip(self._processes, processes.values(), strict=True):
            if abs(process.create_time() - started) > _SAME_START_S:
                raise OSError(f"process {process.pid} of the run is not the one that is seen here: containers hide it")
        self._before, self._own_before, self._start_s = self._node_s(), self._own_s(), time.monotonic()

    def cores(self) -> float:
        """CPU time of processes outside the run / time: 1 is one core."""
        other_s = (self._node_s() - self._before) - (self._own_s() - self._own_before)
        return max(0.0, other_s / (time.monotonic() - self._start_s))

    @staticmethod
    def _node_s() -> float:
        """Without interrupts, which belong to no process."""
        times = psutil.cpu_times()
        return times.user + times.nice + times.system

    def _own_s(self) -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._processes))


class Source(Protocol):
    """What can be sampled."""

    failures: dict[str, str]
    """Column of a record -> why it could not be read."""

    def sample(self) -> Sequence[dict[str, Any]]:
        """Rows of `telemetry`, without time, run and rank."""


class Sampler:
    """A thread that samples every `period_s` s and hands rows of `telemetry` to `write`, until `stop`."""

    def __init__(
        self,
        *,
        period_s: float,
        clock: NanosecondClock,
        source: Source,
        write: Callable[[dict[str, Any]], None],
    ) -> None:
        self.source = source
        self._period_s = period_s
        self._clock = clock
        self._write = write
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self, bound_s: float) -> str | None:
        """End the thread after a last sample. Return why sampling ended early, if it did; a thread that does not end
        within `bound_s` is abandoned."""
        self._stopping.set()
        self._thread.join(bound_s)
        if self._thread.is_alive():
            return f"a sample took longer than {bound_s:g} s"
        return str(self._error) if self._error else None

    def _run(self) -> None:
        try:
            while True:
                ending = self._stopping.is_set()
                for row in self.source.sample():
                    self._write({"t_ns": self._clock.now_ns(), **row})
                if ending:
                    return
                self._stopping.wait(self._period_s)
        except Exception as error:  # measuring goes on without telemetry, and the record says so
            self._error = error
