from __future__ import annotations

import importlib.metadata
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from bench.config import RunConfig, parse
from bench.errors import BenchError, EnvironmentFault, UsageError
from bench.launch_plan import LaunchPlan, plan_launch
from bench.plan import make_strategy
from bench.telemetry import Gpus
from bench.workloads.optimizers import OPTIMIZERS
from jobs.cluster import ClusterEnv, Task
from results.schema import RUNS
from strategies import STRATEGIES
from tests.emulated_nvml import H200, install
from tests.test_records import index_of

CORES = len(os.sched_getaffinity(0))
FOUR_GPUS = [H200 | {"uuid": f"GPU-{index}".encode()} for index in range(4)]


def planned(*flags: str) -> LaunchPlan:
    return plan_launch(parse(flags), None, Gpus({}), {})


def fields(*flags: str) -> dict[str, Any]:
    return planned(*flags).plan.run_fields()


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [])


def test_the_default_is_one_device_with_all_cores() -> None:
    row = fields()
    assert (row["num_devices"], row["num_processes"], row["batch_per_device"], row["global_batch"]) == (1, 1, 64, 64)
    assert (row["scaling"], row["device_kind"], row["cores_per_device"]) == ("weak", "cpu", float(CORES))
    assert set(row) <= {column.name for column in RUNS}


@pytest.mark.parametrize(
    ("flags", "devices", "processes"),
    [
        (["--strategy=mirrored", "--devices-per-worker=3"], 3, 1),
        (["--strategy=mwms", "--num-workers=3"], 3, 3),
        (["--strategy=multi_worker_mirrored", "--num-workers=2"], 2, 2),
        (["--strategy=independent", "--num-workers=2"], 2, 2),
    ],
)
def test_weak_scaling_keeps_the_batch_of_a_device(flags: list[str], devices: int, processes: int) -> None:
    row = fields(*flags, "--batch-size=12")
    assert (row["num_devices"], row["num_processes"]) == (devices, processes)
    assert (row["batch_per_device"], row["global_batch"]) == (12, 12 * devices)


def test_image_size_and_classes_are_the_models_own_unless_they_are_given() -> None:
    row = fields("--model=keras:NASNetLarge")
    assert (row["image_size"], row["num_classes"]) == (331, 1000)
    row = fields("--model=keras:NASNetLarge", "--image-size=64", "--num-classes=10")
    assert (row["image_size"], row["num_classes"]) == (64, 10)
    assert (row["config"]["image_size"], row["config"]["num_classes"]) == (64, 10)
    with pytest.raises(UsageError, match=r"--image-size 31 .* give at least 32"):
        fields("--model=vgg16", "--image-size=31")


def test_strong_scaling_shares_the_global_batch() -> None:
    row = fields("--strategy=mwms", "--num-workers=4", "--global-batch-size=64")
    assert (row["batch_per_device"], row["global_batch"], row["scaling"]) == (16, 64, "strong")


def test_workers_get_disjoint_cores_and_distinct_ports() -> None:
    local = planned("--strategy=mwms", "--num-workers=2", "--cores-per-device=1") if CORES > 1 else planned()
    ports = [task.port for task in local.members[0].tasks]
    assert len(set(ports)) == len(ports)
    assert [member.rank for member in local.members] == list(range(len(ports)))
    assert [len(cores) for cores in local.cores] == [1] * len(local.cores) or CORES == 1
    assert len(set(local.cores)) == len(local.cores)


def test_gpus_are_shared_out_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FOUR_GPUS)
    local = planned("--strategy=mwms", "--num-workers=2")
    assert local.gpus == (("GPU-0", "GPU-1"), ("GPU-2", "GPU-3"))
    row = local.plan.run_fields()
    assert (row["device_kind"], row["num_devices"]) == ("gpu", 4)
    assert fields("--strategy=mirrored")["num_devices"] == 4
    assert fields("--strategy=single")["num_devices"] == 1
    assert fields("--strategy=mirrored", "--device=cpu")["device_kind"] == "cpu"


