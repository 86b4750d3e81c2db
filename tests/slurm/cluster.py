"""Starts and stops the daemons. Needs root with CAP_NET_ADMIN and what `make packages` installs."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BOUND_S = 20
_NET = "10.78.0"
_FIRST_PORT = 17_200

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
KillWait=5
NodeName=node[1-{nodes}] NodeAddr={net}.[1-{nodes}] Port=[{first}-{last}] CPUs={cpus} RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _run(*words: str, check: bool = True) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=BOUND_S, check=check).stdout


@dataclass
class SlurmCluster:
    """`nodes` nodes named node1, node2, ... whose files lie in `folder`."""

    folder: Path
    nodes: int = 2
    cpus: int = 2

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def srun(self, *words: str, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        command = ["srun", *words]
        env = env | self.env
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)

    def start(self) -> None:
        """Returns when every node is idle."""
        for name in ("state", "munge", *(f"tmp.node{number}" for number in self._numbers)):
            (self.folder / name).mkdir(parents=True)
        for path in (self.folder, *self.folder.parents):  # munge wants its socket to be reachable for everybody
            if path.is_relative_to("/tmp") and path != Path("/tmp"):  # noqa: S108
                path.chmod(0o755)
        hosts = [f"{_NET}.{number} node{number}\n" for number in self._numbers]
        (self.folder / "hosts").write_text(Path("/etc/hosts").read_text() + "".join(hosts))
        # Not used, but without it slurmd looks for a cgroup that a container lacks, and ends.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        conf = _CONF.format(
            folder=self.folder,
            net=_NET,
            controller=socket.gethostname(),
            port=_FIRST_PORT,
            first=_FIRST_PORT + 1,
            last=_FIRST_PORT + self.nodes,
            nodes=self.nodes,
            cpus=self.cpus,
        )
        (self.folder / "slurm.conf").write_text(conf)
        os.environ |= self.env
        self._start_munge()
        self._remove_network()  # of a test run that was killed
        _run("ip", "link", "add", "tsbridge", "type", "bridge")
        _run("ip", "addr", "add", f"{_NET}.254/24", "dev", "tsbridge")
        _run("ip", "link", "set", "tsbridge", "up")
        self._start_daemon("slurmctld")
        for number in self._numbers:
            self._start_node(number)
        deadline = time.monotonic() + BOUND_S
        while _run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() != str(self.nodes):
            assert time.monotonic() < deadline, _run("sinfo", "-N", "-l", check=False) + self._logs()
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends all jobs and daemons, by pid, and takes the network down."""
        _run("scancel", "--user=root", "--full", check=False)
        for file in (*self.folder.glob("slurmd.*.pid"), self.folder / "slurmctld.pid", self.folder / "munge/pid"):
            if file.exists():
                _end(int(file.read_text()))
        self._remove_network()
        os.environ.pop("SLURM_CONF", None)

    def _remove_network(self) -> None:
        for number in self._numbers:
            _run("ip", "link", "del", f"ts.{number}", check=False)
            _run("ip", "netns", "del", f"ts-{number}", check=False)
        _run("ip", "link", "del", "tsbridge", check=False)

    @property
    def _numbers(self) -> range:
        return range(1, self.nodes + 1)

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start_daemon("munged", *(f"--{option}={folder / name}" for option, name in files.items()))

    def _start_node(self, number: int) -> None:
        name, inside, outside = f"node{number}", f"ts-{number}", f"ts.{number}"
        _run("ip", "netns", "add", inside)
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", inside)
        _run("ip", "link", "set", outside, "master", "tsbridge", "up")
        _run("ip", "-n", inside, "addr", "add", f"{_NET}.{number}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _run("ip", "-n", inside, "link", "set", device, "up")
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
            # A daemon whose parent never waits for it stays a zombie: gone all the same.
            status = Path(f"/proc/{pid}/status")
            if not status.exists() or "\nState:\tZ" in status.read_text():
                return
            time.sleep(0.02)
