"""Builds Horovod for the TensorFlow and the MPI of this environment, and installs it: `python -m jobs.build_horovod`.

Horovod's last release predates the TensorFlow and the compilers of today: it has no wheel, its source needs two lines
mended, and what comes out fits one TensorFlow version only. The wheel is kept outside the checkout under a key of all
that it depends on, so that the next environment of the same kind takes seconds and no compiler.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from results.command_line import perform
from results.exit_codes import ExitCode
from results.writing import replacing

VERSION = "0.28.1"
_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"

_MENDED = {
    # TensorFlow 2.19 dropped the XLA headers that this file needs; only a GPU build uses it.
    # https://github.com/horovod/horovod/pull/4302
    "horovod/tensorflow/xla_mpi_ops.cc": (
        "#if TENSORFLOW_VERSION >= 2006000000\n",
        "#if TENSORFLOW_VERSION >= 2006000000 && HAVE_GPU\n",
    ),
    # Writing into reserved, not resized, memory leaves the vector empty: under Gloo a hung rank is never reported.
    "horovod/common/gloo/gloo_controller.cc": ("global_ranks_.reserve(size_);", "global_ranks_.resize(size_);"),
}

_NEEDED = {
    "g++": "a C++ compiler (apt-get install g++; dnf or zypper install gcc-c++)",
    "make": "make (apt-get, dnf or zypper install make)",
    "cmake": "cmake (pip install '.[horovod]')",
}


@dataclass(frozen=True)
class Options:
    """Build Horovod for the TensorFlow and the MPI of this environment, unless such a wheel is kept, and install it.

    Horovod's own settings (HOROVOD_GPU_OPERATIONS=NCCL, HOROVOD_WITHOUT_MPI=1, ...) are taken from the environment,
    and so are pip's. Where there is no internet, carry its source over:

        pip download --dest wheels --no-deps --no-binary=horovod --no-build-isolation horovod==0.28.1    # with internet

        PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels python -m jobs.build_horovod
    """


class CannotBuild(Exception):
    """One line: what is missing or what failed, and what to do."""


@dataclass(frozen=True)
class Mpi:
    """An MPI library: `name` with its version, and where its compiler wrappers stand."""

    name: str
    prefix: Path

    @property
    def bundled(self) -> bool:
        """Whether it lies in this Python environment, at a place that is the same relative to every package."""
        return self.prefix == Path(sys.prefix)


def find_mpi(path: str) -> Mpi | None:
    """The MPI whose compiler wrapper comes first on the search path `path`; None where there is none."""
    wrapper, launcher = shutil.which("mpicxx", path=path), shutil.which("mpirun", path=path)
    if not wrapper or not launcher:
        return None
    said = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"\d+(\.\d+)+", said)
    name = "openmpi" if "Open MPI" in said else "mpich"
    return Mpi(f"{name}{number.group() if number else ''}", Path(wrapper).parent.parent)


def settings(env: Mapping[str, str], mpi: Mpi | None) -> dict[str, str]:
    """Horovod's build settings: TensorFlow alone, Gloo always, MPI where there is one, and what `env` asks for."""
    chosen = {
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITH_MPI" if mpi else "HOROVOD_WITHOUT_MPI": "1",
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
        # Stripped; a bundled MPI is found from the package's own place: horovod/tensorflow -> lib.
        "LDFLAGS": "-s -Wl,-rpath,$ORIGIN/../../../.." if mpi and mpi.bundled else "-s",
    }
    return chosen | {name: value for name, value in env.items() if re.match(r"HOROVOD_(WITH|GPU|CUDA|NCCL|CPU)", name)}


def cache_folder(env: Mapping[str, str], tensorflow: str, mpi: Mpi | None, chosen: Mapping[str, str]) -> Path:
    """Where the wheel for this TensorFlow, Python, MPI, platform and settings is kept; raises CannotBuild."""
    recipe = repr((sorted(chosen.items()), _MENDED, "" if mpi is None or mpi.bundled else str(mpi.prefix)))
    key = "-".join(
        (
            f"tf{tensorflow}",
            f"py{sys.version_info.major}.{sys.version_info.minor}",
            mpi.name if mpi else "nompi",
            f"{platform.system()}_{platform.machine()}_{'_'.join(platform.libc_ver())}".lower(),
            hashlib.sha256(recipe.encode()).hexdigest()[:8],
        )
    )
    try:
        caches = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise CannotBuild("this user has no home folder to keep the wheel in: set XDG_CACHE_HOME") from None
    return caches / "trainscale" / f"horovod-{VERSION}" / key


