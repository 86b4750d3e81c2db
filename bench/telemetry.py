"""Samples memory, load, power and network while a run trains. What cannot be read is None, never 0."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import pynvml

from bench.measure import NanosecondClock

_NONE = ("", "-1", "none", "void", "nodevfiles")
"""By these words sites and schedulers say that no GPU may be used."""


class Gpus:
    """The GPUs of this node that the process may use, through NVML, or the reason why there are none.

    `nvml` is the pynvml module. CUDA_VISIBLE_DEVICES limits them as it limits CUDA: by index or UUID, up to the first
    name that fits no GPU.
    """

    def __init__(self, env: Mapping[str, str], nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self.unavailable: str | None = None
        self.handles: list[Any] = []
        self.installed = 0
        """GPUs of this node, whether this process may use them or not."""
        self.misnamed: str | None = None
        """What CUDA_VISIBLE_DEVICES says, where that is neither that none may be used nor the name of one of them."""
        try:
            nvml.nvmlInit()
            everyone = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            self.installed = len(everyone)
            allowed = env.get("CUDA_VISIBLE_DEVICES")
            self.handles = self._visible(everyone, allowed)
            if everyone and not self.handles and allowed and allowed.split(",")[0].strip().lower() not in _NONE:
                self.misnamed = allowed
        except nvml.NVMLError as error:
            self.unavailable = f"NVML: {error}"
            return
        if not self.handles:
            self.unavailable = "NVML shows no GPU that CUDA_VISIBLE_DEVICES allows" if everyone else "NVML: no GPU"

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

    def uuid(self, handle: Any) -> str | None:
        """The UUID of a GPU."""
        uuid: str | None = self._ask(self._nvml.nvmlDeviceGetUUID, handle)
        return uuid

    def driver_version(self) -> str | None:
        """The driver's version; None where NVML is not there."""
        return None if self.unavailable else self._ask(self._nvml.nvmlSystemGetDriverVersion)

    def describe(self) -> list[dict[str, Any]]:
        """`results.schema.GPU`, a dict each."""
        nvml = self._nvml
        return [
            {
                "uuid": self.uuid(handle),
                "name": self._ask(nvml.nvmlDeviceGetName, handle),
                "memory_bytes": self._ask(lambda h: nvml.nvmlDeviceGetMemoryInfo(h).total, handle),
                "power_limit_w": _scaled(self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle), 1000),
                "sm_clock_mhz": self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
                "max_sm_clock_mhz": self._ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
            }
            for handle in self.handles
        ]

    def sample(self) -> list[dict[str, Any]]:
        """The GPU columns of `results.schema.TELEMETRY`, a dict each."""
        nvml = self._nvml
        ecc = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
        return [
            {
                "gpu_uuid": self.uuid(handle),
                "gpu_mem_used_bytes": self._ask(lambda h: nvml.nvmlDeviceGetMemoryInfo(h).used, handle),
                "gpu_util_pct": self._ask(lambda h: float(nvml.nvmlDeviceGetUtilizationRates(h).gpu), handle),
                "power_w": _scaled(self._ask(nvml.nvmlDeviceGetPowerUsage, handle), 1000),
                "energy_j": _scaled(self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle), 1000),
                "sm_clock_mhz": self._ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
                "throttle_reasons": self._ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
                "temperature_c": self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
                "ecc_errors": self._ask(nvml.nvmlDeviceGetTotalEccErrors, handle, *ecc),
            }
            for handle in self.handles
        ]

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        # A card answers some questions and not others: each is asked for itself.
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


def _scaled(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


class ProcessSampler:
    """The process columns of `results.schema.TELEMETRY`. `node_counters` is true on one rank of each node."""

    def __init__(self, *, node_counters: bool, process: psutil.Process | None = None) -> None:
        self._node_counters = node_counters
        self._process = process or psutil.Process()
        self._process.cpu_percent()  # the first call only sets the start of the next interval

    def sample(self) -> dict[str, Any]:
        network = psutil.net_io_counters() if self._node_counters else None
        return {
            "rss_bytes": self._process.memory_info().rss,
            "cpu_pct": self._process.cpu_percent(),
            "net_rx_bytes": network.bytes_recv if network else None,
            "net_tx_bytes": network.bytes_sent if network else None,
        }


class Sampler:
    """A thread that samples every `period_s` s and hands rows of `telemetry` to `write`, until `stop`."""

    def __init__(
        self,
        *,
        period_s: float,
        clock: NanosecondClock,
        process: ProcessSampler,
        gpus: Gpus | None,
        write: Callable[[dict[str, Any]], None],
    ) -> None:
        self._period_s = period_s
        self._clock = clock
        self._process = process
        self._gpus = gpus
        self._write = write
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> str | None:
        """Ends the thread after a last sample. Returns why sampling ended early, if it did."""
        self._stopping.set()
        self._thread.join()
        return f"telemetry stopped early: {self._error}" if self._error else None

    def _run(self) -> None:
        try:
            while True:
                ending = self._stopping.is_set()
                self._sample()
                if ending:
                    return
                self._stopping.wait(self._period_s)
        except Exception as error:  # measuring goes on without telemetry, and the record says so
            self._error = error

    def _sample(self) -> None:
        for row in [self._process.sample(), *(self._gpus.sample() if self._gpus else [])]:
            self._write({"t_ns": self._clock.now_ns(), **row})
