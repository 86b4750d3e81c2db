"""Every fault under every strategy that it applies to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.faults import outside
from tests.faults.outside import Act

MWMS = ("--strategy=mwms", "--num-workers=2")
HOROVOD = ("--strategy=horovod", "--num-workers=2")
MIRRORED = ("--strategy=mirrored", "--devices-per-worker=2")
PS = ("--strategy=ps", "--num-workers=1")
PS_COORDINATOR, PS_WORKER, PS_SERVER = range(3)
BOUND_S = 6
HASTY = (f"--step-timeout={BOUND_S}",)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault under one strategy; its outcome stands in docs/faults.md."""

    fault: str
    strategy: str
    """As the table calls it, with the process that is hit."""
    flags: tuple[str, ...]
    inside: str = ""
    """What the process does whose forks train: a call of `tests.faults.inside`."""
    outside: Act | None = None
    """What happens to the run once it is in its timed loop."""
    start: Literal["alone", "tasks", "mpirun"] = "alone"
    """By bench.run's own launcher, as tasks by TF_CONFIG, or under mpirun."""
    absent: int | None = None
    """The task that is never started."""
    writers: int = 2
    """The ranks whose iterations are waited for before something happens."""
    kept: int = 0
    """Iterations that every one of them has completed before the fault."""
    small_disk: bool = False
    """The results are on a file system of their own, with room for little."""
    clock: bool = False
    """The time of day can be set for these processes alone."""
    clean: bool = True
    """The runs that were in the store before are left as they were."""

    @property
    def mounts(self) -> bool:
        """Only root may do it."""
        return self.small_disk or self.outside is outside.directory_is_read_only

    @property
    def name(self) -> str:
        return f"{self.fault}, {self.strategy}"


def cases() -> Iterator[Case]:
    yield from _never_there()
    yield from _killed()
    yield from _hanging()
    yield from _told_to_stop()
    yield from _out_of_memory()
    yield from _storage()
    yield from _unlike()


def _never_there() -> Iterator[Case]:
    fault, hasty = "a task is never started", ("--rendezvous-timeout=4",)
    tasks = {"mwms": MWMS[:1], "horovod (Gloo)": HOROVOD[:1]}
    for strategy, flags in tasks.items():
        yield Case(fault=fault, strategy=f"{strategy}, rank 1", flags=flags + hasty, start="tasks", absent=1)
    for role, rank in (("worker", PS_WORKER), ("server", PS_SERVER)):
        yield Case(fault=fault, strategy=f"ps, the {role}", flags=PS[:1] + hasty, start="tasks", absent=rank)
    yield Case(
        fault="a process starts and then does nothing",
        strategy="mwms, rank 1",
        flags=MWMS + hasty,
        inside="never_start(1)",
    )


def _killed() -> Iterator[Case]:
    for phase, fault in (("rendezvous", "killed (SIGKILL) in the rendezvous"), ("trace", "killed in warm-up")):
        for strategy, flags in (("mwms", MWMS), ("horovod (Gloo)", HOROVOD)):
            yield Case(fault=fault, strategy=f"{strategy}, rank 1", flags=flags, inside=f"entering('{phase}', 1, kill)")
        hit = {"rendezvous": (("server", PS_SERVER), ("worker", PS_WORKER)), "trace": (("coordinator", 0),)}
        for role, rank in hit[phase]:
            yield Case(fault=fault, strategy=f"ps, the {role}", flags=PS, inside=f"entering('{phase}', {rank}, kill)")
    yield Case(fault="killed in warm-up", strategy="mirrored", flags=MIRRORED, inside="entering('trace', 0, kill)")
    fault = "killed in the timed loop"
    yield from _in_the_loop(fault, lambda rank: outside.to_rank(rank, signal.SIGKILL))
    for strategy, flags in (("mwms, rank 1", MWMS), ("horovod (Gloo), rank 1", HOROVOD)):
        yield Case(
            fault="killed while it writes an iteration", strategy=strategy, flags=flags, inside="half_a_line(1)", kept=5
        )
    for strategy, flags in (("mwms, rank 1", MWMS), ("horovod (Gloo), rank 1", HOROVOD)):
        yield Case(
            fault="killed with its launcher, as when a node dies",
            strategy=strategy,
            flags=flags[:1],
            start="tasks",
            outside=outside.node_is_gone(1),
            kept=5,
        )
    yield Case(
        fault="the launcher is killed",
        strategy="mwms",
        flags=MWMS,
        outside=outside.to_launcher(signal.SIGKILL),
        kept=5,
    )
    yield Case(
        fault="the launcher is killed while it writes the tables",
        strategy="mwms",
        flags=(*MWMS, "--num-iters=3"),
        inside="launcher_killed_while_it_commits()",
        kept=5,
    )


