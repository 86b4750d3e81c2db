"""How `bench.doctor` judges what it found: a pure function a check, from facts to a verdict.

A `fail` says that runs end or measure wrongly, a `warn` that something is missing which not every run needs.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.probes import Answer
from results.exit_codes import ExitCode

Status = Literal["ok", "warn", "fail"]
Verdict = tuple[Status, str, str]
"""How a check ended, what was found and, unless all is well, what to do."""

_GIB, _MIB = 1 << 30, 1 << 20
_LEAST_SHARED_MEMORY = 64 * _MIB
"""What Docker gives; NCCL and MPI take more for a handful of processes."""
_LEAST_MEMORY = _GIB
"""For each process: TensorFlow alone takes half of it."""
_LEAST_OPEN_FILES = 1024
_MOST_SKEW_NS = 10_000_000
"""A step of a small model takes 10 ms: beyond it steps of two hosts cannot be put next to each other. chrony keeps the
clocks of a local network within 1 ms and a message takes less, so that nothing but a bad clock comes near."""

_ALLOW_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
_INSTALL, _INSTALL_CUDA, _INSTALL_MPI = (f"pip install -e {what}" for what in (".", "'.[cuda]'", "'.[mpi]'"))
_BUILD_HOROVOD = "python -m jobs.build_horovod"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: Status
    found: str
    remedy: str


def told(error: object, otherwise: str) -> tuple[str, str]:
    """What was found and the remedy, of an error that says both in one line; `otherwise` where it names no remedy."""
    found, _, remedy = str(error).rpartition(": ")
    return (found, remedy) if found else (remedy, otherwise)


def python(version: str, wanted: str, executable: str) -> Verdict:
    """`wanted` as requires-python in pyproject.toml."""
    from packaging.specifiers import SpecifierSet

    if version not in SpecifierSet(wanted):
        return "fail", f"{version}, but TrainScale needs {wanted}", "make setup PYTHON=python3.12, or another of these"
    return "ok", f"{version} ({executable})", ""


def packages(requirements: Sequence[str], installed: Callable[[str], str | None], imported: Answer) -> Verdict:
    """`installed` gives the version of a package, None where it is not there; `imported` of a process that imported
    them and named those that fail."""
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in requirements]
    needed = [(each, installed(each.name)) for each in parsed if each.marker is None or each.marker.evaluate()]
    missing = [f"{each.name} is missing" for each, version in needed if version is None]
    wrong = [
        f"{each.name} {version} is not {each.specifier}"
        for each, version in needed
        if version is not None and not each.specifier.contains(version, prereleases=True)
    ]
    if missing + wrong:
        return "fail", "; ".join(missing + wrong), _INSTALL
    if broken := imported.stdout.splitlines():
        return "fail", *told(broken[0], _INSTALL)
    if imported.returncode != 0:
        return "fail", f"cannot be imported: {imported.trouble}", _INSTALL
    return "ok", f"all {len(needed)}", ""


def tensorflow(answer: Answer) -> Verdict:
    """`answer` of a process that loaded TensorFlow and Keras as a worker does."""
    if answer.returncode == 0:
        return "ok", f"{answer.said['TensorFlow']}, Keras {answer.said['Keras']}", ""
    if answer.returncode == -signal.SIGILL:
        return "fail", "this CPU lacks instructions that TensorFlow was built with (SIGILL)", "use a newer node"
    return "fail", *told(answer.trouble, "see what it says: python -c 'import tensorflow'")


def cores(allowed: int, quota: float | None, total: int) -> Verdict:
    """`quota`: cores whose time the control group grants, None without a limit."""
    if quota is not None and quota < allowed:
        found = f"{allowed} of {total}, but the control group grants the time of {quota:g}: threads stop and go"
        return "warn", found, f"ask for whole cores, or keep to them: taskset -c 0-{max(0, int(quota) - 1)}"
    return "ok", f"{allowed} of {total}", ""


def gpus(driver: Sequence[str], unavailable: str | None, seen: Sequence[str] | None) -> Verdict:
    """`driver`: names of the GPUs by NVML; `seen`: those that TensorFlow sees, None where it does not load."""
    shown = f"the driver shows {len(driver)} ({', '.join(dict.fromkeys(driver))})"
    if not driver and not seen:
        return "ok", f"no GPU ({unavailable})", ""
    if not driver:
        found = f"TensorFlow sees {len(seen or ())}, NVML none ({unavailable}): runs cannot sample them"
        return "warn", found, "install the driver's libnvidia-ml.so.1"
    if seen is None:
        return "warn", f"{shown}, but TensorFlow does not load", "mend TensorFlow first"
    if not seen:
        return "fail", f"{shown}, but TensorFlow sees none", _INSTALL_CUDA
    if len(seen) != len(driver):
        return "warn", f"{shown}, but TensorFlow sees {len(seen)}", "compare CUDA_VISIBLE_DEVICES with nvidia-smi -L"
    return "ok", f"{shown}, and TensorFlow sees them", ""


def memory_growth(seen: Sequence[str] | None, problem: str | None) -> Verdict:
    """`problem`: what TensorFlow said when it was to start the GPUs without taking all of their memory."""
    if problem:
        return "fail", problem, "see with nvidia-smi who uses the GPUs"
    return "ok", "can be set" if seen else "no GPU", ""


def nccl(num_gpus: int, found: str | None) -> Verdict:
    """`found`: the version or the library of NCCL, None without one."""
    if num_gpus and not found:
        return "warn", "not found, and several GPUs exchange gradients by it", _INSTALL_CUDA
    return "ok", found if num_gpus and found else "no GPU, not needed", ""


def mpi(answer: Answer, installed: str | None) -> Verdict:
    """`answer` of a process that asked mpi4py for its library; `installed`: the version of mpi4py."""
    if answer.returncode == 0:
        return "ok", f"{answer.stdout.strip()}, mpi4py {installed}", ""
    if answer.returncode is None or answer.returncode < 0:
        return "fail", f"mpi4py {installed} cannot be loaded: {answer.trouble}", _INSTALL_MPI
    return "warn", *told(answer.trouble, _INSTALL_MPI)


def mpi_family(text: str) -> str | None:
    """Whose launcher starts whose processes: Open MPI's its own, and the descendants of MPICH one another's."""
    if re.search("Open MPI|OpenRTE|prte", text):
        return "Open MPI"
    return "MPICH" if re.search("MPICH|MVAPICH|HYDRA|Intel", text) else None


def refuses_root(uid: int, env: Mapping[str, str]) -> bool:
    """Whether Open MPI's mpirun starts nothing for this user: root must allow it twice."""
    return uid == 0 and not all(env.get(name) == "1" for name in _ALLOW_ROOT)


