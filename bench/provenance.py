"""What ran where: versions, commit, machine, environment. Never a variable that results.knobs does not allow."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench import __version__, libraries
from bench.extras import Extras
from bench.telemetry import Gpus
from jobs.cores import physical_cores, threads_per_core
from results import knobs

_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|KEY|JWT|CREDENTIAL|AUTH", re.IGNORECASE)
_IN_URL = re.compile(r"(://)[^/\s]*@")
_NAMED = re.compile(rf"""(\w*(?:{_SECRET.pattern})\w*["']?\s*[=:]\s*["']?)[^\s,;&"']+""", re.IGNORECASE)
"""As in SLURM_EXPORT_ENV=ALL,HF_TOKEN=..., in a query and in JSON."""
_LONG = 8
"""Characters that a secret has at least: shorter values of a variable stand in other words by chance."""
_MEMBERSHIP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = (
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)
"""Of x86 and Arm, those by which TensorFlow, Eigen and oneDNN choose kernels."""
_NO_LIMIT = 1 << 60
"""cgroup v1 writes "no limit" as a huge number."""


def allowed_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that are recorded: those of results.knobs whose names don't speak of secrets. What looks like a
    secret in their values, or is the value of a variable that is named like one, is masked."""
    secrets = sorted((value for name, value in env.items() if _SECRET.search(name) and len(value) >= _LONG), key=len)
    chosen = (name for name in sorted(env) if knobs.is_recorded(name) and not _SECRET.search(name))
    return {name: _masked(env[name], secrets[::-1]) for name in chosen}


def _masked(text: str, secrets: Sequence[str]) -> str:
    text = text.encode(errors="replace").decode()  # bytes that are no text could not be stored
    for secret in secrets:  # the longest first: one may be part of another
        text = text.replace(secret, "***")
    return _NAMED.sub(r"\1***", _IN_URL.sub(r"\1***@", text))


def of_host(env: Mapping[str, str], gpus: Gpus) -> tuple[dict[str, Any], dict[str, str]]:
    """Provenance that needs no framework, and why what is missing is missing: (fields, column -> reason)."""
    failures: dict[str, str] = {}
    extras = Extras(failures.update)
    source = extras.measure("source", lambda: git_state(Path(__file__), _installed_from()))
    commit, dirty, no_git = source or (None, None, None)
    limits = extras.measure("control groups", lambda: cgroup_limits(_MEMBERSHIP, _CGROUPS))
    cpu_limit, memory_limit = limits or (None, None)
    fields = {
        "trainscale_version": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "python_version": platform.python_version(),
        "driver_version": gpus.driver_version,
        "hostname": socket.gethostname(),
        **dict.fromkeys(("kernel", "os", "cpu_model", "instruction_set", "memory_bytes")),
        **(extras.measure("host", _host) or {}),
        "cpu_cores": len(physical_cores(sorted(os.sched_getaffinity(0)))),
        "threads_per_core": threads_per_core(),
        "cgroup_cpu_limit": cpu_limit,
        "cgroup_memory_limit_bytes": memory_limit,
        "gpus": list(gpus.descriptions),
        "topology": extras.measure("topology", _topology),
        "environment": allowed_environment(env),
    }
    why = {
        "git_commit": no_git,
        "git_dirty": no_git,
        "driver_version": gpus.unavailable,
        "topology": "nvidia-smi is missing or shows no topology",
        "instruction_set": f"/proc/cpuinfo names none of {' '.join(_INSTRUCTIONS)}",
        "cgroup_cpu_limit": "no limit is set",
        "cgroup_memory_limit_bytes": "no limit is set",
        "threads_per_core": "this machine does not tell which CPUs are threads of one core",
    }
    reasons = {f"provenance.{name}": reason for name, reason in why.items() if fields[name] is None and reason}
    return fields, reasons | gpus.failures | failures


def _topology() -> str | None:
    return _output(["nvidia-smi", "topo", "-m"])


def _host() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "os": _os_name(),
        "cpu_model": cpu_model(_CPUINFO),
        "instruction_set": instruction_set(_CPUINFO),
        "memory_bytes": psutil.virtual_memory().total,
    }


def framework_versions() -> dict[str, str | None]:
    """What must be the same on every rank for them to train the same: name -> version."""
    named = {"Python": platform.python_version(), "NumPy": _version("numpy"), "Horovod": _version("horovod")}
    import keras
    import tensorflow as tf

    return {"TensorFlow": tf.version.VERSION, "Keras": keras.__version__, **named}


