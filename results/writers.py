"""Which process wrote something, and whether it lives: what tells a run that goes on from one that was lost."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def myself() -> dict[str, Any]:
    """This process, so that it is known again: a process number is given to others later."""
    return {
        "hostname": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "start_ticks": _state_and_start(os.getpid())[1],
    }


def lives(writer: Mapping[str, Any]) -> bool | None:
    """Whether the process that `myself` described still runs; None when it ran where we cannot look."""
    if writer.get("machine") != _machine():
        return None
    pid = int(writer["pid"])
    try:
        state, start_ticks = _state_and_start(pid)
    except ProcessLookupError:
        return None if _hidden(pid) else False
    return state not in "ZX" and start_ticks == writer["start_ticks"]


def _hidden(pid: int) -> bool:
    """Another user's process, of which this system shows nothing but that it is there."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False


def _machine() -> str:
    """The boot of a kernel, and the namespace in which its process numbers hold."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"


def _state_and_start(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    return fields[0], int(fields[19])