def build(env: Mapping[str, str], chosen: Mapping[str, str], folder: Path) -> Path:
    """Builds the wheel into `folder` and returns it; raises CannotBuild."""
    missing = [what for program, what in _NEEDED.items() if not shutil.which(program, path=env["PATH"])]
    if missing:
        raise CannotBuild(f"missing: {'; '.join(missing)}")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    with tempfile.TemporaryDirectory(prefix="horovod-") as scratch, log.open("wb") as output:
        source = _source(Path(scratch), env, output)
        _pip("wheel", "--no-cache-dir", "--no-build-isolation", "--no-deps", "-w", scratch, str(source),
             env={**env, **chosen}, output=output, failure=f"the build failed, as {log} tells")  # fmt: skip
        (built,) = Path(scratch).glob("horovod-*.whl")
        # Under its final name only when it is whole: two set-ups may build at once.
        with replacing(folder / built.name) as arriving:
            shutil.copyfile(built, arriving)
        return folder / built.name


def _source(scratch: Path, env: Mapping[str, str], output: object) -> Path:
    """The released source, checked and mended."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"horovod=={VERSION} --hash=sha256:{_SHA256}\n")
    _pip("download", "--no-deps", "--no-binary=horovod", "--no-build-isolation", "--require-hashes",
         "-r", str(wanted), "-d", str(scratch), env=env, output=output,
         failure=f"the source of Horovod {VERSION} cannot be downloaded (compute nodes are often offline: "
                 f"run this on a login node, or see --help)")  # fmt: skip
    with tarfile.open(scratch / f"horovod-{VERSION}.tar.gz") as archive:
        # Debian 12's Python is older than the filter; what is unpacked has its hash.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
        archive.extractall(scratch)  # noqa: S202
    folder = scratch / f"horovod-{VERSION}"
    for name, (before, after) in _MENDED.items():
        file = folder / name
        text = file.read_text()
        if text.count(before) != 1:
            raise CannotBuild(f"{name} of Horovod {VERSION} is not what it was when it was mended")
        file.write_text(text.replace(before, after))
    return folder


def _pip(*arguments: str, env: Mapping[str, str], output: object, failure: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env=dict(env), stdout=output, stderr=subprocess.STDOUT, check=False)  # type: ignore[call-overload]
    if done.returncode:
        raise CannotBuild(failure)


def install() -> str:
    """Installs Horovod, building it first where no wheel is kept, and returns what it was built for."""
    try:
        tensorflow = version("tensorflow")
    except PackageNotFoundError:
        raise CannotBuild("TensorFlow is not installed here; Horovod is built against it") from None
    # The programs of this environment come first: its cmake, and its MPI where it has one.
    env = {**os.environ, "PATH": os.pathsep.join((str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath)))}
    mpi = None if env.get("HOROVOD_WITHOUT_MPI") == "1" else find_mpi(env["PATH"])
    chosen = settings(env, mpi)
    built_for = f"TensorFlow {tensorflow}, {mpi.name if mpi else 'no MPI'}"
    folder = cache_folder(env, tensorflow, mpi, chosen)
    wheel = next(folder.glob("horovod-*.whl"), None)
    if wheel is None:
        print(f"Building Horovod {VERSION} for {built_for}: takes minutes, once", flush=True)
        wheel = build(env, chosen, folder)
    _pip("install", "--quiet", "--no-deps", "--force-reinstall", str(wheel), env=env, output=None,
         failure=f"{wheel} cannot be installed; delete it to build it again")  # fmt: skip
    probe = subprocess.run(
        [sys.executable, "-c", "import horovod.tensorflow"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        last = [f"exit code {probe.returncode}", *probe.stderr.strip().splitlines()][-1]
        raise CannotBuild(f"it does not load: {last} (delete {wheel} to build it again)")
    return built_for


def _work(_options: Options) -> int:
    try:
        print(f"Horovod {VERSION} is installed, for {install()}")
    except CannotBuild as error:
        print(f"no Horovod: {error}; then run python -m jobs.build_horovod", file=sys.stderr)
        return ExitCode.ENVIRONMENT
    return ExitCode.OK


def main(argv: Sequence[str]) -> int:
    """Installs Horovod and returns the exit code: 0, 2 usage, 3 it cannot be built; with one line on standard error."""
    return perform("jobs.build_horovod", Options, argv, _work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