def mpirun(
    path: str | None,
    beside: str | None,
    version: Answer,
    library: str | None,
    pair: Answer | None,
    *,
    no_root: bool = False,
) -> Verdict:
    """`path` on PATH, `beside` the one in Python's own folder, `library` of mpi4py; `pair`: what two processes that it
    started said of their number, None where that was not tried; `no_root`: as `refuses_root`."""
    if path is None:
        return "warn", "not on PATH", f"activate the environment, it is {beside}" if beside else _INSTALL_MPI
    name, first = " ".join(" ".join(version.stdout.splitlines()[:2]).split()), f"put {library}'s mpirun first on PATH"
    if version.returncode != 0:
        return "fail", f"{path} --version: {version.trouble}", _INSTALL_MPI
    if library is None:
        return "warn", f"{name}, but mpi4py loads no MPI library", _INSTALL_MPI
    if mpi_family(version.stdout) != mpi_family(library):
        return "fail", f"{path} ({name}) starts no processes of {library}: each would believe to be alone", first
    allow = f"be another user, or export {' '.join(f'{name}=1' for name in _ALLOW_ROOT)}"
    if pair is None and no_root and mpi_family(library) == "Open MPI":
        return "warn", f"{name}, fits {library}, but starts nothing as root", allow
    if pair is None:
        return "ok", f"{name}, fits {library}", ""
    if pair.returncode != 0:
        said = next(iter(pair.complaints), pair.trouble)
        return "warn", f"{name} starts nothing: {said}", allow if "as root" in said else f"see {path} -n 2 hostname"
    if pair.stdout.split() != ["2", "2"]:
        return "fail", f"two processes of {name} saw {' and '.join(pair.stdout.split()) or 'nothing'} of them", first
    return "ok", f"{name}, fits {library}: two processes met", ""


