"""The checks of jobs/reframe under the real `reframe`, with bench.run on this machine and under a real Slurm, and
ReFrame's own patterns for Horovod's benchmark against what bench.run prints."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import reframe.utility.sanity as sn

from bench.output import print_header, print_iter, print_summary
from bench.summary import FIGURES
from strategies import STRATEGIES, load
from tests.benchmark import ROOT, SMALL, Benchmark
from tests.slurm.cluster import SlurmCluster
from tests.slurm.reframe_command import BOUND_S, ReFrame

pytestmark = pytest.mark.processes


@pytest.fixture
def reframe(tmp_path: Path, benchmark: Benchmark) -> ReFrame:
    return ReFrame(tmp_path, benchmark)


def small(*flags: str) -> str:
    return f"-Sflags={shlex.join([*SMALL, *flags])}"


def assert_reported_as_stored(reframe: ReFrame, case: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of `runs`."""
    assert case["result"] == "pass"
    run, expected = reframe.stored(case["run_id"])
    assert run["status"] == "ok"
    assert (run["strategy"], run["experiment"], run["batch_per_device"]) == (case["strategy"], "reframe", 8)
    reported = reframe.figures(case)
    assert (
        set(reported) == {name for name in FIGURES if expected[name] is not None} >= {"images_per_s", "peak_rss_bytes"}
    )
    assert reported == pytest.approx({name: expected[name] for name in reported}, rel=1e-9)
    return run


def test_on_one_machine_bench_run_starts_the_workers(reframe: ReFrame) -> None:
    chosen = ("-nTrainScaleOneTask%strategy=single", "-nTrainScaleTasks%strategy=mwms%num_nodes=1")
    done = reframe("local", "-r", *chosen, small(), "-STrainScaleTasks.tasks_per_node=2")
    assert done.returncode == 0, done.stdout
    cases = reframe.cases()
    assert set(cases) == {"single", "mwms"}
    assert {case["scheduler"] for case in cases.values()} == {"local"}
    for strategy, processes in (("single", 1), ("mwms", 2)):
        run = assert_reported_as_stored(reframe, cases[strategy])
        assert run["num_processes"] == processes
        assert f"P: images_per_s: {reframe.figures(cases[strategy])['images_per_s']} images/s" in done.stdout


def test_under_slurm_srun_starts_them(slurm: SlurmCluster, reframe: ReFrame) -> None:
    chosen = ("-nTrainScaleOneTask%strategy=single", "-nTrainScaleTasks%strategy=mwms%num_nodes=2")
    done = reframe("cluster:cpu", "-r", *chosen, small(), env=slurm.env)
    assert done.returncode == 0, done.stdout
    cases = reframe.cases()
    assert set(cases) == {"single", "mwms"}
    assert {case["scheduler"] for case in cases.values()} == {"squeue"}
    for strategy, nodes in (("single", 1), ("mwms", 2)):
        run = assert_reported_as_stored(reframe, cases[strategy])
        assert (run["num_processes"], run["num_nodes"]) == (nodes, nodes)
    hosts = {rank["hostname"] for rank in reframe.rows("ranks", cases["mwms"]["run_id"])}
    assert len(hosts) == 2
    assert all(host.startswith("node") for host in hosts)


@pytest.mark.parametrize(("system", "outcome"), [("local", "no result, exit code 2"), ("cluster:cpu", "no result")])
def test_what_bench_run_refuses_fails_with_its_line(
    request: pytest.FixtureRequest, reframe: ReFrame, system: str, outcome: str
) -> None:
    env = request.getfixturevalue("slurm").env if system != "local" else {}
    done = reframe(system, "-r", "-nTrainScaleOneTask%strategy=single", small(), "-Smodel=nonsense", env=env)
    assert done.returncode == 1
    case = reframe.cases()["single"]
    assert (case["result"], case["fail_phase"]) == ("fail", "sanity")
    ours = "bench.run: unknown model 'nonsense'. Valid: alexnet, cifar_cnn, digits_cnn"
    assert case["fail_reason"].startswith(f"sanity error: {outcome}: {ours}")
    assert f"Reason: sanity error: {outcome}: {ours}" in done.stdout
    assert not reframe.benchmark.results.exists()


