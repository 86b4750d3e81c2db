"""How replicas are put on devices, with TensorFlow's configuration recorded instead of carried out."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from bench import frameworks
from bench.errors import EnvironmentFault
from strategies.base import NumericsConfig, Resources
from tests.benchmark import ROOT

FP32 = NumericsConfig()

frameworks.load()


@dataclass
class Recorded:
    """What `configure` asked of tf.config."""

    gpus: list[str]
    visible: dict[str, list[str]] = field(default_factory=dict)
    logical: dict[str, list[int | None]] = field(default_factory=dict)
    growing: list[str] = field(default_factory=list)
    threads: dict[str, int] = field(default_factory=dict)
    tf32: list[bool] = field(default_factory=list)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    import tensorflow as tf

    seen = Recorded([])
    config: Any = tf.config
    kinds = {"CPU": ["cpu"], "GPU": seen.gpus}
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: kinds[kind])
    monkeypatch.setattr(config, "set_visible_devices", lambda devices, kind: seen.visible.update({kind: devices}))
    monkeypatch.setattr(
        config,
        "set_logical_device_configuration",
        lambda device, parts: seen.logical.update({device: [part.memory_limit for part in parts]}),
    )
    monkeypatch.setattr(config.threading, "set_intra_op_parallelism_threads", lambda n: seen.threads.update(intra=n))
    monkeypatch.setattr(config.threading, "set_inter_op_parallelism_threads", lambda n: seen.threads.update(inter=n))
    monkeypatch.setattr(config.experimental, "set_memory_growth", lambda gpu, on: on and seen.growing.append(gpu))
    monkeypatch.setattr(config.experimental, "enable_tensor_float_32_execution", seen.tf32.append)
    return seen


def resources(**fields: Any) -> Resources:
    usual = {"device_kind": "gpu", "num_gpus": 2, "devices": None, "gpu_memory_mib": None}
    return Resources(**usual | {"intra_op_threads": 3, "inter_op_threads": 2} | fields)


def test_cpu_replicas_are_logical_devices_and_gpus_are_hidden(recorded: Recorded) -> None:
    from strategies.devices import configure

    assert configure(resources(device_kind="cpu", num_gpus=0), 3, FP32) == ["CPU:0", "CPU:1", "CPU:2"]
    assert recorded.visible == {"GPU": []}
    assert recorded.logical == {"cpu": [None, None, None]}
    assert recorded.threads == {"intra": 3, "inter": 2}
    assert recorded.tf32 == [False]


def test_whole_gpus_grow_and_those_not_wanted_are_hidden(recorded: Recorded) -> None:
    from strategies.devices import configure

    recorded.gpus += ["g0", "g1"]
    assert configure(resources(), 2, FP32) == ["GPU:0", "GPU:1"]
    assert recorded.growing == ["g0", "g1"]
    assert configure(resources(), 1, FP32) == ["GPU:0"]
    assert recorded.visible == {"GPU": ["g0"]}
    assert recorded.logical == {}


def test_limited_gpus_are_cut_into_logical_ones(recorded: Recorded) -> None:
    from strategies.devices import configure

    recorded.gpus += ["g0", "g1"]
    assert configure(resources(gpu_memory_mib=512), 3, FP32) == ["GPU:0", "GPU:1", "GPU:2"]
    assert recorded.logical == {"g0": [512, 512], "g1": [512]}
    assert recorded.growing == []


def test_gpus_that_tensorflow_does_not_see_are_an_error_not_a_run_on_the_cpu(recorded: Recorded) -> None:
    from strategies.devices import configure

    recorded.gpus.append("g0")
    with pytest.raises(EnvironmentFault, match=r"shows 2 GPU.*sees 1.*\[cuda\].*--device cpu"):
        configure(resources(), 2, FP32)


def test_tf32_is_on_only_when_asked_for(recorded: Recorded) -> None:
    from strategies.devices import configure

    recorded.gpus += ["g0", "g1"]
    configure(resources(), 2, NumericsConfig(precision="tf32"))
    configure(resources(), 2, NumericsConfig(precision="bf16"))
    assert recorded.tf32 == [True, False]


def test_a_process_that_trains_nothing_leaves_the_gpus_alone(recorded: Recorded) -> None:
    from strategies.devices import configure

    recorded.gpus += ["g0", "g1"]
    assert configure(resources(), 0, FP32) == []
    assert recorded.visible == {"GPU": []}
    assert recorded.growing == []


HOST_MIB = str((os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) >> 20)


@pytest.mark.parametrize(
    ("onednn", "exported", "expected"),
    [
        (True, {}, {}),
        (None, {}, {"TF_CPU_ALLOCATOR_USE_BFC": "1", "TF_CPU_BFC_MEM_LIMIT_IN_MB": HOST_MIB}),
        (False, {}, {"TF_CPU_ALLOCATOR_USE_BFC": "1", "TF_CPU_BFC_MEM_LIMIT_IN_MB": HOST_MIB}),
        (False, {"TF_CPU_ALLOCATOR_USE_BFC": "0"}, {"TF_CPU_ALLOCATOR_USE_BFC": "0"}),
        (
            False,
            {"TF_CPU_BFC_MEM_LIMIT_IN_MB": "100"},
            {"TF_CPU_ALLOCATOR_USE_BFC": "1", "TF_CPU_BFC_MEM_LIMIT_IN_MB": "100"},
        ),
    ],
)
def test_without_onednn_the_cpu_allocator_is_one_that_counts(
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
    onednn: bool | None,
    exported: dict[str, str],
    expected: dict[str, str],
) -> None:
    """None: TensorFlow's function has another name."""
    from strategies import devices

    def is_on() -> bool:
        if onednn is None:
            raise AttributeError("IsMklEnabled")
        return onednn

    monkeypatch.setattr(devices, "onednn_is_on", is_on)
    environment = {**exported}
    monkeypatch.setattr(os, "environ", environment)
    devices.configure(resources(device_kind="cpu", num_gpus=0), 1, FP32)
    assert environment == expected


@pytest.mark.parametrize("option", ["0", "1"])
def test_onednn_is_asked_of_the_library(option: str) -> None:
    program = "from bench import frameworks; frameworks.load(); from strategies.devices import onednn_is_on; "
    program += "print(int(onednn_is_on()))"
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": option}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [option]
