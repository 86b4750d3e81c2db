"""Whether the suite works with the packages that pyproject.toml allows: `python -m tests.versions [NAME ...]`.

Three environments, each made anew below .matrix: the oldest versions on the oldest Python of this machine, the newest
on the newest, and tensorflow-cpu in place of tensorflow. In each every strategy trains, Horovod where it can be built,
and is verified, reported and gated. Prints a row per environment; exit code 1 where something failed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from results.exit_codes import ExitCode
from strategies import STRATEGIES, load
from tests.benchmark import ROOT, SMALL, clean_environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = ROOT / ".matrix"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = ("mpi", "horovod")
SHOWN = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "pandas", "pyarrow", "duckdb")
"""Packages whose versions stand in the row of an environment."""
TRAIN_S, BUILD_S = 300, 1800
"""Bounds on a command of the suite, and on what installs [s]."""


@dataclass(frozen=True)
class Environment:
    """How one environment is made."""

    python: Callable[[Sequence[Path]], Path]
    """Chooses of the Pythons of this machine, the oldest first."""
    resolution: str = "highest"
    """Which of the allowed versions of the direct dependencies are taken, as uv calls it."""
    tensorflow: str = "tensorflow"
    """The package that provides TensorFlow."""


ENVIRONMENTS: Mapping[str, Environment] = {
    "oldest": Environment(lambda pythons: pythons[0], resolution="lowest-direct"),
    "newest": Environment(lambda pythons: pythons[-1]),
    "tensorflow-cpu": Environment(lambda pythons: pythons[len(pythons) // 2], tensorflow="tensorflow-cpu"),
}


def main(names: Sequence[str]) -> int:
    """Try the environments of these names, or all."""
    pythons = [*_pythons()]
    failed = [name for name in names or ENVIRONMENTS if not _works(name, ENVIRONMENTS[name], pythons)]
    return int(bool(failed))


def requirements(tensorflow: str) -> list[str]:
    """The dependencies of the project, with those of EXTRAS, and `tensorflow` in place of that package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    return [re.sub(r"^tensorflow\b", tensorflow, line) for line in lines]


def _pythons() -> Iterator[Path]:
    for version in PYTHONS:
        own = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        command = str(own[-1]) if own else shutil.which(f"python{version}")
        if command and subprocess.run([command, "--version"], capture_output=True, check=False).returncode == 0:
            yield Path(command)


def _works(name: str, environment: Environment, pythons: Sequence[Path]) -> bool:
    python = _make(FOLDER / name, environment, pythons)
    versions = ", ".join(_versions(python))
    trouble = []
    with tempfile.TemporaryDirectory() as folder:
        for words, codes in _commands(f"--results-dir={folder}/data", Path(folder), _builds_horovod(python)):
            done = _call([str(python), "-m", *words], TRAIN_S)
            if done.returncode not in codes or "Traceback" in done.stderr:
                trouble.append(
                    f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
                )
    print(f"{name}: {versions}: {'works' if not trouble else 'fails'}", *trouble, sep="\n", flush=True)
    return not trouble


def _make(folder: Path, environment: Environment, pythons: Sequence[Path]) -> Path:
    """The Python of a new environment."""
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin" / "python"
    for words in (
        [str(environment.python(pythons)), "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"],
        [
            *(str(python), "-m", "uv", "pip", "install", "--quiet", "--only-binary=:all:", f"--python={python}"),
            *(f"--resolution={environment.resolution}", *requirements(environment.tensorflow)),
        ],
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", str(ROOT)],
    ):
        done = _call(words, BUILD_S)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return python


def _builds_horovod(python: Path) -> bool:
    done = _call([str(python), "-m", "jobs.build_horovod"], BUILD_S)
    if done.returncode not in (ExitCode.OK, ExitCode.ENVIRONMENT):
        raise SystemExit(f"jobs.build_horovod: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    if done.returncode:
        print(done.stderr, flush=True)
    return done.returncode == ExitCode.OK


def _versions(python: Path) -> Iterator[str]:
    program = "import platform; print('python', platform.python_version())\n"
    program += "from importlib import metadata\nthere = {d.name: d.version for d in metadata.distributions()}\n"
    program += f"for name in {SHOWN}:\n    if name in there: print(name, there[name])"
    yield from _call([str(python), "-c", program], TRAIN_S).stdout.splitlines()


def _commands(results: str, folder: Path, horovod: bool) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """The commands of the suite, with the exit codes that are right."""
    strategies = [name for name in STRATEGIES if horovod or name != "horovod"]
    for experiment in ("before", "after"):
        for name in strategies:
            devices = {"single": []}.get(
                name, [f"--{'devices-per-worker' if load(name).one_process else 'num-workers'}=2"]
            )
            yield ["bench.run", *SMALL, f"--strategy={name}", *devices, f"--experiment={experiment}", results], (0,)
    yield ["bench.verify", "--devices=2", results], (0,)
    yield ["analysis.report", f"--output={folder}/report", "--format=html,png", results], (0,)
    # One run on each side: whatever they show, nothing can be judged.
    yield ["analysis.regress", "--baseline=before", "--candidate=after", results], (int(ExitCode.INCONCLUSIVE),)


def _call(words: Sequence[str], bound_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=bound_s, check=False
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