def test_a_job_that_slurm_cancels_fails_though_squeue_calls_it_completed(
    slurm: SlurmCluster, reframe: ReFrame, tmp_path: Path
) -> None:
    (tmp_path / "cancel.sh").write_text("scancel $SLURM_JOB_ID; sleep 30")
    cancel = f"-Spython=sh {tmp_path / 'cancel.sh'}"
    done = reframe("cluster:cpu", "-r", "-nTrainScaleOneTask%strategy=single", cancel, env=slurm.env)
    assert done.returncode == 1
    case = reframe.cases()["single"]
    assert re.fullmatch(
        r"sanity error: no result: slurmstepd\S* error: \*\*\* (JOB|STEP) \S+ ON node\d+ CANCELLED AT .* \*\*\*",
        case["fail_reason"],
    )


def test_a_run_that_fails_fails_the_check_with_the_error_of_its_record(reframe: ReFrame) -> None:
    # The flags come last: this --timeout counts, not the one that the check makes of its time limit.
    done = reframe("local", "-r", "-nTrainScaleOneTask%strategy=single", small("--timeout=1"))
    assert done.returncode == 1
    case = reframe.cases()["single"]
    run, _ = reframe.stored(case["run_id"])
    assert run["status"] == "timeout"
    assert case["fail_reason"] == f"sanity error: timeout, exit code 124: {run['error']}"


FAST = {"status": "ok", "exit_code": 0, "run_id": "R", "images_per_s": 1000.0, "step_time_p50_s": 0.008}


def pretend(folder: Path, runs: dict[str, tuple[list[str], list[str], int]]) -> str:
    """A command in the place of Python. `runs`: strategy -> lines of standard output and error, and exit code."""
    cases = []
    for strategy, (stdout, stderr, code) in runs.items():
        said = [f"echo {shlex.quote(line)}" for line in stdout] + [f"echo {shlex.quote(line)} >&2" for line in stderr]
        cases.append(f"*--strategy={strategy}*) {'; '.join([*said, f'exit {code}'])};;")
    script = folder / "pretend.sh"
    script.write_text("\n".join(['case "$*" in', *cases, "esac"]))
    return f"-Spython=sh {script}"


