"""How `bench.doctor` asks this node: commands and frameworks in processes of their own, files, addresses and limits.

Nothing here judges; `bench.checks` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import psutil

from bench import frameworks, provenance, short_runs
from bench.errors import EnvironmentFault, naming_failed_imports
from jobs import mpi
from jobs.cluster import ClusterError

PROBE_S = 120.0
"""Bound on loading a framework: hosts that read it from a shared file system are slow."""
WRITERS, LINES = 4, 50
ALL_LINES = WRITERS * LINES
"""Processes that try a folder at once, and what each writes and creates there."""

_PACKAGES = ("pyarrow.parquet", "pandas", "duckdb", "scipy.stats", "matplotlib", "plotly", "h5py")
"""What runs and reports import where they need it; every command imports the rest."""

_FROM_LAUNCHER = re.compile(r"TF_CONFIG$|(OMPI|ORTE|PMIX|PMI|PRTE|HYDRA|HYDI|MPI|SLURM)_(?!ALLOW_RUN_AS_ROOT|CONF$)")
"""What launchers tell their processes: a command of ours that took it for its own would speak for that rank."""
_OVERSUBSCRIBE = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}

_RACE = """
import os, sys, time
folder, me, lines, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
log = os.open(folder + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
time.sleep(max(0, start - time.time()))
for line in range(lines):
    created = 1
    try: os.close(os.open(f"{folder}/{line}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError: created = 0
    os.write(log, f"{me} {line} {created}\\n".encode())
"""
ASK_SIZE = "from mpi4py import MPI; print(MPI.COMM_WORLD.Get_size())"
ASK_FEATURES = """import json; from bench import frameworks; frameworks.load(); import horovod.tensorflow as hvd
print(json.dumps({name: bool(getattr(hvd, name + "_built")()) for name in ("gloo", "mpi", "nccl")}))"""
"""Loads TensorFlow first as workers do: the way Horovod does takes twice as long."""


@dataclass(frozen=True)
class Answer:
    """What a command said. `returncode` is negative for a signal, None where it was ended for taking too long."""

    returncode: int | None
    stdout: str = ""
    stderr: str = ""

    @property
    def said(self) -> Any:
        """The last line of standard output, which is JSON."""
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def complaints(self) -> list[str]:
        """The lines of standard error that hold words."""
        return [line.strip() for line in self.stderr.splitlines() if re.search(r"\w", line)]

    @property
    def trouble(self) -> str:
        """Why it failed, in a line."""
        if self.returncode is None:
            return "it did not end in time"
        if self.returncode < 0:
            return f"{signal.Signals(-self.returncode).name} ended it"
        return self.complaints[-1] if self.complaints else f"it ended with exit code {self.returncode}"


def ask(commands: Mapping[str, Sequence[str]], env: Mapping[str, str], bound_s: float) -> dict[str, Answer]:
    """Runs all commands side by side, as if no launcher had started this process, and ends those that take too long."""
    clean = {name: value for name, value in env.items() if not _FROM_LAUNCHER.match(name)} | _OVERSUBSCRIBE
    before, deadline = psutil.Process().children(), time.monotonic() + bound_s
    running: dict[str, subprocess.Popen[str]] = {}
    answers = dict.fromkeys(commands, Answer(None))
    pipes: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) | {"stdin": subprocess.DEVNULL}
    way: dict[str, Any] = {"env": clean, "text": True, "errors": "replace", "start_new_session": True}
    try:
        for name, command in commands.items():
            try:
                running[name] = subprocess.Popen(command, **pipes, **way)
            except OSError as error:
                answers[name] = Answer(127, "", f"{command[0]}: {error.strerror}")
        for name, started in running.items():
            with contextlib.suppress(subprocess.TimeoutExpired):
                said = started.communicate(timeout=max(0.1, deadline - time.monotonic()))
                answers[name] = Answer(started.returncode, *said)
    finally:
        # Not from `running`: a signal to stop may have come between a process's start and its entry there.
        left = [child for child in psutil.Process().children() if child not in before]
        left += [grandchild for child in left for grandchild in child.children(recursive=True)]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
    return answers


def training_s(strategies: Sequence[str]) -> float:
    """The bound on trying these strategies: loading TensorFlow, then a run of each and a little to end it [s]."""
    return PROBE_S + len(strategies) * (short_runs.RUN_S + 20)


def ask_to_train(strategies: Sequence[str], env: Mapping[str, str]) -> Answer:
    """The answer of `bench.short_runs`, which trains two steps with each strategy. Leaves no files behind."""
    command = [sys.executable, "-m", "bench.short_runs", str(os.getpid()), *strategies]
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-", ignore_cleanup_errors=True) as scratch:
            return ask({"training": command}, {**env, "TMPDIR": scratch}, training_s(strategies))["training"]
    except OSError as error:
        return Answer(1, "", f"there is no folder for temporary files ({error.strerror})")


def listening_problem(address: str) -> str | None:
    """Why no port of `address` can be opened and reached from here; None where one can."""
    try:
        with socket.create_server((address, 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
            return None
    except OSError as error:
        return error.strerror or str(error)


def named_address(name: str) -> tuple[str, str | None, str | None]:
    """`name`, its address, None where it has none, and why that cannot be listened at."""
    try:
        address = socket.gethostbyname(name)
    except OSError:
        return name, None, None
    return name, address, listening_problem(address)


def thread_bounds(membership: Path, root: Path) -> dict[str, tuple[int, int]]:
    """What limits the number of threads here -> (limit, used): the user's limit and those of all control groups."""
    bounds = {}
    if (limit := resource.getrlimit(resource.RLIMIT_NPROC)[0]) != resource.RLIM_INFINITY:
        everyone = [process.info for process in psutil.process_iter(["uids", "num_threads"])]
        mine = [info["num_threads"] or 0 for info in everyone if info["uids"] and info["uids"].real == os.getuid()]
        bounds["ulimit -u"] = limit, sum(mine)
    groups = [line.split(":", 2)[1:] for line in membership.read_text().splitlines()] if membership.exists() else []
    for controllers, group in groups:
        inside = Path(group.lstrip("/"))
        for folder in (inside, *inside.parents) if controllers in ("", "pids") else ():
            place = root / controllers / folder
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                limit, used = (int((place / f"pids.{which}").read_text()) for which in ("max", "current"))
                bounds[f"{place}/pids.max"] = limit, used
    return bounds


def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def python(program: str, *arguments: str) -> list[str]:
    """The command that runs a program in this Python."""
    return [sys.executable, "-c", program, *arguments]


def tell_tensorflow(local_rank: int, local_size: int) -> None:
    """A probe: loads TensorFlow, starts this process's share of the GPUs, and prints what there is."""
    try:
        frameworks.load()
    except EnvironmentFault as error:
        sys.exit(" ".join(str(error).split()))
    import tensorflow as tf

    gpus, problem = tf.config.list_physical_devices("GPU"), None
    try:
        tf.config.set_visible_devices(gpus[local_rank::local_size] or gpus, "GPU")
        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.list_logical_devices("GPU")
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        problem = str(error).splitlines()[0]
    said = {"gpus": [gpu.name for gpu in gpus], "growth_problem": problem}
    print(json.dumps(said | provenance.framework_versions()))


def tell_packages() -> None:
    """A probe: prints what is wrong with the packages that runs and reports need, TensorFlow aside, a line each."""
    for package in _PACKAGES:
        try:
            with naming_failed_imports():
                import_module(package)
        except EnvironmentFault as error:
            print(error)


def tell_mpi() -> None:
    """A probe: loads MPI and prints the name of the library."""
    try:
        print(mpi.loaded_library())
    except ClusterError as error:
        sys.exit(" ".join(str(error).split()))


@contextlib.contextmanager
def own_folder(results_dir: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The name of a folder of our own, made if it can be, and what had to be made for it; all is removed afterwards."""
    new = [folder for folder in (results_dir, *results_dir.parents) if not os.access(folder, os.F_OK)]
    own = results_dir / f".doctor-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with contextlib.suppress(OSError):  # `try_folder` tells why
            own.mkdir(parents=True)
        yield own, new
    finally:
        shutil.rmtree(own, ignore_errors=True)
        remove(new)


def remove(folders: Sequence[Path]) -> bool:
    """Removes those of `folders` that are empty, in turn; whether there were any."""
    removed = False
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
            removed = True
    return removed


def try_folder(folder: Path) -> tuple[str | None, list[int], int]:
    """Uses a folder as a store does: (what went wrong, creators of each exclusive file, lines that were appended)."""
    content, temporary, final, log = os.urandom(99), *(folder / name for name in ("temporary", "final", "log"))
    try:
        with temporary.open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
        temporary.rename(final)
        if final.read_bytes() != content:
            return "gives back other bytes than were written", [], 0
    except OSError as error:
        return f"cannot be written ({error.strerror})", [], 0
    start = str(time.time() + 0.3)  # so that they begin at once
    racers = {str(me): python(_RACE, str(folder), str(me), str(LINES), start) for me in range(WRITERS)}
    ask(racers, os.environ, PROBE_S)
    arrived = re.findall(r"^\d+ (\d+) ([01])$", log.read_text() if log.exists() else "", re.MULTILINE)
    return None, [arrived.count((str(name), "1")) for name in range(LINES)], len(arrived)
