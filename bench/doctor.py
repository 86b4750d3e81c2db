"""What works on this node and why not: `python -m bench.doctor`; for every node of a job `srun python -m bench.doctor`.

`CHECKS` is the list of what is looked at, `bench.checks` judges it. Whatever can crash or hang a process (TensorFlow,
MPI, Horovod) is loaded in a process of its own, within a bound. Then one process per node trains two steps with every
strategy (`bench.short_runs`), so that what the doctor calls fine is what `bench.run` can do.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import tyro

from bench import __version__, checks, probes, provenance
from bench.checks import Check, Verdict
from bench.clock import Clock
from bench.config import OutputConfig
from bench.errors import EnvironmentFault
from bench.probes import Answer
from bench.telemetry import Gpus
from jobs import launchers, mpi
from jobs.cluster import ClusterEnv, ClusterError
from jobs.rendezvous import Rendezvous
from results.command_line import Refused, complain, outliving_readers, parse
from results.exit_codes import ExitCode
from strategies import STRATEGIES, horovod

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MEETING_S = 300.0
"""Bound on the other processes, which may be at their probes yet [s]; what they train comes on top."""
_CLOCK_ROUNDS, _NAMED, _NAME_WIDTH = 9, 4, 24
_REFUSED = ("TrainScale", "TensorFlow", "Keras", "Python", "NumPy", "Horovod")
"""Runs refuse ranks that differ in these."""
_MEMBERSHIP, _CGROUPS, _SHM = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"), Path("/dev/shm")  # noqa: S108


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tell what works on this node and why not; of all nodes of a job under srun, mpirun or TF_CONFIG."""

    results_dir: Path = OutputConfig().results_dir
    """Where runs would keep their tables [path]; nothing is left there."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Do not train: leave out the two steps of every strategy, which take most of the time."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one machine-readable line last."""


@dataclass(frozen=True)
class Report:
    """What one process found. `facts` are to be the same everywhere, `marker` is its folder among the results."""

    hostname: str
    facts: dict[str, str]
    checks: list[Check]
    marker: str


