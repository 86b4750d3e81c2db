"""Configurations, efficiencies and costs against figures worked out by hand and against published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.configurations import Configuration, configurations, differing
from analysis.load import Results
from analysis.options import Selection
from analysis.scaling import Standing, largest_over, standings
from tests.synthetic_store import add_run


def found(root: Path) -> list[Configuration]:
    return configurations(Results(Selection(results_dir=(str(root),))).runs)


def standing(root: Path, **setup: object) -> Standing:
    """The only configuration with these settings."""
    (one,) = (
        each
        for each in standings(found(root))
        if all(each.configuration.setup[name] == value for name, value in setup.items())
    )
    return one


def test_runs_that_differ_are_not_pooled_and_failures_are_counted(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    add_run(tmp_path, [0.1], status="timeout", error="late")
    add_run(tmp_path, [0.2], num_batches_per_iter=20)
    one, other = found(tmp_path)
    assert (one.run_ids, one.failures) == (("R00000",), ("timeout: late",))
    assert (other.run_ids, other.failures) == (("R00002",), ())
    assert differing(one.setup, other.setup) == {"num_batches_per_iter": (10, 20)}


def test_a_figure_that_some_runs_lack_is_that_of_the_others(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    add_run(tmp_path, [0.2])
    next((tmp_path / "iters").rglob("R00001.parquet")).unlink()
    (one,) = found(tmp_path)
    assert one.samples["images_per_s"] == pytest.approx((640,))
    assert one.samples["gpu_peak_mem_used_bytes"] == ()
    assert one.typical("gpu_peak_mem_used_bytes") is None


def test_weak_scaling_efficiency_names_its_base_case(tmp_path: Path) -> None:
    for step in (0.1, 0.2):
        add_run(tmp_path, [step])
    for step in (0.125, 0.25):
        add_run(tmp_path, [step], strategy="mwms", num_processes=2, num_devices=2)
    mwms = standing(tmp_path, strategy="mwms")
    assert mwms.base is not None
    assert mwms.base.name == "single x1 mnist_cnn"
    assert mwms.speedup is not None
    assert mwms.speedup.value == pytest.approx(1.6)
    assert mwms.efficiency is not None
    assert mwms.efficiency.value == pytest.approx(0.8)
    assert mwms.efficiency.low == pytest.approx((mwms.speedup.low or 0) / 2)
    base = standing(tmp_path, strategy="single")
    assert base.efficiency is not None
    assert (base.efficiency.value, base.efficiency.low) == (1.0, None)


def test_strong_scaling_compares_at_the_same_global_batch(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1], batch_per_device=64)
    add_run(tmp_path, [0.06], strategy="mirrored", num_devices=2, batch_per_device=32, scaling="strong")
    mirrored = standing(tmp_path, strategy="mirrored")
    assert mirrored.efficiency is not None
    assert mirrored.efficiency.value == pytest.approx(0.1 / (2 * 0.06))
    assert mirrored.configuration.workload == "mnist_cnn on synthetic, 64 images in all, 1 core a device"


def test_weak_and_strong_runs_of_the_same_size_are_not_pooled(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1], batch_per_device=32)
    add_run(tmp_path, [0.1], batch_per_device=64)
    for scaling, expected in (("weak", 0.1 / 0.11), ("strong", 0.1 / (2 * 0.11))):
        add_run(tmp_path, [0.11], strategy="mirrored", num_devices=2, batch_per_device=32, scaling=scaling)
        efficiency = standing(tmp_path, scaling=scaling, strategy="mirrored").efficiency
        assert efficiency is not None
        assert efficiency.value == pytest.approx(expected)


@pytest.mark.parametrize(
    "other",
    [
        *({"cores_per_device": 2.0}, {"batch_per_device": 32}, {"device_name": "B"}, {"preloaded": True}),
        *({"data_digest": "d"}, {"cache": "disk"}, {"classes": "0-4"}, {"num_train_samples": 1000}),
    ],
)
def test_without_a_like_base_case_efficiency_is_null_with_a_reason(tmp_path: Path, other: dict[str, object]) -> None:
    add_run(tmp_path)
    add_run(tmp_path, strategy="mirrored", num_devices=2, **other)
    mirrored = standing(tmp_path, strategy="mirrored")
    assert mirrored.efficiency is None
    assert mirrored.why_no_efficiency == "no run of the base case with the same work and resources"


@pytest.mark.parametrize(
    ("devices", "one", "published"),
    [
        # Horovod, pull request 44: 16 GPUs, images/s and the factor over one GPU.
        (16, 130.9, {"ps": (74.7, 0.6), "horovod": (1308.7, 10.0), "mwms": (1787.4, 13.7)}),
        (16, 119.4, {"ps": (959.6, 8.0), "horovod": (1685.1, 14.1), "mwms": (1746.2, 14.6)}),
        # TensorFlow's performance documentation: DGX-1 P100, batch 64, 8 GPUs.
        (8, 154.0, {"mirrored": (1081.0, 7.0)}),
        (8, 219.0, {"mirrored": (1734.0, 7.9)}),
    ],
)
def test_published_factors_reproduce(
    tmp_path: Path, devices: int, one: float, published: dict[str, tuple[float, float]]
) -> None:
    add_run(tmp_path, [64 / one])
    for strategy, (rate, _) in published.items():
        add_run(tmp_path, [64 * devices / rate], strategy=strategy, num_devices=devices)
    for strategy, (_, factor) in published.items():
        speedup = standing(tmp_path, strategy=strategy).speedup
        assert speedup is not None
        assert speedup.value == pytest.approx(factor, abs=0.051)


@pytest.mark.parametrize(("one", "eight", "published"), [(154.0, 1081.0, 0.88), (219.0, 1734.0, 0.99)])
def test_published_efficiencies_reproduce(tmp_path: Path, one: float, eight: float, published: float) -> None:
    add_run(tmp_path, [64 / one])
    add_run(tmp_path, [64 * 8 / eight], strategy="mirrored", num_devices=8)
    efficiency = standing(tmp_path, strategy="mirrored").efficiency
    assert efficiency is not None
    assert efficiency.value == pytest.approx(published, abs=0.005)


def test_exposed_communication_is_what_the_exchange_adds(tmp_path: Path) -> None:
    """Steps of 0.1 s without exchange and 0.125 s with it: a fifth of the step is exposed."""
    processes = {"num_processes": 2, "num_devices": 2}
    for factor in (1.0, 1.01):
        add_run(tmp_path, [0.1 * factor], strategy="independent", synchronous=False, **processes)
        add_run(tmp_path, [0.125 * factor], strategy="mwms", **processes)
        with_server = {"num_processes": 3, "num_devices": 2, "num_ps": 1}
        add_run(tmp_path, [0.2 * factor], strategy="ps", synchronous=False, **with_server)
    exposed = standing(tmp_path, strategy="mwms").exposed
    assert exposed is not None
    assert exposed.value == pytest.approx(0.2)
    assert exposed.low is not None
    assert exposed.high is not None
    assert exposed.low < 0.2 < exposed.high
    assert standing(tmp_path, strategy="ps").exposed is None  # it waits for nobody


@pytest.mark.parametrize(
    ("free", "mine"),
    [
        ({"num_processes": 2}, {"strategy": "mirrored"}),  # one process for both devices
        # 64 images in all, 32 a device, against 64 a device
        ({"num_processes": 2}, {"num_processes": 2, "batch_per_device": 32, "scaling": "strong"}),
    ],
)
def test_other_processes_or_another_batch_show_no_exposed_communication(
    tmp_path: Path, free: dict[str, object], mine: dict[str, object]
) -> None:
    add_run(tmp_path, [0.1], strategy="independent", num_devices=2, synchronous=False, **free)
    add_run(tmp_path, [0.125], **{"strategy": "mwms", "num_devices": 2, **mine})
    one = standing(tmp_path, strategy=mine.get("strategy", "mwms"))
    assert (one.without_exchange, one.exposed) == (None, None)


def test_of_several_base_cases_the_nearest_is_one(tmp_path: Path) -> None:
    """The one with the same learning rate, though another has more runs; of two as near the one with more."""
    for learning_rate, count, step in ((0.02, 1, 0.1), (0.01, 3, 0.2), (0.03, 2, 0.4)):
        for _ in range(count):
            add_run(tmp_path, [step], learning_rate=learning_rate)
            free = {"strategy": "independent", "num_processes": 2, "num_devices": 2, "synchronous": False}
            add_run(tmp_path, [step], learning_rate=learning_rate, **free)
    for learning_rate in (0.02, 0.05):
        for nodes in (1, 2):
            sizes = {"num_nodes": nodes, "num_processes": 2 * nodes, "num_devices": 2 * nodes}
            add_run(tmp_path, [0.25], strategy="mwms", learning_rate=learning_rate, **sizes)
    for learning_rate, expected in ((0.02, 0.1 / 0.25), (0.05, 0.2 / 0.25)):
        near = standing(tmp_path, strategy="mwms", num_nodes=1, learning_rate=learning_rate)
        assert near.speedup is not None
        assert near.speedup.value == pytest.approx(2 * expected)
        assert near.exposed is not None
        assert near.exposed.value == pytest.approx(1 - expected)
        on_two = standing(tmp_path, strategy="mwms", num_nodes=2, learning_rate=learning_rate)
        assert on_two.node_base is not None
        assert on_two.node_base.key == near.configuration.key


def test_forward_runs_stand_against_forward_runs_and_exchange_nothing(tmp_path: Path) -> None:
    processes = {"num_processes": 2, "num_devices": 2}
    nothing = {"optimizer": None, "learning_rate": None, "synchronous": None, "gradient_bytes": None}
    add_run(tmp_path, [0.1])
    add_run(tmp_path, [0.02], phase="forward", **nothing)
    add_run(tmp_path, [0.02], phase="forward", strategy="independent", **processes, **nothing)
    add_run(tmp_path, [0.125], strategy="mwms", **processes)
    add_run(tmp_path, [0.025], phase="forward", strategy="mwms", **processes, **nothing)
    trained, inferred = (standing(tmp_path, strategy="mwms", phase=phase) for phase in ("train", "forward"))
    for one in (trained, inferred):
        assert one.efficiency is not None
        assert one.efficiency.value == pytest.approx(0.8)
    assert inferred.base is not None
    assert inferred.base.setup["phase"] == "forward"
    assert (inferred.exposed, inferred.bus_gb_per_s) == (None, None)
    assert inferred.configuration.workload.startswith("mnist_cnn on synthetic, forward, 64 images a device")
    assert inferred.configuration.name == "mwms x2 mnist_cnn forward"
    assert "forward" not in trained.configuration.workload


def test_image_size_and_classes_are_work_and_named_where_they_differ(tmp_path: Path) -> None:
    """Weights do not tell them apart: a network that ends in a mean over the image has the same for all sizes."""
    shape = {"model": "keras:ResNet50", "image_size": 224, "num_classes": 10}
    two = {"strategy": "mirrored", "num_devices": 2}
    add_run(tmp_path, [0.8], **shape)
    add_run(tmp_path, [1.0], **shape, **two)
    assert standing(tmp_path, strategy="mirrored").configuration.name == "mirrored x2 keras:ResNet50"
    add_run(tmp_path, [0.1], **shape | {"image_size": 64})
    add_run(tmp_path, [0.2], **shape | {"image_size": 64}, **two)
    small = standing(tmp_path, strategy="mirrored", image_size=64)
    assert small.efficiency is not None
    assert small.efficiency.value == pytest.approx(0.5)
    assert small.configuration.workload.startswith("keras:ResNet50 64x64 on synthetic, 64 images a device")
    assert standing(tmp_path, strategy="mirrored", image_size=224).configuration.name.endswith("ResNet50 224x224")
    add_run(tmp_path, [0.2], **shape | {"image_size": 64, "num_classes": 1000}, **two)
    lone = standing(tmp_path, num_classes=1000)
    assert lone.configuration.name == "mirrored x2 keras:ResNet50 64x64 1000 classes"
    assert lone.base is None


def test_an_optimizer_has_base_cases_of_its_own_and_is_named(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    add_run(tmp_path, [0.2], optimizer="adam", learning_rate=0.001)
    add_run(tmp_path, [0.25], strategy="mirrored", num_devices=2, optimizer="adam", learning_rate=0.002)
    adam = standing(tmp_path, strategy="mirrored")
    assert adam.efficiency is not None
    assert adam.efficiency.value == pytest.approx(0.8)
    assert adam.configuration.workload.startswith("mnist_cnn on synthetic, adam, 64 images")


def test_who_reads_which_record_files_is_no_part_of_the_work(tmp_path: Path) -> None:
    records = {"dataset": "tfrecord", "cache": "none", "data_digest": "d"}
    add_run(tmp_path, [0.1], sharding="record", **records)
    add_run(tmp_path, [0.125], strategy="mwms", num_processes=2, num_devices=2, sharding="file", **records)
    efficiency = standing(tmp_path, strategy="mwms").efficiency
    assert efficiency is not None
    assert efficiency.value == pytest.approx(0.8)


def test_parameter_servers_count_as_resources(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    add_run(tmp_path, [0.125], strategy="ps", num_processes=5, num_devices=4, num_ps=1, synchronous=False)
    ps = standing(tmp_path, strategy="ps")
    assert ps.efficiency is not None
    assert ps.efficiency_with_servers is not None
    assert ps.efficiency.value == pytest.approx(0.8)
    assert ps.efficiency_with_servers.value == pytest.approx(0.8 * 4 / 5)


def test_one_node_is_a_base_case_too(tmp_path: Path) -> None:
    for nodes, step in ((1, 0.1), (2, 0.1), (4, 0.125)):
        sizes = {"num_nodes": nodes, "num_processes": 4 * nodes, "num_devices": 4 * nodes}
        add_run(tmp_path, [step], strategy="mwms", **sizes)
    four = standing(tmp_path, num_nodes=4)
    assert four.node_base is not None
    assert four.node_base.setup["num_devices"] == 4
    assert four.node_speedup is not None
    assert four.node_speedup.value == pytest.approx(4 * 0.1 / 0.125)
    assert standing(tmp_path, num_nodes=1).node_base is None


def test_the_ring_must_carry_twice_the_gradients_less_a_share(tmp_path: Path) -> None:
    """4 devices, 10^9 bytes of gradients, 0.5 s a step: 2 x 3/4 x 10^9 / 0.5 = 3 GB/s."""
    sizes = {"num_processes": 4, "num_devices": 4, "gradient_bytes": 10**9}
    add_run(tmp_path, [0.5], strategy="mwms", **sizes)
    add_run(tmp_path, [0.5], strategy="ps", synchronous=False, **sizes)
    assert standing(tmp_path, strategy="mwms").bus_gb_per_s == pytest.approx(3.0)
    assert standing(tmp_path, strategy="ps").bus_gb_per_s is None


def test_the_largest_size_over_a_floor(tmp_path: Path) -> None:
    add_run(tmp_path, [0.1])
    for devices, step in ((2, 0.105), (4, 0.12), (8, 0.2)):
        add_run(tmp_path, [step], strategy="mwms", num_processes=devices, num_devices=devices)
    among = [one for one in standings(found(tmp_path)) if one.configuration.series == "mwms"]
    over = largest_over(among, 0.8)
    assert over is not None
    assert over.configuration.setup["num_devices"] == 4
    assert largest_over(among, 0.99) is None
