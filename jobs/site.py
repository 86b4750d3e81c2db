"""A site's settings, typed once: `~/.config/trainscale/site.toml`, or a file that --site names.

    partition = "gpu"
    account = "ai-42"
    gres = "gpu:4"
    modules = ["cuda/12.4"]
    extra_sbatch = ["--constraint=a100", "--reservation=bench"]
    environment = { NCCL_SOCKET_IFNAME = "ib0" }

Flags of the command line win; those that may be given several times are added.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import FlagCreatePairsOff, UseAppendAction

from results.command_line import Refused, file_words, value_of

PROFILE = Path("~/.config/trainscale/site.toml")

_LONGEST_WARNING_S = 65535
"""What Slurm allows."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """How jobs run on this cluster."""

    partition: str | None = None
    """Slurm partition."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    time: str | None = None
    """Time limit of a job, as sbatch takes it [minutes, or HH:MM:SS]. None is the partition's."""
    constraint: str | None = None
    """Features that nodes must have."""
    gres: str | None = None
    """Generic resources of each node, such as gpu:4."""
    cpus_per_task: int | None = None
    """CPUs for each task [CPUs]; without it many sites give a task one."""
    shared: FlagCreatePairsOff[bool] = False
    """Let other jobs run on the nodes; they are measured too."""
    extra_sbatch: UseAppendAction[tuple[str, ...]] = ()
    """One more option for sbatch, as in --extra-sbatch=--reservation=bench; may be given several times."""
    warn_s: int = 60
    """How long before its time limit a job is told, so that the run still records [s]."""
    modules: UseAppendAction[tuple[str, ...]] = ()
    """Environment module to load; may be given several times."""
    environment: UseAppendAction[tuple[str, ...]] = ()
    """Variable to set, NAME=VALUE, or in a profile a table of them; may be given several times."""
    python: str | None = None
    """The Python that holds TrainScale on the nodes. None is the one that runs this; in a container `python`."""
    launcher: Literal["srun", "mpirun"] = "srun"
    """What starts the processes of a run in an allocation; mpirun is Open MPI's."""
    mpi: str | None = None
    """What srun offers to MPI: none, pmi2, pmix. None is the site's default."""
    container: Path | None = None
    """Image that holds TrainScale, for every run [.sif file]."""
    container_command: Literal["apptainer", "singularity"] = "apptainer"
    """What runs the image."""
    bind: UseAppendAction[tuple[str, ...]] = ()
    """Folder for the container besides those of results, data and files of a run; may be given several times."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            words = value if isinstance(value, tuple) else [value]
            for word in words:
                # A line break would start a line of its own in a job script.
                if isinstance(word, str) and (not word or not word.isprintable()):
                    raise Refused(f"{each.name} is {word!r}: give printable text on one line")
        for pair in self.environment:
            if not re.match(r"[A-Za-z_]\w*=", pair, re.ASCII):
                raise Refused(f"environment is {pair!r}: give NAME=VALUE")
        if self.cpus_per_task is not None and self.cpus_per_task < 1:
            raise Refused(f"cpus_per_task is {self.cpus_per_task}: give a whole number of at least 1")
        if not 0 <= self.warn_s <= _LONGEST_WARNING_S:
            raise Refused(f"warn_s is {self.warn_s}: give seconds from 0 to {_LONGEST_WARNING_S}")


def profile_words(argv: Sequence[str]) -> list[str]:
    """The flags of the site's profile: of the file that --site names, else of PROFILE, if it exists. Raises Refused."""
    named = value_of(argv, "site")
    path = Path(named or os.path.expanduser(PROFILE))  # noqa: PTH111 (pathlib's raises for a user without a home)
    if named is None and not path.exists():
        return []
    known = [each.name for each in dataclasses.fields(Site)]
    return file_words(
        path, "site profile", known, lambda key: f"unknown setting {key!r}; a site has {', '.join(known)}", plain=False
    )