def test_a_missed_reference_fails_the_performance_stage(reframe: ReFrame, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("""\
TrainScaleOneTask:
  $index: [$partition, strategy]
  'local:cpu':
    single:
      images_per_s: [1050, -0.1, null, images/s]
      step_time_p50_s: [0.008, null, 0.1, s]
    mirrored:
      images_per_s: [1200, -0.1, null, images/s]
      step_time_p50_s: [0.008, null, 0.1, s]
    central:
      image_per_s: [1000, -0.1, null, images/s]
TrainScaleTasks:
  $index: [$partition, strategy, num_nodes]
  'local:cpu':
    mwms:
      1:
        framework_peak_mem_bytes: [4000000, null, 0.1, bytes]
      2:
        images_per_s: [0.1, null, 0.1, images/s]
  'cluster:cpu':
    independent:
      1:
        images_per_s: [0.1, null, 0.1, images/s]
""")
    line = json.dumps(FAST)
    strategies = ("single", "mirrored", "central", "mwms", "independent")
    everything = pretend(tmp_path, {strategy: ([line], [], 0) for strategy in strategies})
    chosen = ["-nTrainScaleOneTask", *(f"-nTrainScaleTasks%strategy={name}%num_nodes=1" for name in strategies[3:])]
    done = reframe("local", "-r", *chosen, everything, "-Sreferences=site.yaml")
    assert done.returncode == 1
    cases = reframe.cases()
    verdicts = {name: (case["result"], case["fail_phase"]) for name, case in cases.items()}
    assert verdicts == {
        "single": ("pass", None),
        "mirrored": ("fail", "performance"),
        "central": ("fail", "run"),
        "mwms": ("fail", "performance"),
        "independent": ("pass", None),
    }
    missed = "images_per_s=1000.0 images/s, expected 1200 (l=1080.0, u=inf)"
    assert cases["mirrored"]["fail_reason"] == f"performance error: failed to meet reference(s): {missed}"
    assert cases["mirrored"]["perfvalues"] == {
        "local:cpu:images_per_s": [1000.0, 1200, -0.1, None, "images/s", "fail"],
        "local:cpu:step_time_p50_s": [0.008, 0.008, None, 0.1, "s", "pass"],
    }
    assert (
        "site.yaml expects image_per_s, which no run reports. Valid: images_per_s," in cases["central"]["fail_reason"]
    )
    unmeasured = (
        "site.yaml expects framework_peak_mem_bytes, which this run could not measure; runs.null_reasons of run R"
    )
    assert unmeasured in cases["mwms"]["fail_reason"]
    # No reference for it: reported, and judged by nothing.
    assert cases["independent"]["perfvalues"]["local:cpu:images_per_s"] == [1000.0, 0, None, None, "images/s", "pass"]


def test_the_examples_of_a_site_fit_each_other_and_a_dry_run_shows_it(reframe: ReFrame) -> None:
    done = reframe("cluster:gpu", "--mode=trainscale", "--dry-run", "-nTrainScaleTasks%strategy=mwms%num_nodes=2")
    assert done.returncode == 0, done.stdout
    figures = reframe.cases()["mwms"]["perfvalues"]
    judged = {key: values[1:5] for key, values in figures.items() if values[1:4] != [0, None, None]}
    assert judged == {
        "cluster:gpu:images_per_s": [170000, -0.1, None, "images/s"],
        "cluster:gpu:step_time_p99_s": [0.004, None, 0.5, "s"],
    }
    assert {key.rpartition(":")[2] for key in figures} == set(FIGURES)


def test_a_references_file_that_is_not_there_fails_every_check(reframe: ReFrame) -> None:
    done = reframe("local", "-r", "-nTrainScaleOneTask", "-Sreferences=/nowhere/site.yaml")
    assert done.returncode == 1
    reasons = {case["fail_reason"] for case in reframe.cases().values()}
    assert len(reasons) == 1
    assert "'/nowhere/site.yaml'" in reasons.pop()


def test_only_a_run_that_says_ok_and_exits_with_0_passes(reframe: ReFrame, tmp_path: Path) -> None:
    line = json.dumps(FAST)
    lost = json.dumps(FAST | {"status": "lost", "exit_code": 4, "error": "rank 1 was lost", "images_per_s": None})
    everything = pretend(
        tmp_path,
        {
            "single": (["Model: mnist_cnn", line, "goodbye from the site's epilogue"], ["a warning"], 0),
            "mirrored": ([line], ["[rank 0] x", "bench.run: rank 1 was killed by SIGKILL", "srun: error: node2"], 1),
            "central": ([line[:40]], [], 0),
            "independent": ([], ["1", "2", "3", "ModuleNotFoundError: No module named 'bench'"], 1),
            "mwms": ([line, lost], ["bench.run: rank 1 was lost", "srun: error: node2: task 1: Exited"], 4),
        },
    )
    tasks = [f"-nTrainScaleTasks%strategy={name}%num_nodes=1" for name in ("independent", "mwms")]
    done = reframe("local", "-r", "-nTrainScaleOneTask", *tasks, everything)
    assert done.returncode == 1
    assert {name: case["fail_reason"] for name, case in reframe.cases().items()} == {
        "single": None,
        "mirrored": "sanity error: ok, exit code 1: bench.run: rank 1 was killed by SIGKILL",
        "central": "sanity error: no result, exit code 0: nothing was printed",
        "independent": "sanity error: no result, exit code 1: 2 | 3 | ModuleNotFoundError: No module named 'bench'",
        "mwms": "sanity error: lost, exit code 4: rank 1 was lost",
    }


def test_every_strategy_is_a_check_and_every_number_of_nodes_too(reframe: ReFrame) -> None:
    # From the checkout's root: the folder jobs/reframe must not be taken for ReFrame.
    done = reframe("local", "-L", "-Pnum_nodes=1,4", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    listed = {line.partition(" /")[0] for line in done.stdout.splitlines() if line.startswith("- ")}
    assert listed == {
        f"- TrainScaleOneTask %strategy={name}"
        if load(name).one_process
        else f"- TrainScaleTasks %strategy={name} %num_nodes={nodes}"
        for name in STRATEGIES
        for nodes in (1, 4)
    }


def test_a_folder_named_reframe_hides_no_package() -> None:
    found = [sys.executable, "-c", "import reframe; print(reframe.__file__)"]
    for cwd in (ROOT, ROOT / "jobs"):
        done = subprocess.run(found, cwd=cwd, capture_output=True, text=True, timeout=BOUND_S, check=True)
        assert ROOT / "jobs" not in Path(done.stdout).parents


@pytest.mark.parametrize(
    ("system", "options", "expected"),
    [
        (
            "cluster:cpu",
            ["-STrainScaleTasks.tasks_per_node=2", "-Sbatch_size=16", "-Smodel=vgg16", "-Sdataset=digits"],
            [
                *("#SBATCH --ntasks=4", "#SBATCH --ntasks-per-node=2", "#SBATCH --exclusive", "#SBATCH --time=1:0:0"),
                "srun PYTHON -m bench.run --json --strategy=ps --model=vgg16 --batch-size=16 --dataset=digits "
                "--experiment=reframe --results-dir=RESULTS --timeout=3240",
            ],
        ),
        (
            "cluster:gpu",
            ["-Stime_limit=10m", "-Slauncher_options=--mpi=pmix,-K", "-Sflags=--xla", "-Snum_cpus_per_task=8"],
            [
                *("#SBATCH --ntasks=8", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4"),
                "srun --cpus-per-task=8 --mpi=pmix -K PYTHON -m bench.run --json --strategy=ps --experiment=reframe "
                "--results-dir=RESULTS --device=gpu --timeout=540 --xla",
            ],
        ),
    ],
)
def test_the_job_script_asks_for_what_the_check_says(
    reframe: ReFrame, system: str, options: list[str], expected: list[str]
) -> None:
    done = reframe(system, "--dry-run", "-nTrainScaleTasks%strategy=ps%num_nodes=2", *options)
    assert done.returncode == 0, done.stdout
    (script,) = reframe.folder.glob("stage/cluster/*/builtin/*/rfm_job.sh")
    text = script.read_text().replace(sys.executable, "PYTHON").replace(str(reframe.benchmark.results), "RESULTS")
    assert set(expected) <= {line.rstrip() for line in text.splitlines()}


@pytest.mark.parametrize(
    ("system", "name", "why"),
    [
        ("local", "mwms%num_nodes=2", "the launcher of this partition starts one process on one node"),
        ("cluster:cpu", "ps%num_nodes=2", "ps needs 2 tasks besides its workers and there are 2: raise tasks_per_node"),
    ],
)
def test_what_cannot_be_started_is_skipped_with_the_reason(reframe: ReFrame, system: str, name: str, why: str) -> None:
    done = reframe(system, "--dry-run", f"-nTrainScaleTasks%strategy={name}")
    assert done.returncode == 0, done.stdout
    assert "SKIP" in done.stdout
    assert f"[{why}" in done.stdout


def test_reframes_own_check_of_horovod_reads_what_a_gpu_run_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The patterns are those of hpctestlib/ml/tensorflow/horovod.py in the repository reframe-hpc/reframe."""
    strategy = SimpleNamespace(
        name="horovod",
        resources=SimpleNamespace(device_kind="gpu"),
        cluster=SimpleNamespace(size=8, source="a Slurm step"),
    )
    config = SimpleNamespace(workload=SimpleNamespace(model="vgg16"))
    plan: Any = SimpleNamespace(config=config, batch_per_device=32, num_devices=8, strategy=strategy, forward=False)
    print_header(plan)
    print_iter(plan, {"num_batches": 5, "duration_s": 0.5}, 0)
    figures = {"images_per_s": 2469.12, "images_per_s_spread": 24.6, "step_time_p50_s": 0.1}
    run = {"run_id": "R", "status": "ok", "device_kind": "gpu", "num_devices": 8, "target_accuracy": None}
    print_summary(dict.fromkeys(FIGURES) | figures | run, as_json=True)
    stdout = tmp_path / "rfm_job.out"
    stdout.write_text(capsys.readouterr().out)
    num_tasks = 8  # a task a GPU
    per_gpu = sn.avg(sn.extractall(r"Img/sec per GPU: (\S+) \S+", str(stdout), 1, float))
    total = sn.extractsingle(rf"Total img/sec on {num_tasks} GPU\(s\): (\S+) \S+", str(stdout), 1, float)
    assert (sn.evaluate(per_gpu), sn.evaluate(total)) == (308.6, 2469.1)
    assert sn.evaluate(sn.assert_found(r"Model: vgg16", str(stdout)))
    assert sn.evaluate(sn.assert_found(r"Batch size: 32", str(stdout)))