def horovod(installed: str | None, problem: str | None, answer: Answer, num_gpus: int) -> Verdict:
    """`problem`: why there is none that fits; `answer` of a process that loaded it and named its features."""
    if problem is not None:
        found, remedy = told(problem, _BUILD_HOROVOD)
        return "fail" if installed else "warn", found, remedy
    if answer.returncode != 0:
        return "fail", f"{installed} does not load: {answer.trouble}", f"build it again: {_BUILD_HOROVOD}"
    features = [name for name, built in answer.said.items() if built]
    found = f"{installed} with {', '.join(features) or 'no way to exchange gradients'}"
    if not {"gloo", "mpi"} & set(features):
        return "fail", found, f"build it again: {_BUILD_HOROVOD}"
    if num_gpus and "nccl" not in features:
        slow = f"{found} but not nccl: gradients of GPUs go through the host's memory"
        return "warn", slow, f"HOROVOD_GPU_OPERATIONS=NCCL {_BUILD_HOROVOD}"
    return "ok", found, ""


def training(answer: Answer, strategy: str) -> Verdict:
    """`answer` of a process that trained two steps with each strategy (`bench.short_runs`)."""
    if answer.returncode != 0:
        return "fail", f"cannot be tried: {answer.trouble}", f"see python -m bench.run --strategy={strategy} --debug"
    run = answer.said[strategy]
    see = f"see python -m bench.run {' '.join(run['flags'])} --debug"
    if run["exit_code"] == ExitCode.OK:
        return "ok", f"2 steps on {run['devices']} device{'s' if run['devices'] > 1 else ''}", ""
    if run["exit_code"] in (ExitCode.USAGE, ExitCode.ENVIRONMENT):
        return "fail", *told(run["error"], see)
    return "fail", run["error"], see


def slurm(commands: Mapping[str, str | None], ping: Answer) -> Verdict:
    """`commands`: where each of Slurm's stands; `ping`: what its controller answered."""
    missing = [name for name, path in commands.items() if path is None]
    said = " ".join(ping.stdout.split())
    if len(missing) == len(commands):
        return "ok", "not here", ""
    if missing:
        return "warn", f"{', '.join(missing)} not on PATH", "load the site's Slurm module"
    if ping.returncode != 0 or " is UP" not in said:
        return (
            "warn",
            f"no controller answers ({said or ping.trouble})",
            "start slurmctld or load the site's Slurm module, then see scontrol ping",
        )
    return "ok", said, ""


def loopback(problem: str | None) -> Verdict:
    """`problem`: why no port of 127.0.0.1 can be opened and reached."""
    if problem:
        return "fail", f"127.0.0.1: {problem}", "workers of a host meet there: ip link set lo up, and see the firewall"
    return "ok", "ports of 127.0.0.1 can be opened and reached", ""


def host_name(name: str, address: str | None, problem: str | None, *, alone: bool) -> Verdict:
    """`problem`: why `address`, that of `name`, cannot be listened at; `alone`: no other host takes part."""
    remedy = f"give {name} this host's address in DNS or /etc/hosts"
    if address is None:
        return "warn", f"{name} has no address: workers on other hosts could not reach this one", remedy
    if problem:
        return "warn", f"{name} is {address}, not this host ({problem}): workers elsewhere would call in vain", remedy
    if address.startswith("127.") and not alone:
        return "warn", f"{name} is {address} here: workers on other hosts could not reach this one", remedy
    return "ok", f"{name} is {address}", ""