def _hanging() -> Iterator[Case]:
    for strategy, flags in (("mwms, rank 1", MWMS), ("horovod (Gloo), rank 1", HOROVOD), ("ps, the worker", PS)):
        yield Case(
            fault="hangs (SIGSTOP) in the rendezvous",
            strategy=strategy,
            flags=(*flags, "--rendezvous-timeout=4"),
            inside="entering('rendezvous', 1, stop)",
        )
    yield from _in_the_loop("hangs in the timed loop", lambda rank: outside.to_rank(rank, signal.SIGSTOP), HASTY)
    for strategy, flags in (("mwms, rank 1", MWMS), ("horovod (Gloo), rank 1", HOROVOD)):
        yield Case(
            fault="hangs in native code that holds Python's lock",
            strategy=strategy,
            flags=flags + HASTY,
            inside="in_step(1, lambda steps: hold_the_lock())",
            kept=5,
        )
    yield Case(
        fault="hangs when all is measured",
        strategy="mwms, all",
        flags=(*MWMS, "--num-iters=3", "--rendezvous-timeout=4"),
        inside="hang_at_the_end()",
        kept=5,
    )
    for strategy, flags in (("mwms, rank 1", MWMS), ("horovod (Gloo), rank 1", HOROVOD)):
        yield Case(
            fault="does nothing for a second (a straggler)",
            strategy=strategy,
            flags=(*flags, "--num-iters=200"),
            outside=outside.for_a_second(1),
            kept=5,
        )


def _told_to_stop() -> Iterator[Case]:
    fault, some = "one gets SIGTERM", ("mwms", "ps, the w")
    yield from _in_the_loop(fault, lambda rank: outside.to_rank(rank, signal.SIGTERM), only=some)
    for strategy, flags, ranks in (("mwms", MWMS, 2), ("horovod (Gloo)", HOROVOD, 2), ("ps", PS, 3)):
        yield Case(
            fault="all get SIGTERM, as at a job's time limit",
            strategy=strategy,
            flags=flags,
            writers=1 if flags is PS else 2,
            outside=outside.to_all(signal.SIGTERM, ranks),
            kept=5,
        )
        yield Case(
            fault="Ctrl-C (SIGINT) at the terminal",
            strategy=strategy,
            flags=flags,
            writers=1 if flags is PS else 2,
            outside=outside.to_launcher(signal.SIGINT),
            kept=5,
        )
    yield Case(
        fault="--timeout passes",
        strategy="mirrored",
        flags=(*MIRRORED, "--timeout=1000"),
        inside="time_is_up('timed', 0)",
        writers=1,
    )


def _out_of_memory() -> Iterator[Case]:
    for strategy, flags, rank in (("mwms, rank 1", MWMS, 1), ("mirrored", MIRRORED, 0)):
        for fault, act in (
            ("may have no more memory (RLIMIT_AS)", "memory_is_limited"),
            ("GPU memory is out (TensorFlow's error)", "device_memory_is_out"),
        ):
            call = f"in_step({rank}, {act})"
            yield Case(fault=fault, strategy=strategy, flags=flags, inside=call, writers=1 + rank, kept=5)


def _storage() -> Iterator[Case]:
    shared = {"strategy": "mwms", "flags": MWMS, "kept": 5}
    yield Case(fault="the disk is full", outside=outside.disk_is_full, small_disk=True, **shared)  # type: ignore[arg-type]
    yield Case(fault="the quota is used up", inside="over_quota(1)", **shared)  # type: ignore[arg-type]
    yield Case(
        fault="the results directory is removed",
        outside=outside.directory_is_removed,
        clean=False,
        **shared | {"flags": (*MWMS, "--num-iters=300")},  # type: ignore[arg-type]
    )
    yield Case(
        fault="the results directory becomes read-only",
        outside=outside.directory_is_read_only,
        **shared | {"flags": (*MWMS, "--num-iters=300")},  # type: ignore[arg-type]
    )


def _unlike() -> Iterator[Case]:
    # MultiWorkerMirroredStrategy takes the jump for an hour without a sign of life of its peers.
    longer = "--num-iters=300"
    for strategy, flags, writers in (("mirrored", (*MIRRORED, longer), 1), ("mwms", MWMS, 2), ("ps", PS, 1)):
        yield Case(
            fault="the time of day jumps by an hour, time and again",
            strategy=strategy,
            flags=flags,
            outside=outside.clock_is_set,
            clock=True,
            writers=writers,
            kept=5,
        )
    for strategy, flags in (("mwms, rank 1", MWMS), ("horovod (Gloo), rank 1", HOROVOD)):
        yield Case(fault="has another TensorFlow", strategy=strategy, flags=flags, inside="other_tensorflow(1)")
        yield Case(
            fault="its loss is no number",
            strategy=strategy,
            flags=flags,
            inside="in_step(1, loss_is_no_number)",
            kept=5,
        )


def _in_the_loop(
    fault: str, act: Callable[[int], Act], flags: tuple[str, ...] = (), only: tuple[str, ...] = ("",)
) -> Iterator[Case]:
    """A fault that can hit every kind of process in its timed loop."""
    hit = [
        ("mwms, rank 1", MWMS, 1, 2, "alone"),
        ("horovod (Gloo), rank 1", HOROVOD, 1, 2, "alone"),
        ("horovod (MPI), rank 1", HOROVOD[:1], 1, 2, "mpirun"),
        ("mirrored", MIRRORED, 0, 1, "alone"),
        ("ps, the coordinator", PS, PS_COORDINATOR, 1, "alone"),
        ("ps, the worker", PS, PS_WORKER, 1, "alone"),
        ("ps, the server", PS, PS_SERVER, 1, "alone"),
    ]
    for strategy, of_strategy, rank, writers, start in hit:
        if strategy.startswith(only):
            yield Case(
                fault=fault,
                strategy=strategy,
                flags=of_strategy + flags,
                outside=act(rank),
                start=start,  # type: ignore[arg-type]
                writers=writers,
                kept=5,
            )
