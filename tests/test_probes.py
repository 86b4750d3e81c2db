"""What `bench.doctor` asks the machine with, tried on the machine and on fakes of it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from bench import checks, probes
from bench.probes import Answer, own_folder, try_folder


@pytest.mark.commands
def test_commands_run_side_by_side_without_what_a_launcher_told_us() -> None:
    show = [sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))"]
    env = {"OMPI_COMM_WORLD_RANK": "3", "PMI_RANK": "3", "SLURM_PROCID": "3"}
    kept = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "SLURM_CONF": "/etc/slurm.conf", "HOME": "/home/me"}
    missing = ["/no/such/program"]
    answers = probes.ask({"show": show, "again": show, "missing": missing}, env | kept, 60)
    assert answers["show"].said == answers["again"].said
    assert not set(env) & set(answers["show"].said)
    assert kept.items() <= answers["show"].said.items()
    assert answers["missing"].trouble == "/no/such/program: No such file or directory"


@pytest.mark.commands
def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    child = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    answers = probes.ask({"hangs": ["sh", "-c", child], "dies": ["sh", "-c", "kill -ABRT $$"]}, dict(os.environ), 1)
    assert answers["hangs"] == Answer(None)
    assert answers["dies"].returncode == -signal.SIGABRT
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_addresses_that_can_and_cannot_be_listened_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str) -> str:
        if name == "nobody":
            raise OSError("unknown")
        return {"me": "127.0.0.1", "other": "192.0.2.77"}[name]

    monkeypatch.setattr(probes.socket, "gethostbyname", resolve)
    assert probes.named_address("me") == ("me", "127.0.0.1", None)
    assert probes.named_address("nobody") == ("nobody", None, None)
    assert probes.named_address("other")[:2] == ("other", "192.0.2.77")
    assert probes.named_address("other")[2]


@pytest.mark.parametrize(
    ("membership", "folder", "text", "bound"),
    [
        ("0::/job\n", "job", ("100", "40"), (100, 40)),
        ("0::/job/step\n", "job", ("100", "40"), (100, 40)),
        ("8:pids:/\n0::/\n", "pids", ("100", "40"), (100, 40)),
        ("8:cpuset:/job\n", "cpuset/job", ("100", "40"), None),
        ("0::/job\n", "job", ("max", "40"), None),
    ],
)
def test_control_groups_that_bound_threads(
    tmp_path: Path, membership: str, folder: str, text: tuple[str, str], bound: tuple[int, int] | None
) -> None:
    (tmp_path / "membership").write_text(membership)
    group = tmp_path / "fs" / folder
    group.mkdir(parents=True)
    (group / "pids.max").write_text(text[0] + "\n")
    (group / "pids.current").write_text(text[1] + "\n")
    found = probes.thread_bounds(tmp_path / "membership", tmp_path / "fs")
    assert found.pop("ulimit -u", (1, 1))[1] > 0
    assert found == ({f"{group}/pids.max": bound} if bound else {})


@pytest.mark.commands
def test_a_folder_is_tried_and_nothing_is_left(tmp_path: Path) -> None:
    with own_folder(tmp_path / "new" / "results") as (own, new):
        assert own.is_dir()
        assert new == [tmp_path / "new" / "results", tmp_path / "new"]
        assert try_folder(own) == (None, [1] * 50, 200)
    assert list(tmp_path.iterdir()) == []


def test_a_results_directory_that_was_there_stays(tmp_path: Path) -> None:
    with own_folder(tmp_path) as (own, new):
        assert (own.parent, new) == (tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_problem_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with own_folder(tmp_path / "file" / "results") as (own, _):
        assert try_folder(own) == ("cannot be written (Not a directory)", [], 0)
    assert (tmp_path / "file").is_file()


@pytest.mark.parametrize(
    ("sound", "broken", "verdict"),
    [
        ("os.O_EXCL", "0", "exclusive creation fails"),
        ("os.O_APPEND", "0", "lines that several processes appended arrived"),
    ],
)
@pytest.mark.commands
def test_a_file_system_that_does_not_keep_its_promises_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: str, broken: str, verdict: str
) -> None:
    assert sound in probes._RACE
    monkeypatch.setattr(probes, "_RACE", probes._RACE.replace(sound, broken))
    status, found, _ = checks.results(str(tmp_path), *try_folder(tmp_path), 200)
    assert status == "fail"
    assert verdict in found