class Node:
    """This node as one process of `cluster` sees it. `own` is the process's folder below the results directory. With
    `train`, the first process on the node tries the strategies."""

    def __init__(self, env: Mapping[str, str], cluster: ClusterEnv, own: Path, *, train: bool) -> None:
        self.env, self.cluster, self.own, self.gpus = env, cluster, own, Gpus(env)
        self.host, self.alone = socket.gethostname(), cluster.local_size == cluster.size
        self.gpu_names = [str(gpu["name"]) for gpu in self.gpus.descriptions]
        self.slurm = {name: shutil.which(name, path=env.get("PATH")) for name in ("scontrol", "srun")}
        beside = shutil.which("mpirun", path=str(Path(sys.executable).parent))
        self.launchers = shutil.which("mpirun", path=env.get("PATH")), beside
        memory, (self.quota, limit) = psutil.virtual_memory(), provenance.cgroup_limits(_MEMBERSHIP, _CGROUPS)
        self.cores, self.memory = len(os.sched_getaffinity(0)), (memory.total, memory.available, limit)
        package = probes.installed("nvidia-nccl-cu12") or probes.installed("nvidia-nccl-cu13")
        self.nccl = package or ctypes.util.find_library("nccl")
        self.misfit: str | None = None
        try:
            horovod.require_build_for_tensorflow()
        except (EnvironmentFault, ImportError, OSError) as error:
            self.misfit = str(error)
        self.answers = defaultdict(lambda: Answer(None), probes.ask(self._probes(), env, probes.PROBE_S))
        loaded, library = self.answers["tensorflow"], self.answers["mpi"]
        self.framework: dict[str, Any] = loaded.said if loaded.returncode == 0 else {}
        self.misfit = self.misfit or (None if self.framework else "TensorFlow does not load: mend TensorFlow first")
        self.mpi_library = library.stdout.strip() if library.returncode == 0 else None
        self.strategies = _strategies() if train and cluster.local_rank == 0 else []
        if self.strategies:
            if cluster.rank == 0 and sys.stderr.isatty():
                print("Training two steps with each strategy; --quick leaves this out ...", file=sys.stderr)
            self.answers["training"] = probes.ask_to_train(self.strategies, env)

    def _probes(self) -> dict[str, list[str]]:
        place = f"{self.cluster.local_rank}, {self.cluster.local_size}"
        asked = {"tensorflow": probes.python(f"from bench.probes import tell_tensorflow; tell_tensorflow({place})")}
        asked["packages"] = probes.python("from bench.probes import tell_packages; tell_packages()")
        asked["mpi"] = probes.python("from bench.probes import tell_mpi; tell_mpi()")
        if self.misfit is None:
            asked["horovod"] = probes.python(probes.ASK_FEATURES)
        mpirun, scontrol = self.launchers[0], self.slurm["scontrol"]
        if mpirun:
            asked["mpirun"] = [mpirun, "--version"]
        if mpirun and probes.installed("mpi4py") and self.cluster.size == 1:
            asked["pair"] = [mpirun, "-n", "2", *probes.python(probes.ASK_SIZE)]
        if scontrol:
            asked["ping"] = [scontrol, "ping"]
        return asked

    def report(self) -> Report:
        """All checks, and what should be the same on every node; what is not known is left out."""
        facts: dict[str, Any] = {
            **{name: self.framework.get(name) or probes.installed(name) for name in _REFUSED},
            "TrainScale": __version__,
            "Python": platform.python_version(),
            "MPI library": self.mpi_library,
            "mpirun": " ".join(self.answers["mpirun"].stdout.splitlines()[:2]).strip(),
            "NCCL": self.nccl,
            "driver": self.gpus.driver_version,
            "GPUs": ", ".join(self.gpu_names),
            "CPU": provenance.cpu_model(Path("/proc/cpuinfo")),
            "cores": self.cores,
            "memory": f"{self.memory[0] / (1 << 30):.0f} GiB",
            "results directory": str(self.own.parent),
        }
        settings = {k: v for k, v in provenance.allowed_environment(self.env).items() if re.match("(OMP|TF|NCCL)_", k)}
        known = {name: str(value) for name, value in (facts | settings).items() if value and name != "TF_CONFIG"}
        done = [_judge(name, look, self) for name, look in CHECKS.items()]
        trained = self.answers["training"]
        done += [Check(f"strategy {name}", *checks.training(trained, name)) for name in self.strategies]
        return Report(self.host, known, done, self.own.name)


CHECKS: dict[str, Callable[[Node], Verdict]] = {
    "Python": lambda n: checks.python(platform.python_version(), _project()["requires-python"], sys.executable),
    "packages": lambda n: checks.packages(_project()["dependencies"], probes.installed, n.answers["packages"]),
    "TensorFlow": lambda n: checks.tensorflow(n.answers["tensorflow"]),
    "CPU cores": lambda n: checks.cores(n.cores, n.quota, os.cpu_count() or n.cores),
    "GPUs": lambda n: checks.gpus(n.gpu_names, n.gpus.unavailable, n.framework.get("gpus")),
    "GPU memory growth": lambda n: checks.memory_growth(n.framework.get("gpus"), n.framework.get("growth_problem")),
    "NCCL": lambda n: checks.nccl(len(n.gpu_names), n.nccl),
    "MPI": lambda n: checks.mpi(n.answers["mpi"], probes.installed("mpi4py")),
    "mpirun": lambda n: checks.mpirun(*n.launchers, n.answers["mpirun"], n.mpi_library, n.answers.get("pair")),
    "Horovod": lambda n: checks.horovod(probes.installed("horovod"), n.misfit, n.answers["horovod"], len(n.gpu_names)),
    "Slurm": lambda n: checks.slurm(n.slurm, n.answers["ping"]),
    "loopback": lambda n: checks.loopback(probes.listening_problem("127.0.0.1")),
    "host name": lambda n: checks.host_name(*probes.named_address(n.host), alone=n.alone),
    "results directory": lambda n: checks.results(str(n.own.parent), *probes.try_folder(n.own), probes.ALL_LINES),
    "shared memory": lambda n: checks.shared_memory(shutil.disk_usage(_SHM).free if _SHM.is_dir() else None),
    "memory": lambda n: checks.memory(*n.memory, n.cluster.local_size),
    "threads": lambda n: checks.threads(probes.thread_bounds(_MEMBERSHIP, _CGROUPS), n.cores, n.cluster.local_size),
    "open files": lambda n: checks.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    "thread settings": lambda n: checks.thread_settings(n.env),
}
"""Name -> look at the node, and judge what is seen."""