def test_a_gpu_that_nobody_knows_is_no_reason_to_measure_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FOUR_GPUS[:2])

    def kind(allowed: str, *flags: str) -> Any:
        return plan_launch(parse(flags), None, Gpus({"CUDA_VISIBLE_DEVICES": allowed}), {}).plan.run_fields()[
            "device_kind"
        ]

    with pytest.raises(EnvironmentFault, match=r"is 'MIG-1234-abcd', which names none of the 2 GPU.*--device cpu"):
        kind("MIG-1234-abcd")
    assert kind("MIG-1234-abcd", "--device=cpu") == "cpu"
    assert [kind(allowed) for allowed in ("", "-1", "-1,0", "none", "NoDevFiles")] == ["cpu"] * 5
    assert kind("GPU-1") == "gpu"


@pytest.mark.parametrize(("flags", "first"), [(["--strategy=mwms"], 0), (["--strategy=ps"], 1)])
def test_the_first_worker_that_trains_samples_every_gpu(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], first: int
) -> None:
    install(monkeypatch, FOUR_GPUS[:2])
    sampled = planned(*flags, "--num-workers=2").sampled_gpus
    assert {index: uuids for index, uuids in enumerate(sampled) if uuids} == {first: ("GPU-0", "GPU-1")}


def test_workers_share_a_gpu_only_when_its_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FOUR_GPUS[:1])
    local = planned("--strategy=mwms", "--num-workers=2", "--gpu-memory-mib=1024", "--devices-per-worker=1")
    assert local.gpus == (("GPU-0",), ("GPU-0",))
    with pytest.raises(UsageError, match=r"--devices-per-worker 2 but a worker sees 1 GPU.*--gpu-memory-mib"):
        planned("--strategy=mirrored", "--devices-per-worker=2")


REFUSED = [
    (["--strategy=mwmss"], UsageError, "unknown strategy 'mwmss'. Did you mean 'mwms'? Valid: central,"),
    (["--model=vgg61"], UsageError, "unknown model 'vgg61'. Did you mean 'vgg19'?"),
    (["--strategy=single", "--num-workers=2"], UsageError, "runs in one process and has no use for 2"),
    (["--strategy=mirrored", "--num-workers=2"], UsageError, "--devices-per-worker"),
    (["--strategy=single", "--devices-per-worker=2"], UsageError, "trains on one device"),
    (["--strategy=mwms", "--devices-per-worker=2"], UsageError, "has no effect: use --num-workers 2, or mirrored"),
    (["--strategy=independent", "--devices-per-worker=2"], UsageError, "has no effect"),
    (["--strategy=mwms", "--num-workers=3", "--global-batch-size=64"], UsageError, "by 3 devices: use 63 or 66"),
    (["--strategy=mwms", "--num-workers=3", "--global-batch-size=2"], UsageError, "by 3 devices: use 3"),
    (["--device=gpu"], EnvironmentFault, "--device gpu, but there is none for this process"),
    (["--gpu-memory-mib=100"], UsageError, "this run uses the CPU"),
    ([f"--cores-per-device={CORES + 1}"], UsageError, f"this job may use {CORES}"),
    (["--dataset=mnist", "--data-dir=/nowhere"], UsageError, "data file 'mnist.npz' not found"),
    (["--strategy=central", "--num-workers=2"], UsageError, "runs in one process"),
    (["--strategy=central", "--parameter-device=GPU:0"], UsageError, "GPU:0 is no device of this run: it has CPU:0"),
    (
        ["--strategy=mirrored", "--parameter-device=CPU:1"],
        UsageError,
        "--parameter-device has no effect under strategy",
    ),
    (["--strategy=ps", "--devices-per-worker=2"], UsageError, "has no effect: use --num-workers 2"),
    (["--strategy=ps", "--num-ps=0"], UsageError, "--num-ps is 0: give a whole number of at least 1"),
    (["--strategy=mwms", "--num-ps=2"], UsageError, "--num-ps has no effect under strategy 'mwms': leave it out"),
    (["--strategy=ps", "--cycle-time-ms=5"], UsageError, "--cycle-time-ms has no effect under strategy 'ps'"),
    (["--strategy=ps", "--xla"], UsageError, "--xla has no effect under strategy 'ps': the weights"),
    (["--strategy=central", "--xla"], UsageError, "--xla has no effect under strategy 'central': each device reads"),
    (["--strategy=ps", "--all-reduce=ring"], UsageError, "nothing for strategy 'ps': it has no all-reduce to choose"),
    (
        ["--strategy=mirrored", "--all-reduce=ring"],
        UsageError,
        "it has auto, nccl, hierarchical_copy, reduction",
    ),
    (["--strategy=mwms", "--all-reduce=nccl"], UsageError, "use auto or ring"),
    (["--strategy=mirrored", "--all-reduce=nccl"], UsageError, "use auto or hierarchical_copy or reduction_to_one"),
    (["--strategy=horovod", "--timeline=/gone/t"], UsageError, "--timeline '/gone/t': there is no folder '/gone'"),
    (["--strategy=horovod", "--devices-per-worker=2"], UsageError, "has no effect: use --num-workers 2"),
    (["--strategy=horovod", "--hierarchical-all-reduce"], UsageError, "is for GPUs with NCCL"),
    (["--strategy=horovod", "--num-workers=2", "--controller=mpi"], UsageError, "MPI started, not the local launcher"),
    (["--strategy=horovod", "--fusion-threshold-mib=-1"], UsageError, "--fusion-threshold-mib is -1: give 0 or more"),
    (["--strategy=horovod", "--cycle-time-ms=0"], UsageError, "--cycle-time-ms is 0: give a number above 0"),
    (["--precision=tf32"], UsageError, "--precision tf32 is NVIDIA GPUs' arithmetic"),
    (["--weights=none.weights.h5"], UsageError, "no such file on this host"),
    (["--freeze=head"], UsageError, "--freeze is 'head': give base"),
    (["--freeze=base", "--phase=forward"], UsageError, "--freeze has no effect with --phase forward, in which no"),
    (["--classes=0"], UsageError, "is a single class"),
    (["--num-train-samples=0"], UsageError, "--num-train-samples is 0"),
    (["--dataset=tfrecord", "--data-dir=/"], UsageError, "has no dataset.json"),
    (["--dataset=synthetic", "--cache=none"], UsageError, "has no effect on dataset 'synthetic'"),
]


