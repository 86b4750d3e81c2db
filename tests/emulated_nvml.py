"""An emulated NVIDIA driver behind the real pynvml: it takes the place of libnvidia-ml.so.1, so pynvml's own
marshalling and error handling run. A device is a dict of readings; a missing one answers "not supported", as cards do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import pynvml
import pytest

H200 = {
    "uuid": b"GPU-11111111-aaaa",
    "name": b"NVIDIA H200",
    "total": 150_754_820_096,
    "used": 3_221_225_472,
    "util": 87,
    "power": 612_500,
    "limit": 700_000,
    "energy": 5_000_250,
    "clock": 1980,
    "max_clock": 1980,
    "throttle": 4,
    "temperature": 54,
    "ecc": 2,
}
"""In NVML's own units: mW, mJ, MHz, bytes."""


class Driver:
    """The functions of libnvidia-ml that TrainScale calls."""

    def __init__(self, devices: Sequence[dict[str, Any]], version: bytes = b"580.159.04") -> None:
        self.devices = devices
        self.version = version

    def nvmlInitWithFlags(self, _flags: int) -> int:  # noqa: N802
        return 0

    def nvmlSystemGetDriverVersion(self, buffer: Any, _length: Any) -> int:  # noqa: N802
        buffer.value = self.version
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.devices)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:  # noqa: N802
        address = ctypes.c_void_p(index.value + 1)
        ctypes.memmove(ctypes.byref(handle._obj), ctypes.byref(address), ctypes.sizeof(address))
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        device = self._device(handle)
        memory._obj.total, memory._obj.used = device["total"], device["used"]
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:  # noqa: N802
        device = self._device(handle)
        if "util" not in device:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        rates._obj.gpu = device["util"]
        return 0

    def _device(self, handle: Any) -> dict[str, Any]:
        return self.devices[ctypes.cast(handle, ctypes.c_void_p).value - 1]  # type: ignore[operator]

    def __getattr__(self, name: str) -> Any:
        texts = {"nvmlDeviceGetUUID": "uuid", "nvmlDeviceGetName": "name"}
        numbers = {
            "nvmlDeviceGetPowerUsage": "power",
            "nvmlDeviceGetEnforcedPowerLimit": "limit",
            "nvmlDeviceGetTotalEnergyConsumption": "energy",
            "nvmlDeviceGetClockInfo": "clock",
            "nvmlDeviceGetMaxClockInfo": "max_clock",
            "nvmlDeviceGetCurrentClocksThrottleReasons": "throttle",
            "nvmlDeviceGetTemperature": "temperature",
            "nvmlDeviceGetTotalEccErrors": "ecc",
        }
        if name not in texts and name not in numbers:
            raise AttributeError(name)

        def answer(handle: Any, *arguments: Any) -> int:
            device = self._device(handle)
            reading = device.get(texts.get(name) or numbers[name])
            if reading is None:
                return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
            target = arguments[0] if name in texts else arguments[-1]._obj
            target.value = reading
            return 0

        return answer


def install(monkeypatch: pytest.MonkeyPatch, devices: Sequence[dict[str, Any]]) -> None:
    """Puts the emulated driver under pynvml for one test."""
    monkeypatch.setattr(pynvml, "nvmlLib", Driver(devices))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
