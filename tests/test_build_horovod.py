from __future__ import annotations

import platform
import stat
import subprocess
from pathlib import Path

import pytest

from jobs import build_horovod
from jobs.build_horovod import CannotBuild, Mpi, build, cache_folder, find_mpi, settings

OPEN_MPI = Mpi("openmpi4.1.8", Path("/opt/mpi"))


def program(folder: Path, name: str, says: str = "") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("says", "name"),
    [("mpirun (Open MPI) 4.1.8", "openmpi4.1.8"), ("HYDRA build details:\n    Version: 4.2.1", "mpich4.2.1")],
)
@pytest.mark.commands
def test_the_first_mpi_on_the_path_is_found(tmp_path: Path, says: str, name: str) -> None:
    folder = tmp_path / "bin"
    program(folder, "mpirun", says)
    assert find_mpi(str(folder)) is None  # nothing to build with
    program(folder, "mpicxx")
    assert find_mpi(f"{folder}:/usr/bin:/bin") == Mpi(name, tmp_path)


def test_gloo_is_always_built_and_mpi_where_there_is_one() -> None:
    without, with_mpi = settings({}, None), settings({}, OPEN_MPI)
    assert without["HOROVOD_WITH_GLOO"] == with_mpi["HOROVOD_WITH_GLOO"] == "1"
    assert without["HOROVOD_WITHOUT_MPI"] == with_mpi["HOROVOD_WITH_MPI"] == "1"
    assert "HOROVOD_WITH_MPI" not in without
    assert settings({"HOROVOD_GPU_OPERATIONS": "NCCL", "HOME": "/"}, None)["HOROVOD_GPU_OPERATIONS"] == "NCCL"


def test_the_wheel_is_kept_apart_for_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"XDG_CACHE_HOME": "/caches"}

    def folder(tensorflow: str = "2.21.0", mpi: Mpi | None = OPEN_MPI, **more: str) -> Path:
        return cache_folder(env, tensorflow, mpi, settings(more, mpi))

    kept = folder()
    assert kept.parent == Path("/caches/trainscale/horovod-0.28.1")
    assert folder() == kept
    elsewhere = Mpi(OPEN_MPI.name, Path("/usr"))
    others = {folder("2.20.0"), folder(mpi=None), folder(mpi=elsewhere), folder(HOROVOD_GPU_OPERATIONS="NCCL")}
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    others.add(folder())
    assert len(others) == 5
    assert kept not in others


def test_a_user_without_a_home_is_told_what_to_set(homeless: None) -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/caches"}, "2.21.0", None, {}).is_relative_to("/caches")
    with pytest.raises(CannotBuild, match="XDG_CACHE_HOME"):
        cache_folder({}, "2.21.0", None, {})


def test_a_missing_compiler_is_named_with_its_package(tmp_path: Path) -> None:
    program(tmp_path, "make")
    with pytest.raises(CannotBuild) as caught:
        build({"PATH": str(tmp_path)}, {}, tmp_path / "cache")
    assert "a C++ compiler (apt-get install g++; dnf or zypper install gcc-c++)" in str(caught.value)
    assert "cmake" in str(caught.value)
    assert "make (" not in str(caught.value).replace("cmake (", "")
    assert not (tmp_path / "cache").exists()


def test_without_tensorflow_there_is_nothing_to_build_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_name: str) -> str:
        raise build_horovod.PackageNotFoundError

    monkeypatch.setattr(build_horovod, "version", missing)
    assert build_horovod.main([]) == 3
    assert capsys.readouterr().err.startswith("no Horovod: TensorFlow is not installed here")


def test_help_and_words_that_it_does_not_know_build_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_horovod, "install", lambda: pytest.fail("it builds"))
    with pytest.raises(SystemExit) as caught:
        build_horovod.main(["--help"])
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert f"--no-build-isolation horovod=={build_horovod.VERSION} " in said
    assert "PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels python -m jobs.build_horovod" in said
    assert build_horovod.main(["--prefix=/x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--prefix=/x" in line


def test_a_build_that_crashes_without_a_word_is_named_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, -11 if "-c" in words else 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build_horovod, "version", lambda _name: "2.21.0")
    monkeypatch.setattr(build_horovod, "find_mpi", lambda _path: None)
    monkeypatch.setattr(build_horovod, "build", lambda _env, _chosen, folder: folder / "horovod.whl")
    monkeypatch.setattr(build_horovod.subprocess, "run", run)
    assert build_horovod.main([]) == 3
    assert "no Horovod: it does not load: exit code -11 (delete " in capsys.readouterr().err