@pytest.mark.parametrize(("flags", "kind", "message"), REFUSED)
def test_what_cannot_run_is_refused_before_anything_starts(
    flags: list[str], kind: type[BenchError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        planned(*flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size=6"], "has 5 images to train and a global batch is 6"),
        (["--batch-size=1", "--strategy=ps", "--cache=disk"], "--cache disk cannot work under strategy 'ps'"),
    ],
)
def test_what_records_cannot_do_is_refused(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned("--dataset=tfrecord", "--model=cifar_cnn", f"--data-dir={index_of(tmp_path)}", *flags)


def test_a_taken_port_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"port {port} is in use"):
            planned("--strategy=mwms", "--num-workers=2", f"--port-base={port}")


def test_the_whole_configuration_is_kept() -> None:
    decided = {
        "seed": 7,
        "batch_size": 64,
        "num_workers": 1,
        "num_ps": None,
        "device": "cpu",
        "devices_per_worker": 1,
        "intra_op_threads": CORES,
        "inter_op_threads": CORES,
        "lr": 0.01,
        "num_batches_per_iter": 10,
        "num_iters": 10,
        "cache": "memory",
        "image_size": 28,
        "num_classes": 10,
    }
    assert fields("--seed=7")["config"] == RunConfig().as_dict() | decided


def test_each_optimizer_has_a_learning_rate_of_its_own() -> None:
    rates = {name: fields(f"--optimizer={name}")["learning_rate"] for name in OPTIMIZERS}
    assert rates == dict.fromkeys(("sgd", "momentum", "nesterov"), 0.01) | dict.fromkeys(
        ("adam", "adamw", "rmsprop"), 0.001
    )
    row = fields("--optimizer=adam", "--lr=0.5")
    assert (row["phase"], row["optimizer"], row["learning_rate"], row["config"]["lr"]) == ("train", "adam", 0.5, 0.5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_forward_run_has_nothing_of_a_training(strategy: str) -> None:
    row = fields("--phase=forward", f"--strategy={strategy}")
    for name in ("synchronous", "requested_all_reduce", "optimizer", "learning_rate"):
        assert row[name] is None, name
    assert (row["phase"], row["num_batches_per_iter"], row["label"]) == (
        "forward",
        1,
        f"{strategy} mnist_cnn x1 forward",
    )
    assert (row["config"]["optimizer"], row["config"]["lr"], row["config"]["num_batches_per_iter"]) == (None, None, 1)
    assert fields("--phase=forward", "--num-batches-per-iter=7")["num_batches_per_iter"] == 7


def test_what_is_trained_must_be_the_same_on_every_rank() -> None:
    prints = {planned(*flags).plan.fingerprint() for flags in ([], ["--lr=0.5"], ["--phase=forward"])}
    assert len(prints) == 3


def test_a_parameter_server_job_has_roles_by_rank() -> None:
    job = planned("--strategy=ps", "--num-workers=2", "--num-ps=2", "--batch-size=4")
    assert [task.role for task in job.members[0].tasks] == ["chief", "worker", "worker", "ps", "ps"]
    row = job.plan.run_fields()
    assert (row["num_processes"], row["num_ps"], row["num_devices"], row["global_batch"]) == (5, 2, 2, 8)
    assert (row["synchronous"], row["requested_all_reduce"], row["exchange"]) == (False, None, {"num_ps": "2"})
    # Who trains has cores of its own; who coordinates or serves may use those, and no others.
    assert job.cores[0] == job.cores[3] == job.cores[4] == tuple(sorted({*job.cores[1], *job.cores[2]}))
    assert row["cores_per_device"] == len(job.cores[0]) / 2
    shards = [make_strategy(job.plan.config, member, job.plan.strategy.resources).shard() for member in job.members]
    assert [(shard.first, shard.count, shard.total) for shard in shards[1:3]] == [(0, 1, 2), (1, 1, 2)]


def test_servers_have_threads_enough_to_wait_for_each_other() -> None:
    ps = ["--strategy=ps", "--num-workers=2"]
    assert fields(*ps)["inter_op_threads"] == max(8, len(planned(*ps).cores[1]))
    assert fields(*ps, "--inter-op-threads=9")["inter_op_threads"] == 9
    with pytest.raises(UsageError, match=r"--inter-op-threads 7 is too few for strategy 'ps'.* give 8 or more"):
        fields(*ps, "--inter-op-threads=7")


def launched(size: int, *flags: str, rank: int = 0) -> LaunchPlan:
    """One of `size` processes that mpirun started on this host."""
    cluster = ClusterEnv("mpirun of MPI", rank, (Task("worker"),) * size, rank, size)
    return plan_launch(parse(flags), cluster, Gpus({}), {})


def test_a_job_of_mpirun_gets_its_roles_from_its_ranks() -> None:
    assert [task.role for task in launched(4, "--strategy=ps").members[0].tasks] == ["chief", "worker", "worker", "ps"]
    assert launched(3, "--strategy=horovod").plan.num_devices == 3
    assert launched(2, "--strategy=horovod").plan.strategy.exchange.controller == "auto"


def test_workers_that_mpirun_started_share_the_host_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FOUR_GPUS[:2])
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    chief, one, two, _server = jobs = [launched(4, "--strategy=ps", rank=rank) for rank in range(4)]
    assert (one.cores, two.cores) == (((0, 1, 2, 3),), ((4, 5, 6, 7),))
    assert (one.gpus, two.gpus) == ((("GPU-0",),), (("GPU-1",),))
    assert [job.sampled_gpus for job in jobs] == [((),), (("GPU-0", "GPU-1"),), ((),), ((),)]
    row = chief.plan.run_fields()
    assert (row["cores_per_device"], row["intra_op_threads"]) == (4.0, 4)


@pytest.mark.parametrize(
    ("size", "flags", "message"),
    [
        (2, ["--strategy=ps"], "needs 2 process(es) besides its workers (chief, ps), but mpirun of MPI has 2"),
        (4, ["--strategy=ps", "--num-ps=4"], "besides its workers (chief, ps, ps, ps, ps), but mpirun of MPI has 4"),
        (
            3,
            ["--strategy=mwms", "--num-workers=2"],
            "--num-workers 2, but mpirun of MPI has 3 tasks, 3 of them",
        ),
        (2, ["--strategy=horovod", "--all-reduce=ring"], "--all-reduce ring is Gloo's"),
        (2, ["--strategy=central"], "runs in one process but mpirun of MPI has 2"),
    ],
)
def test_a_job_that_does_not_fit_its_strategy_is_refused(size: int, flags: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        launched(size, *flags)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("roles", "flags", "message"),
    [
        (["chief", "worker"], [], "needs one chief (the coordinator), a worker and a ps; TF_CONFIG has 2 process(es)"),
        (["worker", "worker", "ps"], [], "0 chief, 2 worker, 1 ps"),
        (["chief", "worker", "ps"], ["--num-ps=2"], "--num-ps 2, but TF_CONFIG names 1: leave the flag out"),
    ],
)
def test_roles_that_tf_config_names_must_make_a_parameter_server_job(
    roles: list[str], flags: list[str], message: str
) -> None:
    tasks = tuple(Task(role, f"127.0.0.1:{1000 + index}") for index, role in enumerate(roles))
    with pytest.raises(UsageError) as caught:
        plan_launch(parse(["--strategy=ps", *flags]), ClusterEnv.of_tasks("TF_CONFIG", 0, tasks), Gpus({}), {})
    assert message in str(caught.value)


def test_a_missing_horovod_or_one_for_another_tensorflow_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr("strategies.horovod.version", lambda name: "2.99.0" if name == "tensorflow" else real(name))
    with pytest.raises(EnvironmentFault, match=r"built for TensorFlow 2\.\d+\.\d+, but 2\.99\.0 is installed: make"):
        planned("--strategy=horovod", "--num-workers=2")

    def missing(_name: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("strategies.horovod.distribution", missing)
    with pytest.raises(EnvironmentFault, match=r"Horovod is not installed: make setup builds it"):
        planned("--strategy=horovod")


def joined(index: int, hosts: list[str], *flags: str) -> LaunchPlan:
    tasks = tuple(Task("worker", f"{host}:1{i}") for i, host in enumerate(hosts))
    cluster = ClusterEnv.of_tasks("TF_CONFIG", index, tasks)
    return plan_launch(parse(["--strategy=mwms", *flags]), cluster, Gpus({}), {})


def test_a_task_of_a_cluster_starts_itself_alone_and_shares_its_host() -> None:
    first, second = joined(0, ["a", "a"]), joined(1, ["a", "a"])
    assert [member.rank for member in (*first.members, *second.members)] == [0, 1]
    assert first.answers_for_run
    assert not second.answers_for_run
    if CORES > 1:
        assert not set(first.cores[0]) & set(second.cores[0])
    assert first.plan.cores_per_device == second.plan.cores_per_device == CORES / 2
    assert joined(1, ["a", "b"]).plan.cores_per_device == CORES
    assert first.plan.fingerprint() == second.plan.fingerprint() != joined(0, ["a", "a"], "--seed=3").plan.fingerprint()


@pytest.mark.parametrize("flags", [[], ["--cores-per-device=1"]])
def test_what_a_scheduler_bound_is_not_shared_out_again(monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    """Two tasks of one host, each bound to a core of its own."""
    for index, core in ((0, 4), (1, 6)):
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, core=core: {core})
        task = joined(index, ["a", "a"], *flags)
        assert task.cores == ((core,),)
        assert task.plan.cores_per_device == 1.0


def test_workers_that_share_cores_say_so() -> None:
    row = fields("--strategy=mwms", f"--num-workers={2 * CORES}")
    assert row["cores_per_device"] == 0.5


def test_gpus_that_workers_cannot_share_evenly_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FOUR_GPUS[:3])
    for flags in (["--num-workers=2"], ["--num-workers=4"], ["--num-workers=2", "--devices-per-worker=2"]):
        with pytest.raises(UsageError, match=r"cannot share 3 GPU.*--device cpu"):
            planned("--strategy=mwms", *flags)
    assert planned("--strategy=mwms", "--num-workers=3").gpus == (("GPU-0",), ("GPU-1",), ("GPU-2",))
    assert planned("--strategy=mwms", "--num-workers=2", "--devices-per-worker=1").gpus == (("GPU-0",), ("GPU-1",))