def _strategies() -> list[str]:
    """The strategies to try: all whose framework is installed."""
    without = () if probes.installed("horovod") else (horovod.Horovod.name,)
    return [name for name in STRATEGIES if name not in without]


def _judge(name: str, look: Callable[[Node], Verdict], node: Node) -> Check:
    try:
        return Check(name, *look(node))
    except (ImportError, OSError, psutil.Error) as error:
        return Check(name, "fail", f"cannot be looked at ({error})", "pip install -e .")


def _project() -> dict[str, Any]:
    """requires-python and dependencies, of the checkout that runs or of the installed package."""
    file = Path(__file__).parents[1] / "pyproject.toml"
    if file.is_file():
        return dict(tomllib.loads(file.read_text())["project"])
    found = metadata.distribution("trainscale")
    return {"requires-python": found.metadata["Requires-Python"], "dependencies": found.requires}


def differences(reports: Sequence[Report]) -> dict[str, dict[str, list[int]]]:
    """What is not the same everywhere: name -> value -> ranks that have it. A check counts where it was made."""
    found: dict[str, dict[str, list[int]]] = {name: {} for report in reports for name in report.facts}
    for name, ranks in found.items():
        for rank, report in enumerate(reports):
            ranks.setdefault(report.facts.get(name, "none"), []).append(rank)
    for rank, report in enumerate(reports):
        for check in report.checks:
            found.setdefault(f"check of {check.name}", {}).setdefault(check.status, []).append(rank)
    return {name: ranks for name, ranks in found.items() if len(ranks) > 1}


def together(reports: Sequence[Report], clocks_ns: Sequence[list[int]], seen: Sequence[list[int]]) -> list[Check]:
    """What only all processes can tell. `clocks_ns`: what the ranks' clocks showed at each of some moments, `seen`: the
    ranks whose folders each rank sees."""
    hosts = [report.hostname for report in reports]
    firsts = {host: hosts.index(host) for host in hosts if host != hosts[0]}
    offsets = {host: int(statistics.median(t[rank] - t[0] for t in clocks_ns)) for host, rank in firsts.items()}
    writers = [rank for rank, others in enumerate(seen) if rank in others]
    apart = [rank for rank in writers if rank not in seen[writers[0]] or writers[0] not in seen[rank]]
    names = {name for report in reports for name in report.facts} - {"results directory"}  # has a check of its own
    unlike = [name for name in differences(reports) if name in names]
    refused = [name for name in unlike if name in _REFUSED]
    number = f"{len(hosts)} on {len(set(hosts))} host(s)" if len(hosts) > 1 else "one process"
    return [
        Check("processes meet", "ok", number, ""),
        Check("one results directory", *checks.one_store(len(hosts), _where(apart, hosts))),
        Check("nodes alike", *checks.alike(len(hosts), refused, [name for name in unlike if name not in refused])),
        Check("clocks", *checks.clocks(offsets)),
    ]