def of_frameworks() -> dict[str, Any]:
    """Provenance of the loaded frameworks."""
    import keras
    import numpy
    import tensorflow as tf

    from strategies.devices import CPU_ALLOCATOR

    return {
        "tensorflow_version": tf.version.VERSION,
        "tensorflow_git_version": tf.version.GIT_VERSION,
        "keras_version": keras.__version__,
        "numpy_version": numpy.__version__,
        "environment": {name: os.environ[name] for name in CPU_ALLOCATOR if name in os.environ},
    }


def of_libraries(device_kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Provenance of what the training loaded by its last step: (fields, column -> reason)."""
    horovod = _version("horovod") if "horovod" in sys.modules else None
    fields: dict[str, Any] = {**libraries.versions(("mpi_library",)), "horovod_version": horovod}
    if device_kind == "gpu":
        fields |= libraries.versions(OF_GPUS)
    reasons = {f"provenance.{name}": "it was not loaded" for name, value in fields.items() if value is None}
    return fields, reasons


OF_GPUS = ("cuda_version", "cudnn_version", "nccl_version")
"""Fields of libraries that only a run on GPUs has."""


def git_state(file: Path, installed_from: Mapping[str, Any]) -> tuple[str | None, bool | None, str | None]:
    """(commit, has changes, why both are None) of the checkout that `file` belongs to, or else of what was installed:
    `installed_from` is the installer's own record of it (PEP 610)."""
    folder = str(file.parent)
    if _output(["git", "-C", folder, "ls-files", file.name]):
        commit = _output(["git", "-C", folder, "rev-parse", "HEAD"])
        changes = _output(["git", "-C", folder, "status", "--porcelain", "--untracked-files=no"])
        if commit is not None:
            return commit, None if changes is None else bool(changes), None
    if commit := installed_from.get("vcs_info", {}).get("commit_id"):
        return commit, False, None
    return None, None, "the code is not in a git checkout with a commit and not installed from one, or git is missing"


def _installed_from() -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(metadata.distribution("trainscale").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return {}
    return record


def cgroup_cores() -> float | None:
    """Cores that this process's control group may use; None when unlimited."""
    limits = Extras(lambda _reasons: None).measure("control groups", lambda: cgroup_limits(_MEMBERSHIP, _CGROUPS))
    return limits[0] if limits else None


def cgroup_limits(membership: Path, root: Path) -> tuple[float | None, int | None]:
    """(cores, bytes) this process's control groups may use, each None when unlimited: version 2, and the controllers of
    version 1, whose folders lie below their names.

    The tightest of the group and all groups around it counts.
    """
    groups = {
        controller: group
        for line in _lines(membership)
        for controllers, _, group in [line.partition(":")[2].partition(":")]
        for controller in controllers.split(",")
    }
    unified, cpu, memory = (
        _around(root / controller, groups.get(controller, "/")) for controller in ("", "cpu", "memory")
    )
    cores = [_quota(*_text(folder / "cpu.max").partition(" ")[::2]) for folder in unified]
    cores += [_quota(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")) for folder in cpu]
    sizes = [_size(_text(folder / "memory.max")) for folder in unified]
    sizes += [_size(_text(folder / "memory.limit_in_bytes")) for folder in memory]
    return min((c for c in cores if c), default=None), min((size for size in sizes if size), default=None)


def _around(root: Path, group: str) -> list[Path]:
    """The folder of a control group and those of the groups around it."""
    inside = Path(group.lstrip("/"))
    return [root / folder for folder in (inside, *inside.parents)]


def _quota(quota: str, period: str) -> float | None:
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _size(limit: str) -> int | None:
    return int(limit) if limit.isdigit() and int(limit) < _NO_LIMIT else None


def cpu_model(cpuinfo: Path) -> str | None:
    """The model name of the first processor."""
    names = (line.partition(":")[2].strip() for line in _lines(cpuinfo) if line.startswith("model name"))
    return next(names, None) or platform.processor() or platform.machine() or None


def instruction_set(cpuinfo: Path) -> str | None:
    """The vector instructions of the first processor, as the kernel names them, simplest first."""
    lines = (line.partition(":") for line in _lines(cpuinfo))
    flags = next((text.split() for name, _, text in lines if name.strip() in ("flags", "Features")), [])
    return " ".join(name for name in _INSTRUCTIONS if name in flags) or None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str | None:
    if not shutil.which(command[0]):
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()
