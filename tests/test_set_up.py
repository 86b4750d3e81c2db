"""The set-up on machines of every kind: with root or without, with apt-get, dnf, zypper or none of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from jobs.check_python import complaint
from jobs.matrix import load
from tests.benchmark import BOUND_S, ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
INSTALL_PACKAGES = ROOT / "jobs" / "install_packages.sh"
DEMO = load(ROOT / "jobs" / "sweeps" / "demo.toml")


class Machine:
    """A PATH that holds these programs and nothing else, for the user `uid`; calls to the package manager are kept."""

    def __init__(self, folder: Path, uid: int, *programs: str) -> None:
        self.path, self.calls = folder / "bin", folder / "calls"
        self.path.mkdir()
        self._program("id", f"echo {uid}")
        for name in programs:
            self._program(name, f'echo "{name} $*" >> {self.calls}')

    def _program(self, name: str, script: str) -> None:
        (self.path / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.path / name).chmod(0o755)

    def output(self, *programs: str) -> str:
        """The output of install_packages.sh, which must succeed."""
        done = subprocess.run(
            ["/bin/sh", str(INSTALL_PACKAGES), *programs],
            env={"PATH": str(self.path)},
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout


@pytest.mark.parametrize(
    ("managers", "commands"),
    [
        (["apt-get"], ["apt-get install g++ iproute2"]),
        (["dnf"], ["dnf install gcc-c++ iproute"]),
        (["zypper"], ["zypper install gcc-c++ iproute2"]),
        ([], ["apt-get install g++ iproute2", "dnf install gcc-c++ iproute", "zypper install gcc-c++ iproute2"]),
    ],
)
@pytest.mark.commands
def test_a_user_gets_the_packages_of_the_systems_own_manager(
    tmp_path: Path, managers: list[str], commands: list[str]
) -> None:
    machine = Machine(tmp_path, 1000, *managers, "munged")
    (line,) = machine.output("g++", "ip", "munged").splitlines()
    assert re.findall(r"(?:apt-get|dnf|zypper) install [\w+ -]*[\w+]", line) == commands
    assert not machine.calls.exists()


@pytest.mark.parametrize("manager", ["dnf", "zypper"])
@pytest.mark.commands
def test_root_without_apt_get_gets_the_names_too(tmp_path: Path, manager: str) -> None:
    machine = Machine(tmp_path, 0, manager)
    assert f"{manager} install gcc-c++\n" in machine.output("g++")
    assert not machine.calls.exists()


@pytest.mark.commands
def test_root_on_debian_gets_the_packages(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 0, "apt-get")
    assert machine.output("g++", "slurmd") == ""
    install = machine.calls.read_text().splitlines()[1]
    assert install.endswith(" g++ slurmctld slurmd slurm-client libpmix-dev")


@pytest.mark.commands
def test_where_nothing_is_missing_nothing_is_printed(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 0, "g++", "apt-get")
    assert machine.output("g++") == ""
    assert not machine.calls.exists()


@pytest.mark.commands
def test_every_program_that_is_asked_for_has_packages(tmp_path: Path) -> None:
    scripts = MAKEFILE + (ROOT / "tests" / "browser" / "install_chromium.sh").read_text()
    programs = " ".join(re.findall(r"install_packages\.sh ([\w+ ]+)", scripts)).split()
    assert {*programs} == {"g++", "ip", "munged", "slurmd", "chromium"}
    machine = Machine(tmp_path, 1000, "dnf")
    for program in programs:
        assert "dnf install " in machine.output(program), program


@pytest.mark.parametrize(("uid", "expected"), [(0, "dnf install chromium"), (1000, "zypper install chromium")])
@pytest.mark.commands
def test_the_browsers_package_is_named_where_it_is_not_installed(tmp_path: Path, uid: int, expected: str) -> None:
    machine = Machine(tmp_path, uid, expected.partition(" ")[0])
    done = subprocess.run(
        ["/bin/sh", "tests/browser/install_chromium.sh"],
        cwd=ROOT,
        env={"PATH": str(machine.path)},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=True,
    )
    assert expected in done.stdout
    assert not machine.calls.exists()


@pytest.mark.parametrize("version", [(3, 6), (3, 9), (3, 14), (2, 7)])
def test_another_python_is_refused_on_one_line_with_packages_for_each_system(version: tuple[int, int]) -> None:
    line = complaint(version, True)
    assert line.startswith(f"Python {version[0]}.{version[1]}: ")
    remedies = {"apt-get install", "dnf install", "zypper install", "PYTHON="}
    assert remedies <= {*re.findall(r"\S+ install|PYTHON=", line)}
    assert "\n" not in line


def test_an_environment_of_another_python_is_not_used_in_silence() -> None:
    assert "make clean" in complaint((3, 12), True, existing="3.11")
    assert complaint((3, 12), True, existing="3.12") == ""


def test_a_python_without_venv_is_refused_with_its_package() -> None:
    assert "apt-get install python3.11-venv" in complaint((3, 11), False)
    assert [complaint((3, minor), True) for minor in range(10, 14)] == [""] * 4


@pytest.mark.parametrize("target", ["setup", "demo", "test"])
@pytest.mark.commands
def test_every_target_takes_python_and_stops_before_anything_is_made_with_a_wrong_one(
    tmp_path: Path, target: str
) -> None:
    """A Python that reports that it is 3.9, in a checkout that has no environment."""
    for name in ("Makefile", "requirements.lock", "requirements-dev.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    python = tmp_path / "python3.9"
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 2); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    python.chmod(0o755)
    for given, expected in ((str(python), "Python 3.9: "), ("python-that-is-not-there", "python-that-is-not-there")):
        done = subprocess.run(
            ["make", "-o", "packages", f"PYTHON={given}", target],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.splitlines()[0].startswith(expected)
        assert "Error 3" in done.stderr
        assert not (tmp_path / ".venv").exists()


def test_the_announcement_counts_the_runs_of_the_demo() -> None:
    (announced,) = re.findall(r"Measures (\d+) runs, (\d+) strategies on (\d+) models", MAKEFILE)
    flags = [configuration.flags for configuration in DEMO.configurations]
    runs, strategies, models = map(int, announced)
    assert runs == len([*DEMO.runs()])
    assert (strategies, models) == tuple(len({flag[name] for flag in flags}) for name in ("strategy", "model"))


def test_what_the_demo_measures_before_horovod_is_built_is_every_other_strategy_once() -> None:
    (repeats, pattern) = re.findall(r"--max-repeats (\d+) --only '(.*?)'", MAKEFILE)[0]
    (announced,) = re.findall(r"after (\d+) runs", MAKEFILE)
    first = [c for c in DEMO.configurations if fnmatchcase(c.name, pattern)]
    assert first == [c for c in DEMO.configurations if c.flags["strategy"] != "horovod"]
    assert int(announced) == len(first) * int(repeats)