def _where(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    named = [f"rank {rank} ({hosts[rank]})" for rank in ranks[:_NAMED]]
    return ", ".join(named) + (f" and {len(ranks) - _NAMED} more" if ranks[_NAMED:] else "")


def lines(reports: Sequence[Report], joint: Sequence[Check]) -> Iterator[str]:
    """The report for people: a check that is fine everywhere is one line, any other a line for each thing found."""
    hosts = [report.hostname for report in reports]
    found: dict[str, dict[Check, list[int]]] = {check.name: {} for report in reports for check in report.checks}
    for rank, report in enumerate(reports):
        for check in report.checks:
            found[check.name].setdefault(check, []).append(rank)
    rows = []
    for groups in found.values():
        bad = {check: ranks for check, ranks in groups.items() if check.status != "ok"}
        some = [(check, _where(ranks, hosts) if len(ranks) < len(hosts) else "") for check, ranks in bad.items()]
        rows += some or [(next(iter(groups)), "")]
    for check, where in [*rows, *((check, "") for check in joint)]:
        parts = [part for part in (where, check.found, check.remedy) if part]
        yield f"{check.status:4}  {check.name:{_NAME_WIDTH}}  {': '.join(parts)}"
    if unlike := differences(reports):
        yield f"\nWhat differs between the {len(reports)} processes:"
        for name, values in unlike.items():
            yield from (f"  {name:{_NAME_WIDTH}}  {value}: {_where(ranks, hosts)}" for value, ranks in values.items())


def consult(meeting: Rendezvous, report: Report, results_dir: Path) -> tuple[list[Report], list[Check]]:
    """Everybody's report, and what only all together can tell: the same on every rank."""
    spoken = [json.loads(text) for text in meeting.exchange(json.dumps(asdict(report)).encode())]
    reports = [Report(**{**said, "checks": [Check(**check) for check in said["checks"]]}) for said in spoken]
    clock = Clock()
    # All leave an exchange at one moment, and read their clocks before the next. One of them may be held up: median.
    clocks_ns = [[int(now) for now in meeting.exchange(b"%d" % clock.now_ns())] for _ in range(_CLOCK_ROUNDS)]
    # Asked by name, which no cache of a shared file system can know yet; a listing might be old.
    mine = [rank for rank, other in enumerate(reports) if os.access(results_dir / other.marker, os.F_OK)]
    seen = [json.loads(text) for text in meeting.exchange(json.dumps(mine).encode())]
    return reports, together(reports, clocks_ns, seen)


def examine(
    results_dir: Path, cluster: ClusterEnv, env: Mapping[str, str], *, train: bool
) -> tuple[list[Report], list[Check]]:
    """Looks at this node and hears of the others: (reports, what only all together can tell). Leaves nothing behind."""
    bound_s = _MEETING_S + (probes.training_s(_strategies()) if train else 0)
    with probes.own_folder(results_dir) as (own, new):
        report = Node(env, cluster, own, train=train).report()
        try:
            # Only now: a process that has started MPI should start no others.
            meeting = Rendezvous(cluster if cluster.meeting_points else mpi.locate(cluster, env), bound_s)
            reports, joint = consult(meeting, report, results_dir)
            shutil.rmtree(own, ignore_errors=True)
            meeting.exchange(b"")
            while b"removed" in meeting.exchange(b"removed" if probes.remove(new) else b""):
                pass  # a folder that one process made may have held one that another made
            meeting.close()
            mpi.leave()
        except ClusterError as error:
            return [report], [Check("processes meet", "fail", *checks.told(error, "see what the others say"))]
    return reports, joint


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0, 2 usage, 3 when a check fails, on every rank the same."""
    try:
        options = parse(Options, "python -m bench.doctor", argv)
        cluster = launchers.read(os.environ) or ClusterEnv.alone()
        reports, joint = examine(options.results_dir.absolute(), cluster, os.environ, train=not options.quick)
    except (Refused, ClusterError) as error:
        return complain("bench.doctor", error, error.exit_code)
    everything = [*joint, *(check for report in reports for check in report.checks)]
    code = ExitCode.ENVIRONMENT if any(check.status == "fail" for check in everything) else ExitCode.OK
    if cluster.rank and len(reports) < cluster.size:
        print(f"bench.doctor: rank {cluster.rank}: {joint[0].found}: {joint[0].remedy}", file=sys.stderr)
    if cluster.rank == 0:
        with outliving_readers():
            print("\n".join(lines(reports, joint)))
            if options.json:
                print(_as_json(reports, joint, code))
    return int(code)


def _as_json(reports: Sequence[Report], joint: Sequence[Check], code: int) -> str:
    told = {"nodes": [{"rank": rank, **asdict(each)} for rank, each in enumerate(reports)], "exit_code": int(code)}
    return json.dumps(told | {"together": [asdict(each) for each in joint], "differences": differences(reports)})


if __name__ == "__main__":
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))  # so that nothing is left behind
    sys.exit(main(sys.argv[1:]))
