"""Launchers in forks of one process that has loaded TensorFlow, the way `bench.preload` makes them for a sweep.

A case then costs what it does, not what loading costs. `python -m tests.forks FD` serves a socket.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.preload import prepare, start_in_fork

_LONGEST = 1 << 17
"""Bytes of a request."""

_NUMBER = 8
"""Bytes of a number that the server answers."""


class Forked:
    """A launcher, with what the matrix needs of a subprocess.Popen."""

    def __init__(self, control: socket.socket, request: Mapping[str, object]) -> None:
        self._said = [tempfile.TemporaryFile("w+") for _ in ("stdout", "stderr")]  # noqa: SIM115
        self._status, status = os.pipe()
        socket.send_fds(control, [json.dumps(request).encode()], [status, *(file.fileno() for file in self._said)])
        os.close(status)
        self.returncode: int | Any = None
        self.pid = self._number()

    def _number(self) -> int:
        number = os.read(self._status, _NUMBER)
        assert number, "the fork server has failed"
        return int.from_bytes(number, sys.byteorder, signed=True)

    def poll(self) -> int | None:
        return self._wait(0)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = self._number()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        if self._wait(timeout) is None:
            raise subprocess.TimeoutExpired("a forked launcher", timeout or 0)
        for file in self._said:
            file.seek(0)
        stdout, stderr = (file.read() for file in self._said)
        return stdout, stderr

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Forks launchers. Its process has one thread, which this one need not have."""

    def __enter__(self) -> ForkServer:
        # Not at the top: pandas and NumPy start threads, and the server must have one.
        from tests.benchmark import ROOT, clean_environment

        # A packet is a request, whoever else sends one.
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait()

    def start(self, argv: Sequence[str], env: Mapping[str, str], folder: Path, patch: str) -> Forked:
        """`bench.run` with these arguments and this environment, in a folder, after a call of `tests.faults.inside`."""
        return Forked(self._control, {"argv": argv, "env": env, "folder": str(folder), "patch": patch})


def _serve(control: socket.socket) -> None:
    prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launchers
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who waits for a launcher
    while (received := socket.recv_fds(control, _LONGEST, 3))[0]:
        message, fds = received[:2]
        if os.fork() == 0:
            _wait_for_launcher(json.loads(message), *fds)
            os._exit(0)
        for fd in fds:
            os.close(fd)


def _wait_for_launcher(request: Mapping[str, Any], status: int, stdout: int, stderr: int) -> None:
    """Becomes what a launcher is to be, starts it as a fork, and tells its id and then how it ended."""
    from tests.faults import inside

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    exec(request["patch"], vars(inside))  # noqa: S102
    pid = start_in_fork(request["argv"])
    os.write(status, pid.to_bytes(_NUMBER, sys.byteorder))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(status, code.to_bytes(_NUMBER, sys.byteorder, signed=True))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
