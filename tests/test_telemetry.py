from __future__ import annotations

import threading
import time
from typing import Any

import psutil
import pynvml
import pytest

from bench.extras import EXTRAS, Extra
from bench.telemetry import Gpus, ProcessSampler, Sampler, Source
from results.schema import GPU, TELEMETRY
from tests.emulated_nvml import H200, install

SECOND_GPU = H200 | {"uuid": b"GPU-22222222-bbbb", "used": 1}
POOR = {"uuid": b"GPU-33333333-cccc", "name": b"GeForce", "total": 8, "used": 4}


def test_every_reading_is_in_the_units_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [H200])
    gpus = Gpus({})
    assert gpus.unavailable is None
    assert gpus.driver_version == "580.159.04"
    assert gpus.sample() == [
        {
            "gpu_uuid": "GPU-11111111-aaaa",
            "gpu_mem_used_bytes": 3 * 2**30,
            "gpu_util_pct": 87.0,
            "power_w": 612.5,
            "energy_j": 5000.25,
            "sm_clock_mhz": 1980,
            "throttle_reasons": 4,
            "temperature_c": 54,
            "ecc_errors": 2,
        }
    ]
    (described,) = gpus.descriptions
    assert set(described) == {column.name for column in GPU}
    assert (described["name"], described["power_limit_w"]) == ("NVIDIA H200", 700.0)


def test_what_a_card_does_not_answer_is_none_and_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [POOR])
    (sample,) = Gpus({}).sample()
    assert sample["gpu_mem_used_bytes"] == 4
    assert {name for name, value in sample.items() if value is None} == {
        "gpu_util_pct",
        "power_w",
        "energy_j",
        "sm_clock_mhz",
        "throttle_reasons",
        "temperature_c",
        "ecc_errors",
    }


@pytest.mark.parametrize(
    ("allowed", "seen"),
    [
        ("1", ["GPU-22222222-bbbb"]),
        ("1,0", ["GPU-22222222-bbbb", "GPU-11111111-aaaa"]),
        ("GPU-222", ["GPU-22222222-bbbb"]),
        ("0,7,1", ["GPU-11111111-aaaa"]),
        ("-1", []),
        ("", []),
    ],
)
def test_cuda_visible_devices_limits_what_is_sampled(
    monkeypatch: pytest.MonkeyPatch, allowed: str, seen: list[str]
) -> None:
    install(monkeypatch, [H200, SECOND_GPU])
    gpus = Gpus({"CUDA_VISIBLE_DEVICES": allowed})
    assert [sample["gpu_uuid"] for sample in gpus.sample()] == seen
    assert (gpus.unavailable is None) == bool(seen)


def test_without_a_driver_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    gpus = Gpus({})
    assert gpus.unavailable is not None
    assert "NVML" in gpus.unavailable
    assert list(gpus.sample()) == list(gpus.descriptions) == []
    assert gpus.driver_version is None


def test_a_machine_without_gpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [])
    assert Gpus({}).unavailable == "NVML: no GPU"


def test_the_process_is_measured_and_the_node_counted_once() -> None:
    block = bytearray(64 << 20)
    (counting,), (other,) = (ProcessSampler(node_counters=counters).sample() for counters in (True, False))
    assert len(block) < counting["rss_bytes"] < psutil.virtual_memory().total
    assert counting["net_rx_bytes"] >= 0
    assert other["net_rx_bytes"] is None
    assert other["net_tx_bytes"] is None


def test_load_is_that_of_the_interval() -> None:
    sampler = ProcessSampler(node_counters=False)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert sampler.sample()[0]["cpu_pct"] > 0


class Ticking:
    def __init__(self) -> None:
        self.now = 0

    def now_ns(self) -> int:
        self.now += 1
        return self.now


def sampler(write: Any, source: Source) -> Sampler:
    return Sampler(period_s=0.01, clock=Ticking(), source=source, write=write)


@pytest.mark.parametrize("kind", ["process", "GPUs"])
def test_the_thread_samples_until_it_is_stopped_and_then_is_gone(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    install(monkeypatch, [H200])
    rows: list[dict[str, Any]] = []
    enough = threading.Event()

    def write(row: dict[str, Any]) -> None:
        rows.append(row)
        if len(rows) >= 6:
            enough.set()

    thread = sampler(write, ProcessSampler(node_counters=True) if kind == "process" else Gpus({}))
    thread.start()
    assert enough.wait(20)
    assert thread.stop(20) is None
    count = len(rows)
    time.sleep(0.05)
    assert len(rows) == count
    assert [row["t_ns"] for row in rows] == list(range(1, count + 1))
    assert all(set(row) <= {column.name for column in TELEMETRY} for row in rows)
    assert {"gpu_uuid" in row for row in rows} == {kind == "GPUs"}


def test_a_broken_sampler_says_why_and_stops_nothing() -> None:
    def full(_row: dict[str, Any]) -> None:
        raise OSError("disk full")

    thread = sampler(full, ProcessSampler(node_counters=True))
    thread.start()
    assert thread.stop(20) == "disk full"


def test_a_sampler_that_hangs_is_abandoned() -> None:
    released = threading.Event()

    class Hanging:
        failures: dict[str, str] = {}  # noqa: RUF012

        def sample(self) -> list[dict[str, Any]]:
            released.wait(20)
            return []

    thread = sampler(lambda row: None, Hanging())
    thread.start()
    assert thread.stop(0.05) == "a sample took longer than 0.05 s"
    released.set()


def test_what_cannot_be_read_of_a_process_is_none_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("not for you")

    source = ProcessSampler(node_counters=True)
    monkeypatch.setattr(psutil, "net_io_counters", refuse)
    (row,) = source.sample()
    assert (row["net_rx_bytes"], row["net_tx_bytes"], row["rss_bytes"] > 0) == (None, None, True)
    assert source.failures == dict.fromkeys(("net_rx_bytes", "net_tx_bytes"), "could not be measured: not for you")


def test_a_driver_that_hangs_or_is_of_another_age_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: released.wait(20))
    monkeypatch.setitem(EXTRAS, "NVML", Extra(columns=(), bound_s=0.05))  # type: ignore[arg-type]
    assert Gpus({}).unavailable == "NVML: no answer within 0.05 s"
    released.set()
    monkeypatch.delattr(pynvml, "nvmlInit")
    assert "nvmlInit" in str(Gpus({}).unavailable)
