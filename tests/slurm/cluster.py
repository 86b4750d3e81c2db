"""Starts and stops the daemons. Needs root with CAP_NET_ADMIN and what `make packages` installs."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmark import ROOT

BOUND_S = 20

# One `key=value` a line, else Slurm takes the rest of the line for the value.
_CONF = """\
ClusterName=trainscale
SlurmctldHost={controller}({net}.254)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
MailProg=/bin/true
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/tmp.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0
ReturnToService=2
KillWait=30
GresTypes=gpu
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
NodeName=node[1-{nodes}] NodeAddr={net}.[1-{nodes}] Port=[{first}-{last}] CPUs={cpus} RealMemory=4000 Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
PartitionName=closed Nodes=ALL State=DOWN
"""


def claim_network() -> int:
    """The number of a network that no other cluster has, be it of a test run that was killed.

    Its bridge is what claims it: of several clusters that start at the same time, one creates it.
    """
    for number in range(64, 128):
        with contextlib.suppress(OSError, subprocess.CalledProcessError), socket.socket() as port:
            port.bind(("", _port(number)))
            _run("ip", "link", "add", _bridge(number), "type", "bridge")
            return number
    raise AssertionError("all networks are taken")


def _port(network: int) -> int:
    return 10_000 + 100 * network


def _bridge(network: int) -> str:
    return f"ts{network}"


def _run(*words: str, check: bool = True) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=BOUND_S, check=check).stdout


@dataclass
class SlurmCluster:
    """`nodes` nodes named node1, node2, ... whose files lie in `folder`, with 10.`network`.0.1, ... for addresses."""

    folder: Path
    network: int = field(default_factory=claim_network)
    """Clusters on one machine need different ones."""
    nodes: int = 12
    cpus: int = 4
    gpus: int = 2

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(
        self, *words: str, env: Mapping[str, str] = os.environ, timeout: float = BOUND_S, folder: Path = ROOT
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of the cluster's user."""
        return subprocess.run(
            words, env={**env, **self.env}, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder
        )

    def srun(self, *words: str, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        return self.call("srun", *words, env=env, timeout=timeout)

    def sbatch(
        self, *options: str, script: str, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs a bash script as a job to its end; its output, and the exit code that Slurm tells of it."""
        file = self.folder / "job.sh"
        file.write_text(f"#!/bin/bash\n{script}")
        output = self.folder / "job.out"
        submitted = self.call(
            "sbatch", "--parsable", f"--output={output}", *options, str(file), env=env, timeout=BOUND_S
        )
        assert submitted.returncode == 0, submitted.stderr
        state, code = self.wait_for(submitted.stdout.strip(), timeout)
        return subprocess.CompletedProcess(state, code, output.read_text())

    def wait_for(self, job: str, timeout: float) -> tuple[str, int]:
        """(state, exit code) of a job when it has ended."""
        deadline = time.monotonic() + timeout
        while True:
            shown = _run("scontrol", "--oneliner", "show", "job", job)
            state, code, signum = re.findall(r" JobState=(\w+) .* ExitCode=(\d+):(\d+) ", shown)[0]
            if state not in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING"):
                return state, int(code) or (128 + int(signum) if int(signum) else 0)
            assert time.monotonic() < deadline, shown
            time.sleep(0.1)

    def end_jobs(self) -> None:
        """Ends every job, and returns when none is left."""
        _run("scancel", "--user=root", "--full", check=False)
        deadline = time.monotonic() + BOUND_S
        while _run("squeue", "--noheader", check=False):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def start(self) -> None:
        """Returns when every node is idle."""
        for name in ("state", "munge", *(f"tmp.node{number}" for number in self._numbers)):
            (self.folder / name).mkdir(parents=True)
        for path in (self.folder, *self.folder.parents):  # munge wants its socket to be reachable for everybody
            if path.is_relative_to("/tmp") and path != Path("/tmp"):  # noqa: S108
                path.chmod(0o755)
        hosts = [f"{self._net}.{number} node{number}\n" for number in self._numbers]
        (self.folder / "hosts").write_text(Path("/etc/hosts").read_text() + "".join(hosts))
        # Not used, but without it slurmd looks for a cgroup that a container lacks, and ends.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        conf = _CONF.format(
            folder=self.folder,
            net=self._net,
            controller=socket.gethostname(),
            port=_port(self.network),
            first=_port(self.network) + 1,
            last=_port(self.network) + self.nodes,
            nodes=self.nodes,
            cpus=self.cpus,
            gpus=self.gpus,
        )
        (self.folder / "slurm.conf").write_text(conf)
        os.environ |= self.env
        self._make_gpus()
        self._start_munge()
        _run("ip", "addr", "add", f"{self._net}.254/24", "dev", _bridge(self.network))
        _run("ip", "link", "set", _bridge(self.network), "up")
        self._start_daemon("slurmctld")
        for number in self._numbers:
            self._start_node(number)
        deadline = time.monotonic() + BOUND_S
        while _run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() != str(self.nodes):
            assert time.monotonic() < deadline, _run("sinfo", "-N", "-l", check=False) + self._logs()
            time.sleep(0.1)

    def kill_controller(self) -> None:
        """As if its machine had died."""
        _kill([int((self.folder / "slurmctld.pid").read_text())])

    def restart_controller(self) -> None:
        """Returns when it answers."""
        self._start_daemon("slurmctld")
        deadline = time.monotonic() + BOUND_S
        while "UP" not in _run("scontrol", "ping", check=False):
            assert time.monotonic() < deadline, self._logs()
            time.sleep(0.1)

    def kill_node(self, name: str) -> None:
        """As if its power had failed, and the controller had found out."""
        number = name.removeprefix("node")
        _kill([int(pid) for pid in _run("ip", "netns", "pids", f"ts{self.network}-{number}").split()])
        _run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def restart_node(self, name: str) -> None:
        """Returns when jobs can run there."""
        self._start_slurmd(int(name.removeprefix("node")))
        deadline = time.monotonic() + BOUND_S
        while "idle" not in _run("sinfo", "-h", "-n", name, "-o", "%T"):
            assert time.monotonic() < deadline, self._logs()
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends all jobs and daemons, by pid, and takes the network down."""
        with contextlib.suppress(AssertionError):  # of a cluster that never started, say
            self.end_jobs()
        for file in (*self.folder.glob("slurmd.*.pid"), self.folder / "slurmctld.pid", self.folder / "munge/pid"):
            if file.exists():
                _end(int(file.read_text()))
        self._remove_network()
        os.environ.pop("SLURM_CONF", None)

    def _remove_network(self) -> None:
        for number in self._numbers:
            _run("ip", "link", "del", f"ts{self.network}.{number}", check=False)
            _run("ip", "netns", "del", f"ts{self.network}-{number}", check=False)
        _run("ip", "link", "del", _bridge(self.network), check=False)

    @property
    def _net(self) -> str:
        return f"10.{self.network}.0"

    @property
    def _numbers(self) -> range:
        return range(1, self.nodes + 1)

    def _make_gpus(self) -> None:
        """Devices that the scheduler counts and hands out as GPUs; no driver knows them."""
        lines = []
        for number in range(self.gpus):
            device = self.folder / f"gpu{number}"
            os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
            lines.append(f"Name=gpu File={device}\n")
        (self.folder / "gres.conf").write_text("".join(lines))

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start_daemon("munged", *(f"--{option}={folder / name}" for option, name in files.items()))

    def _start_node(self, number: int) -> None:
        inside, outside = f"ts{self.network}-{number}", f"ts{self.network}.{number}"
        _run("ip", "netns", "add", inside)
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", inside)
        _run("ip", "link", "set", outside, "master", _bridge(self.network), "up")
        _run("ip", "-n", inside, "addr", "add", f"{self._net}.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _run("ip", "-n", inside, "link", "set", device, "up")
        self._start_slurmd(number)

    def _start_slurmd(self, number: int) -> None:
        name, inside = f"node{number}", f"ts{self.network}-{number}"
        hosts = shlex.quote(str(self.folder / "hosts"))
        own = f"hostname {name} && mount --bind {hosts} /etc/hosts && exec slurmd -N {name}"
        # Not `ip netns exec`, which hides /sys/fs/cgroup from slurmd.
        self._start_daemon("nsenter", f"--net=/run/netns/{inside}", "unshare", "-m", "-u", "sh", "-c", own)

    def _start_daemon(self, *words: str) -> None:
        # Daemons keep what they inherit: files, not pipes that somebody waits for.
        with (self.folder / "daemons.log").open("a") as log:
            command: Sequence[str] = words
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=BOUND_S, check=True)

    def _logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))


def _end(pid: int) -> None:
    for signum, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience_s
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return
        while time.monotonic() < deadline:
            if _is_gone(pid):
                return
            time.sleep(0.02)


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + BOUND_S
    while not all(map(_is_gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_gone(pid: int) -> bool:
    """A daemon whose parent never waits for it stays a zombie: gone all the same."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    return True