def results(path: str, problem: str | None, creators: Sequence[int], lines: int, expected: int) -> Verdict:
    """`problem` of writing and renaming; `creators`: for each of the files that several processes tried to create
    exclusively, how many did; `lines` of `expected` arrived of those that they appended to one file."""
    elsewhere = "choose another with --results-dir"
    twice = sum(count != 1 for count in creators)
    if problem:
        return "fail", f"{path} {problem}", elsewhere
    if lines != expected:
        return "fail", f"{path}: {lines} of {expected} lines that several processes appended arrived", elsewhere
    if twice:
        return (
            "fail",
            f"{path}: exclusive creation fails, {twice} of {len(creators)} files had not 1 creator",
            elsewhere,
        )
    return "ok", f"{path}: writes, renames, excludes and appends", ""


def shared_memory(free: int | None) -> Verdict:
    """`free` bytes of /dev/shm, None without one."""
    found = "there is no /dev/shm" if free is None else f"{free / _MIB:,.0f} MiB of /dev/shm free"
    if free is None or free < _LEAST_SHARED_MEMORY:
        return "warn", f"{found}, which NCCL and MPI use", "mount -o remount,size=1G /dev/shm, or docker --shm-size=1g"
    return "ok", found, ""


def memory(total: int, available: int, limit: int | None, processes: int) -> Verdict:
    """Bytes; `limit` of the control group, None without one; `processes` of the run on this host."""
    room = min(available, limit or available)
    found = f"{room / _GIB:.1f} of {total / _GIB:.1f} GiB available"
    if room < processes * _LEAST_MEMORY:
        return "warn", found, f"end something or start fewer processes: {processes} here take about 1 GiB each"
    return "ok", found, ""


def threads(bounds: Mapping[str, tuple[int, int]], cores: int, processes: int) -> Verdict:
    """`bounds`: what limits the number of threads -> (limit, used); `processes` of the run share this host."""
    need = processes * (4 * cores + 64)
    if not bounds:
        return "ok", "no limit", ""
    name, (limit, used) = min(bounds.items(), key=lambda bound: bound[1][0] - bound[1][1])
    found = f"{name} leaves {limit - used:,} of {limit:,}; a run takes about {need:,} here"
    return ("warn", found, f"raise {name}, or use fewer processes") if limit - used < need else ("ok", found, "")


def open_files(soft: int) -> Verdict:
    """`soft` limit, as `ulimit -n`."""
    return ("warn", str(soft), f"ulimit -n {_LEAST_OPEN_FILES}") if soft < _LEAST_OPEN_FILES else ("ok", str(soft), "")


def thread_settings(env: Mapping[str, str]) -> Verdict:
    """Variables that decide how many threads compute, whatever the run's own settings say."""
    names = [name for name in sorted(env) if re.fullmatch(r"OMP_NUM_THREADS|TF_NUM_\w+_THREADS", name)]
    found = ", ".join(f"{name}={env[name]}" for name in names)
    return (
        ("warn", f"{found} changes what is measured", f"unset {' '.join(names)}") if names else ("ok", "none set", "")
    )


def clocks(offsets_ns: Mapping[str, int]) -> Verdict:
    """`offsets_ns`: other hosts -> how far their clocks are ahead of the first host's."""
    if not offsets_ns:
        return "ok", "one host", ""
    host, offset = max(offsets_ns.items(), key=lambda pair: abs(pair[1]))
    found = f"{host} is {abs(offset) / 1e6:.1f} ms {'ahead of' if offset > 0 else 'behind'} the first host"
    return ("warn", found, "synchronise them by chrony or NTP") if abs(offset) > _MOST_SKEW_NS else ("ok", found, "")


def one_store(ranks: int, apart: str) -> Verdict:
    """`apart`: the ranks, if any, that see other files in the results directory than the first does."""
    if apart:
        return "fail", f"not the same on {apart}", "give every task one --results-dir that all hosts share"
    return "ok", "one process" if ranks == 1 else "all that can write there see each other's files", ""


def alike(ranks: int, refused: Sequence[str], others: Sequence[str]) -> Verdict:
    """`refused`: in what processes differ that runs refuse, `others`: in what else."""
    if refused:
        return "fail", f"processes differ in {', '.join(refused)}", "install the same everywhere"
    if others:
        return "warn", f"processes differ in {', '.join(others)}", "ask for nodes of one kind, with one environment"
    return "ok", "one process" if ranks == 1 else "the processes differ in nothing", ""
