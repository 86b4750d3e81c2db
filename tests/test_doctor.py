"""Every check is shown a machine on which it fails, and what reads the machine is shown fakes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import checks, doctor, probes
from bench.checks import Check, Verdict
from bench.doctor import CHECKS, Report, consult, differences, lines, together
from bench.probes import Answer
from jobs.cluster import ClusterEnv
from jobs.launch import free_ports
from jobs.rendezvous import Rendezvous
from strategies import horovod
from tests import emulated_nvml
from tests.benchmark import ROOT

GIB, MIB = 1 << 30, 1 << 20
MISSING = Answer(1, "", "I0000 chatter\nmpi4py cannot be loaded (No module named 'mpi4py'): pip install -e '.[mpi]'\n")
OPEN_MPI, MPICH = "mpirun (Open MPI) 4.1.8\n\nReport bugs to ...\n", "HYDRA build details:\n    Version: 4.2.1\n"
GLOO = Answer(0, 'chatter\n{"gloo": true, "mpi": false, "nccl": false}\n')
RUNS = Answer(
    0,
    json.dumps(
        {
            "mwms": {"flags": ["--strategy=mwms"], "devices": 2, "exit_code": 0, "error": "exit code 0"},
            "ps": {
                "flags": ["--strategy=ps", "--num-workers=2"],
                "devices": 2,
                "exit_code": 4,
                "error": "rank 0 in build: ValueError: x",
            },
            "horovod": {
                "flags": ["--strategy=horovod"],
                "devices": 2,
                "exit_code": 3,
                "error": "built for another TensorFlow: build it again",
            },
        }
    ),
)
UP, DOWN = Answer(0, "Slurmctld(primary) at a is UP\n"), Answer(0, "Slurmctld(primary) at a is DOWN\n")
SLURM = {"scontrol": "/usr/bin/scontrol", "srun": "/usr/bin/srun"}
H200 = ["NVIDIA H200", "NVIDIA H200"]
TF_GPUS = ["/physical_device:GPU:0", "/physical_device:GPU:1"]


def mpirun(
    version: str, library: str | None = "Open MPI v4.1.8", pair: Answer | None = None, *, path: str | None = "/x/mpirun"
) -> Verdict:
    return checks.mpirun(path, None, Answer(0, version), library, pair)


@pytest.mark.parametrize(
    ("uid", "env", "refused"),
    [
        (1000, {}, False),
        (0, {}, True),
        (0, {"OMPI_ALLOW_RUN_AS_ROOT": "1"}, True),
        (0, {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}, False),
    ],
)
def test_root_may_start_open_mpi_when_it_is_allowed_twice(uid: int, env: dict[str, str], refused: bool) -> None:
    """In a step of Slurm, too, where the doctor starts nothing by mpirun."""
    assert checks.refuses_root(uid, env) == refused
    version, library = Answer(0, OPEN_MPI), "Open MPI v4.1.8"
    status, _, remedy = checks.mpirun("/x/mpirun", None, version, library, None, no_root=refused)
    assert (status, "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" in remedy) == (("warn", True) if refused else ("ok", False))


def root_is_refused() -> Answer:
    return Answer(
        1, "", f"{'-' * 70}\nmpirun has detected an attempt to run as root.\n\nRunning as root is\n{'-' * 70}\n"
    )


CASES: list[tuple[str, Verdict, str, str]] = [
    ("Python", checks.python("3.11.7", ">=3.10,<3.14", "/py"), "ok", "3.11.7 (/py)"),
    ("Python", checks.python("3.9.2", ">=3.10,<3.14", "/py"), "fail", "3.9.2, but TrainScale needs"),
    ("packages", checks.packages(["a>=2", "b; python_version < '3'"], {"a": "2.1"}.get, Answer(0)), "ok", "all 1"),
    ("packages", checks.packages(["a"], {"a": "1"}.get, Answer(0, "a 1: cannot (x: y): z\n")), "fail", "a 1: cannot"),
    ("packages", checks.packages(["a"], {"a": "1"}.get, Answer(-11)), "fail", "cannot be imported: SIGSEGV ended it"),
    (
        "packages",
        checks.packages(["a>=2,<3", "b"], {"a": "3.0"}.get, Answer(0)),
        "fail",
        "b is missing; a 3.0 is not <3",
    ),
    ("TensorFlow", checks.tensorflow(Answer(0, '{"TensorFlow": "2.21.0", "Keras": "3.15"}')), "ok", "2.21.0, Ker"),
    ("TensorFlow", checks.tensorflow(Answer(-4)), "fail", "this CPU lacks instructions"),
    ("TensorFlow", checks.tensorflow(Answer(None)), "fail", "it did not end in time"),
    ("TensorFlow", checks.tensorflow(Answer(1, "", "Keras 3.4: upgrade")), "fail", "Keras 3.4"),
    ("CPU cores", checks.cores(4, None, 8), "ok", "4 of 8"),
    ("CPU cores", checks.cores(4, 4.0, 8), "ok", "4 of 8"),
    ("CPU cores", checks.cores(4, 2.5, 8), "warn", "grants the time of 2.5"),
    ("GPUs", checks.gpus([], "NVML: no GPU", []), "ok", "no GPU (NVML: no GPU)"),
    ("GPUs", checks.gpus(H200, None, TF_GPUS), "ok", "the driver shows 2 (NVIDIA H200), and TensorFlow sees"),
    ("GPUs", checks.gpus(H200, None, []), "fail", "TensorFlow sees none"),
    ("GPUs", checks.gpus(H200, None, TF_GPUS[:1]), "warn", "TensorFlow sees 1"),
    ("GPUs", checks.gpus(H200, None, None), "warn", "TensorFlow does not load"),
    ("GPUs", checks.gpus([], "NVML: not found", TF_GPUS), "warn", "TensorFlow sees 2, NVML none (NVML: not found)"),
    ("GPU memory growth", checks.memory_growth(TF_GPUS, None), "ok", "can be set"),
    ("GPU memory growth", checks.memory_growth(None, None), "ok", "no GPU"),
    ("GPU memory growth", checks.memory_growth(TF_GPUS, "device is busy"), "fail", "device is busy"),
    ("NCCL", checks.nccl(0, None), "ok", "no GPU, not needed"),
    ("NCCL", checks.nccl(2, "2.21.5"), "ok", "2.21.5"),
    ("NCCL", checks.nccl(2, None), "warn", "not found"),
    ("MPI", checks.mpi(Answer(0, "Open MPI v4.1.8\n"), "4.1.2"), "ok", "Open MPI v4.1.8, mpi4py 4.1.2"),
    ("MPI", checks.mpi(MISSING, None), "warn", "mpi4py cannot be loaded (No module named 'mpi4py')"),
    ("MPI", checks.mpi(Answer(-6), "4.1.2"), "fail", "mpi4py 4.1.2 cannot be loaded: SIGABRT ended it"),
    ("MPI", checks.mpi(Answer(None), "4.1.2"), "fail", "did not end in time"),
    ("mpirun", mpirun(OPEN_MPI), "ok", "mpirun (Open MPI) 4.1.8, fits Open MPI v4.1.8"),
    ("mpirun", mpirun(OPEN_MPI, pair=Answer(0, "2\n2\n")), "ok", "two processes met"),
    ("mpirun", mpirun(MPICH, "MPICH 4.2.1"), "ok", "HYDRA build details: Version: 4.2.1, fits MPICH 4.2.1"),
    ("mpirun", mpirun(MPICH, "Intel(R) MPI Library 2021.13"), "ok", "fits Intel(R) MPI"),
    ("mpirun", mpirun("", path=None), "warn", "not on PATH"),
    ("mpirun", checks.mpirun(None, "/venv/bin/mpirun", Answer(None), None, None), "warn", "not on PATH"),
    ("mpirun", checks.mpirun("/x/mpirun", None, Answer(127, "", "no orted"), None, None), "fail", "no orted"),
    ("mpirun", mpirun(OPEN_MPI, None), "warn", "mpi4py loads no MPI library"),
    ("mpirun", mpirun(OPEN_MPI, "MPICH 4.2.1"), "fail", "starts no processes of MPICH 4.2.1"),
    ("mpirun", mpirun(MPICH), "fail", "starts no processes of Open MPI v4.1.8"),
    ("mpirun", mpirun("something else 1.0"), "fail", "something else 1.0"),
    ("mpirun", mpirun(OPEN_MPI, pair=Answer(0, "1\n1\n")), "fail", "saw 1 and 1 of them"),
    ("mpirun", mpirun(OPEN_MPI, pair=root_is_refused()), "warn", "attempt to run as root"),
    ("mpirun", mpirun(OPEN_MPI, pair=Answer(None)), "warn", "starts nothing: it did not end in time"),
    ("Horovod", checks.horovod("0.28.1", None, GLOO, 0), "ok", "0.28.1 with gloo"),
    ("Horovod", checks.horovod(None, "Horovod is not installed: build it", Answer(None), 0), "warn", "not installed"),
    ("Horovod", checks.horovod("0.28.1", "built for TensorFlow 2.20: build", Answer(None), 0), "fail", "2.20"),
    ("Horovod", checks.horovod("0.28.1", None, Answer(1, "", "undefined symbol"), 0), "fail", "undefined symbol"),
    ("Horovod", checks.horovod("0.28.1", None, Answer(0, '{"gloo": false}'), 0), "fail", "no way to exchange"),
    ("Horovod", checks.horovod("0.28.1", None, GLOO, 2), "warn", "0.28.1 with gloo but not nccl"),
    ("strategy", checks.training(RUNS, "mwms"), "ok", "2 steps on 2 devices"),
    ("strategy", checks.training(RUNS, "ps"), "fail", "rank 0 in build: ValueError: x"),
    ("strategy", checks.training(RUNS, "horovod"), "fail", "built for another TensorFlow"),
    ("strategy", checks.training(Answer(-4), "mwms"), "fail", "SIGILL ended it"),
    ("Slurm", checks.slurm({"scontrol": None, "srun": None}, Answer(None)), "ok", "not here"),
    ("Slurm", checks.slurm(SLURM, UP), "ok", "Slurmctld(primary) at a is UP"),
    ("Slurm", checks.slurm(SLURM, DOWN), "warn", "at a is DOWN"),
    ("Slurm", checks.slurm(SLURM, Answer(1, "", "scontrol: fatal: no configuration")), "warn", "no configuration"),
    ("Slurm", checks.slurm({**SLURM, "srun": None}, UP), "warn", "srun not on PATH"),
    ("loopback", checks.loopback(None), "ok", "127.0.0.1"),
    ("loopback", checks.loopback("Connection refused"), "fail", "127.0.0.1: Connection refused"),
    ("host name", checks.host_name("a", "10.0.0.1", None, alone=False), "ok", "a is 10.0.0.1"),
    ("host name", checks.host_name("a", "127.0.1.1", None, alone=True), "ok", "a is 127.0.1.1"),
    ("host name", checks.host_name("a", "127.0.1.1", None, alone=False), "warn", "could not reach this one"),
    ("host name", checks.host_name("a", None, None, alone=True), "warn", "a has no address"),
    ("host name", checks.host_name("a", "10.0.0.9", "Cannot assign", alone=True), "warn", "not this host (Cannot"),
    ("results directory", checks.results("/r", None, [1, 1], 4, 4), "ok", "/r: writes, renames"),
    ("results directory", checks.results("/r", "cannot be written (No)", [], 0, 4), "fail", "/r cannot be written"),
    ("results directory", checks.results("/r", None, [1, 2], 4, 4), "fail", "1 of 2 files had not 1 creator"),
    ("results directory", checks.results("/r", None, [1, 1], 3, 4), "fail", "3 of 4 lines"),
    ("shared memory", checks.shared_memory(64 * MIB), "ok", "64 MiB of /dev/shm free"),
    ("shared memory", checks.shared_memory(63 * MIB), "warn", "63 MiB of /dev/shm free"),
    ("shared memory", checks.shared_memory(None), "warn", "there is no /dev/shm"),
    ("memory", checks.memory(8 * GIB, 4 * GIB, None, 4), "ok", "4.0 of 8.0 GiB available"),
    ("memory", checks.memory(8 * GIB, 4 * GIB, None, 5), "warn", "4.0 of 8.0 GiB available"),
    ("memory", checks.memory(8 * GIB, 4 * GIB, GIB // 2, 1), "warn", "0.5 of 8.0 GiB available"),
    ("threads", checks.threads({}, 2, 1), "ok", "no limit"),
    ("threads", checks.threads({"ulimit -u": (172, 100)}, 2, 1), "ok", "ulimit -u leaves 72 of 172"),
    ("threads", checks.threads({"a": (9999, 1), "b": (171, 100)}, 2, 1), "warn", "b leaves 71 of 171"),
    ("threads", checks.threads({"a": (172, 100)}, 2, 2), "warn", "a run takes about 144 here"),
    ("open files", checks.open_files(1024), "ok", "1024"),
    ("open files", checks.open_files(256), "warn", "256"),
    ("thread settings", checks.thread_settings({"OMP_STACKSIZE": "1", "TF_CONFIG": "{}"}), "ok", "none set"),
    ("thread settings", checks.thread_settings({"OMP_NUM_THREADS": "1"}), "warn", "OMP_NUM_THREADS=1"),
    ("thread settings", checks.thread_settings({"TF_NUM_INTEROP_THREADS": "3"}), "warn", "INTEROP_THREADS=3"),
    ("one results directory", checks.one_store(2, ""), "ok", "see each other's files"),
    ("one results directory", checks.one_store(2, "rank 1 (b)"), "fail", "not the same on rank 1 (b)"),
    ("nodes alike", checks.alike(2, [], []), "ok", "differ in nothing"),
    ("nodes alike", checks.alike(2, ["Keras"], ["cores"]), "fail", "processes differ in Keras"),
    ("nodes alike", checks.alike(2, [], ["cores"]), "warn", "processes differ in cores"),
    ("clocks", checks.clocks({}), "ok", "one host"),
    ("clocks", checks.clocks({"b": 10_000_000}), "ok", "b is 10.0 ms ahead of the first host"),
    ("clocks", checks.clocks({"b": 2, "c": -11_000_000}), "warn", "c is 11.0 ms behind the first host"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "verdict", "status", "found"), CASES, ids=[f"{c[0]}: {c[3]}" for c in CASES])
def test_verdicts(name: str, verdict: Verdict, status: str, found: str) -> None:
    assert verdict[0] == status
    assert found in verdict[1]
    assert bool(verdict[2]) == (status != "ok"), "who is told of a problem is told what to do, and nobody else"
    assert "\n" not in "".join(verdict)


def test_there_is_no_check_that_cannot_fail() -> None:
    joint = {check.name for check in together([report()], [[0]], [[0]])}
    shown = {name for name, _, status, _ in CASES if status != "ok"}
    assert shown | {"processes meet"} == {*CHECKS, "strategy"} | joint


@pytest.mark.parametrize(
    ("verdict", "remedy"),
    [
        (checks.gpus(H200, None, []), "pip install -e '.[cuda]'"),
        (checks.mpi(MISSING, None), "pip install -e '.[mpi]'"),
        (mpirun("", path=None), "pip install -e '.[mpi]'"),
        (checks.mpirun(None, "/v/mpirun", Answer(None), None, None), "activate the environment, it is /v/mpirun"),
        (mpirun(OPEN_MPI, "MPICH 4.2.1"), "put MPICH 4.2.1's mpirun first on PATH"),
        (mpirun(OPEN_MPI, pair=root_is_refused()), "OMPI_ALLOW_RUN_AS_ROOT=1"),
        (checks.tensorflow(Answer(1, "", "Keras 3.4: pip install 'keras>=3.8'")), "pip install 'keras>=3.8'"),
        (checks.thread_settings({"OMP_NUM_THREADS": "1"}), "unset OMP_NUM_THREADS"),
        (checks.training(RUNS, "horovod"), "build it again"),
        (checks.training(RUNS, "ps"), "see python -m bench.run --strategy=ps --num-workers=2 --debug"),
        (checks.training(Answer(-4), "mwms"), "see python -m bench.run --strategy=mwms --debug"),
    ],
)  # fmt: skip
def test_remedies(verdict: Verdict, remedy: str) -> None:
    assert remedy in verdict[2]


def report(hostname: str = "a", marker: str = "m", status: str = "ok", **facts: str) -> Report:
    check = Check("open files", "ok", "1024", "") if status == "ok" else Check("open files", "warn", "99", "raise it")
    return Report(hostname, {"Keras": "3.15", "cores": "4", **facts}, [check], marker)


def joint(
    *reports: Report, clocks: list[list[int]] | None = None, seen: list[list[int]] | None = None
) -> dict[str, Check]:
    everyone = list(range(len(reports)))
    found = together(reports, clocks or [[0] * len(reports)], seen or [everyone] * len(reports))
    return {check.name: check for check in found}


def test_one_process_has_nobody_to_differ_from() -> None:
    found = joint(report())
    assert [check.status for check in found.values()] == ["ok"] * 4
    assert found["processes meet"].found == "one process"
    assert found["clocks"].found == "one host"


def test_a_clock_that_is_off_is_found_though_one_message_was_late() -> None:
    late, usual = [0, 90_000_000, 25_000_000], [0, 200_000, 25_000_000]
    found = joint(report("a"), report("b"), report("c"), clocks=[usual, late, usual])["clocks"]
    assert (found.status, found.found) == ("warn", "c is 25.0 ms ahead of the first host")
    assert joint(report("a"), report("b"), clocks=[[5, 90_000_005], [5, 6], [5, 6]])["clocks"].status == "ok"


def test_processes_of_one_host_have_one_clock() -> None:
    assert joint(report("a"), report("a"), clocks=[[0, 90_000_000]])["clocks"].found == "one host"


def test_versions_that_differ_fail_and_other_facts_only_warn() -> None:
    assert joint(report(), report(Keras="3.8"))["nodes alike"].status == "fail"
    alike = joint(report(), report(cores="2"))["nodes alike"]
    assert (alike.status, alike.found) == ("warn", "processes differ in cores")
    assert joint(report(), report())["nodes alike"].status == "ok"


@pytest.mark.parametrize(
    ("seen", "apart"),
    [
        ([[0, 1, 2], [0, 1, 2], [0, 1, 2]], ""),
        ([[0, 1], [0, 1], [2]], "not the same on rank 2 (c)"),
        ([[0], [1], [2]], "not the same on rank 1 (b), rank 2 (c)"),
        ([[], [1, 2], [1, 2]], ""),  # rank 0 cannot write there, which is another check's to tell
        ([[], [1], [2]], "not the same on rank 2 (c)"),
    ],
)
def test_one_results_directory_is_one_that_all_see(seen: list[list[int]], apart: str) -> None:
    found = joint(report("a"), report("b"), report("c"), seen=seen)["one results directory"]
    assert found.status == ("fail" if apart else "ok")
    assert apart in found.found


def test_only_what_differs_is_listed_with_who_has_it() -> None:
    reports = [report(), report(OMP_NUM_THREADS="1"), report(status="warn")]
    assert differences(reports) == {
        "OMP_NUM_THREADS": {"none": [0, 2], "1": [1]},
        "check of open files": {"ok": [0, 1], "warn": [2]},
    }
    assert differences([report(), report()]) == {}


def test_a_check_that_a_process_does_not_make_is_no_difference() -> None:
    trains = report()
    trains.checks.append(Check("strategy mwms", "fail", "x", "y"))
    assert differences([trains, report()]) == {}


def test_a_line_for_what_is_fine_everywhere_and_for_each_thing_that_is_not() -> None:
    clocks = Check("clocks", "ok", "one host", "")
    fine = [line.split() for line in lines([report(), report("b")], [clocks])]
    assert fine == [["ok", "open", "files", "1024"], ["ok", "clocks", "one", "host"]]
    text = list(lines([report(), report("b", status="warn")], []))
    assert text[0].split("  ", 1) == ["warn", f"{'open files':24}  rank 1 (b): 99: raise it"]
    assert [line.split() for line in text[2:]] == [
        ["check", "of", "open", "files", "ok:", "rank", "0", "(a)"],
        ["check", "of", "open", "files", "warn:", "rank", "1", "(b)"],
    ]
    everywhere = list(lines([report(status="warn"), report("b", status="warn")], []))
    assert [line.split("  ")[-1] for line in everywhere] == ["99: raise it"]
    (many, *_) = lines([report(str(host), status="warn" if host else "ok") for host in range(7)], [])
    assert "rank 4 (4) and 2 more: 99" in many


def test_every_process_comes_to_the_same_end(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "a", tmp_path / "b"]
    for rank, folder in enumerate(folders):
        (folder / f"m{rank}").mkdir(parents=True)
    ports = free_ports(3)

    def take_part(rank: int) -> tuple[list[Report], list[Check]]:
        meeting = Rendezvous(ClusterEnv.local(rank, ports, ["worker"] * 3), timeout_s=60)
        try:
            return consult(meeting, report(f"host{rank}", f"m{rank}", cores=str(rank)), folders[rank])
        finally:
            meeting.close()

    with ThreadPoolExecutor(3) as pool:
        ends = [future.result(30) for future in [pool.submit(take_part, rank) for rank in range(3)]]
    assert ends[0] == ends[1] == ends[2]
    reports, found = ends[0]
    assert [each.hostname for each in reports] == ["host0", "host1", "host2"]
    by_name = {check.name: check for check in found}
    assert by_name["processes meet"].found == "3 on 3 host(s)"
    assert by_name["one results directory"].found == "not the same on rank 2 (host2)"
    assert by_name["nodes alike"].found == "processes differ in cores"


def looked_at(monkeypatch: pytest.MonkeyPatch, own: Path, env: dict[str, str], **answers: Answer) -> Report:
    """The report of a node with two GPUs whose probes answer as told."""
    emulated_nvml.install(monkeypatch, [emulated_nvml.H200, emulated_nvml.H200])
    monkeypatch.setattr(probes, "ask", lambda *_: answers)
    monkeypatch.setattr(horovod, "require_build_for_tensorflow", lambda: None)
    return doctor.Node(env, ClusterEnv.alone(), own, train=False).report()


@pytest.mark.commands
def test_gpus_that_tensorflow_does_not_see_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blind = Answer(0, '{"TensorFlow": "2.21.0", "Keras": "3.15.1", "gpus": [], "growth_problem": null}')
    env = {"OMP_NUM_THREADS": "3", "TF_CONFIG": "{}", "SLURM_PROCID": "1", "NCCL_DEBUG": "INFO", "TF_API_TOKEN": "x"}
    report = looked_at(monkeypatch, tmp_path, env, tensorflow=blind, mpi=Answer(0, "Open MPI v4.1.8\n"), horovod=GLOO)
    by_name = {check.name: check for check in report.checks}
    assert list(by_name) == list(CHECKS)
    assert (by_name["GPUs"].status, by_name["GPUs"].remedy) == ("fail", "pip install -e '.[cuda]'")
    assert by_name["Horovod"].status == "warn"  # without NCCL
    assert {
        "GPUs": "NVIDIA H200, NVIDIA H200",
        "OMP_NUM_THREADS": "3",
        "NCCL_DEBUG": "INFO",
    }.items() <= report.facts.items()
    assert {"MPI library": "Open MPI v4.1.8", "TensorFlow": "2.21.0"}.items() <= report.facts.items()
    assert not {"TF_CONFIG", "SLURM_PROCID", "TF_API_TOKEN"} & set(report.facts)


@pytest.mark.commands
def test_without_tensorflow_nobody_is_told_to_build_horovod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = looked_at(monkeypatch, tmp_path, {}, tensorflow=Answer(-4))
    by_name = {check.name: check for check in report.checks}
    assert by_name["TensorFlow"].status == "fail"
    assert (by_name["Horovod"].found, by_name["Horovod"].remedy) == (
        "TensorFlow does not load",
        "mend TensorFlow first",
    )
    assert by_name["GPUs"].found.endswith("but TensorFlow does not load")


def test_a_check_that_cannot_be_made_fails_and_the_others_go_on() -> None:
    def look(_node: doctor.Node) -> Verdict:
        raise ModuleNotFoundError("No module named 'packaging'")

    node = doctor.Node.__new__(doctor.Node)
    assert doctor._judge("packages", look, node) == Check(
        "packages", "fail", "cannot be looked at (No module named 'packaging')", "pip install -e ."
    )


def test_a_malformed_cluster_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TF_CONFIG", "{")
    assert doctor.main([f"--results-dir={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("bench.doctor: TF_CONFIG is not JSON")


def test_an_unknown_flag_is_exit_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--no-such-flag"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench.doctor: ")
    assert "--no-such-flag" in line


@pytest.mark.parametrize("code", ["import bench.doctor", "from bench.doctor import main; main(['--help'])"])
@pytest.mark.commands
def test_no_framework_is_loaded_by_the_command_itself(code: str) -> None:
    heavy = "{'tensorflow', 'keras', 'horovod', 'mpi4py', 'pandas', 'pyarrow'}"
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
