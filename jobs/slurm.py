"""What only Slurm's own commands can tell."""

from __future__ import annotations

import subprocess

from jobs.cluster import ClusterError


class SlurmFault(ClusterError):
    """Slurm's commands are missing or fail where Slurm started this process."""

    exit_code = 3


def expand_hosts(node_list: str) -> list[str]:
    """`node[2,9-10]` -> node2, node9, node10, in Slurm's order. Raises SlurmFault."""
    command = ["scontrol", "show", "hostnames", node_list]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except FileNotFoundError:
        raise SlurmFault(
            "Slurm started this process but scontrol is not on PATH: load the site's Slurm module"
        ) from None
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise SlurmFault(f"scontrol cannot expand the node list {node_list!r}: {said}") from None
    return done.stdout.split()
