"""Whether anything grows or stays behind in an hour of runs: `python -m tests.perf.soak`, or with `--minutes 10`.

Runs `jobs/sweeps/quick.toml` with repeats without end: half of the time as fresh processes, the other half as forks of
`bench.preload`, each one sweep, for what lives long is what can grow. Looks around after every run, ends the sweep as
Ctrl-C does, and prints a table in Markdown for each half. Exits 1 when memory or open files grew, a run failed or
something stayed behind, and 5 when there were too few runs to say.

Needs a machine on which nobody else trains: /dev/shm and System V memory are everyone's.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from scipy.stats import theilslopes

from results.exit_codes import ExitCode
from tests.benchmark import ROOT, clean_environment, running_benchmarks

QUICK = ROOT / "jobs" / "sweeps" / "quick.toml"
REPEATS = 1430
"""With the seven configurations of the quick sweep, 10,000 runs: more than there is time for."""
WARM = 5
"""Runs before the first figures: until then code is loaded and caches are filled."""
STAYS = 3
"""Looks in a row at which a thing must be there to count as left behind: what a run owns goes with it."""
MOST_GROWTH = 1.0
"""MiB in 100 runs that memory may grow by. The largest sweep that we test has 10,000 runs; its launcher would have 100
MiB more at its end, which no machine that trains will miss."""
SETTLES_S = 0.3
"""From the end of a run to the look: the next run has begun by then, and what it takes to start one is closed."""
ENDS_WITHIN_S = 60

Things = Mapping[str, set[str]]
"""Kind of thing -> names of those there are."""


@dataclass
class Look:
    """What one look found, after so many runs."""

    memory_mib: dict[str, float]
    """Process -> anonymous memory. Not what is its alone, for that changes with each fork that shares it."""
    open_files: dict[str, int]
    things: Things


@dataclass
class Soak:
    """One sweep that runs until its time is over."""

    folder: Path
    preload: bool
    process: subprocess.Popen[str]
    before: Things
    looks: list[Look] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Looks around at the end of every run until the time is over, and ends the sweep."""
        deadline = time.monotonic() + seconds
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not re.match(r" *\d+/\d+ ", line):
                continue
            if "images/s" not in line:
                self.failures.append(line.strip())
            time.sleep(SETTLES_S)
            self.looks.append(self.look())
            if time.monotonic() > deadline:
                break
        # To all of the group, as a terminal does; workers have sessions of their own.
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.communicate(timeout=ENDS_WITHIN_S)
        if self.process.returncode != ExitCode.SIGINT:
            self.failures.append(f"the sweep ended with {self.process.returncode}")

    def look(self) -> Look:
        launcher = psutil.Process(self.process.pid)
        lasting = {"jobs.sweep": launcher.pid}
        if self.preload:
            (lasting["bench.preload"],) = (child.pid for child in launcher.children())
        return Look(
            {name: anonymous_mib(pid) for name, pid in lasting.items()},
            {name: sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for name, pid in lasting.items()},
            things(self.folder, launcher),
        )


def stayed(looks: Sequence[Look], before: Things, kind: str) -> set[str]:
    """What was there at STAYS of these looks in a row, and not before the sweep."""
    rows = [looks[first : first + STAYS] for first in range(len(looks) - STAYS + 1)]
    return set().union(*(set.intersection(*(look.things[kind] for look in row)) for row in rows)) - before[kind]


def anonymous_mib(pid: int) -> float:
    (kib,) = re.findall(r"^Anonymous: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(kib) / 1024


def things(folder: Path, launcher: psutil.Process | None) -> Things:
    """What a run could leave on this machine. Processes and zombies only where they are no longer the launcher's, or no
    longer a process."""
    family = {each.pid: each for each in (launcher, *launcher.children(recursive=True))} if launcher else {}
    ours = running_benchmarks()
    strays = {pid: command for pid, command in ours.items() if pid not in family}
    hidden = [path for path in (folder / "data").glob(".*/*") if path.parent.name != ".sweeps"]
    return {
        "processes without a launcher": {f"{pid} {command}" for pid, command in strays.items()},
        "zombies": {str(pid) for pid, child in family.items() if _is_zombie(child)},
        "listening ports": {port for pid in ours for port in _listening(pid)},
        "files in /dev/shm": {path.name for path in Path("/dev/shm").iterdir()},  # noqa: S108
        "System V memory, semaphores, queues": set(_system_v()),
        "temporary files": {str(path) for path in (folder / "tmp").rglob("*")},
        "shards": {str(path) for path in hidden},
    }


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _listening(pid: int) -> Iterator[str]:
    try:
        for connection in psutil.Process(pid).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                yield f"{connection.laddr.port} of {pid}"
    except psutil.Error:
        return


def _system_v() -> Iterator[str]:
    for path in Path("/proc/sysvipc").iterdir():
        for line in path.read_text().splitlines()[1:]:
            yield f"{path.name} {line.split()[1]}"


@contextmanager
def soak(folder: Path, *, preload: bool) -> Iterator[Soak]:
    """The quick sweep under way, with results and temporary files in `folder`; nothing of it outlives the block."""
    (folder / "tmp").mkdir(parents=True)
    before = things(folder, None)
    file = folder / "soak.toml"
    text = re.sub(r"^repeats = \d+$", f"repeats = {REPEATS}", QUICK.read_text(), flags=re.MULTILINE)
    file.write_text(f"preload = {str(preload).lower()}\n{text}")
    with subprocess.Popen(
        # What a script starts in the background ignores Ctrl-C.
        ["env", "--default-signal=INT", sys.executable, "-m", "jobs.sweep", file, f"--results-dir={folder / 'data'}"],
        cwd=ROOT,
        env=clean_environment() | {"TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Soak(folder, preload, process, before)
        finally:
            process.kill()
            for pid in running_benchmarks():
                os.kill(pid, signal.SIGKILL)


def growth(values: Sequence[float]) -> tuple[float, float, float]:
    """(estimate, low, high) of the slope over 100 runs: the median of the slopes between any two, which a page more or
    less now and then does not move, and its interval of 95%."""
    found = theilslopes(values)
    return 100 * found.slope, 100 * found.low_slope, 100 * found.high_slope


def judge(all_looks: Sequence[Look], before: Things, after: Things, failures: list[str]) -> ExitCode:
    """Prints the table of a sweep that has ended, of which `after` was left, and says what it means."""
    looks, failures = all_looks[WARM - 1 :], list(failures)
    if len(looks) < 3 * STAYS:
        print("too few runs to say anything: give it more --minutes")
        return ExitCode.INCONCLUSIVE
    print(f"| | after {WARM} runs | in the middle | at the end | in 100 runs (95%) |\n|---|---|---|---|---|")
    unsure = []
    for name in looks[0].memory_mib:
        values = [look.memory_mib[name] for look in looks]
        slope, low, high = growth(values)
        shown = " | ".join(f"{values[place]:.1f}" for place in (0, len(values) // 2, -1))
        print(f"| memory of {name}, MiB | {shown} | {slope:+.2f} ({low:+.2f} to {high:+.2f}) |")
        if low > MOST_GROWTH:
            failures.append(f"memory of {name} grows by {slope:.2f} MiB in 100 runs, more than {MOST_GROWTH}")
        elif max(high, 100 * (values[-1] - values[0]) / len(values)) > MOST_GROWTH:  # one jump moves no median
            unsure.append(name)
        lasting = [min(look.open_files[name] for look in part) for part in _parts(looks)]
        print(f"| open files of {name} | {' | '.join(map(str, lasting))} | |")
        if lasting[-1] > lasting[0]:
            failures.append(f"{name} has {lasting[-1] - lasting[0]} more open files at the end")
    for kind in before:
        counts = (str(len(stayed(part, before, kind))) for part in _parts(looks))
        print(f"| {kind} that stayed | {' | '.join(counts)} | |")
        left = stayed(all_looks, before, kind) | (after[kind] - before[kind])
        failures += [f"left behind, {kind}: {name}" for name in sorted(left)]
    print()
    for failure in failures:
        print(failure)
    if failures:
        return ExitCode.REGRESSION
    if unsure:
        print(f"memory of {' and '.join(unsure)} may grow by more than {MOST_GROWTH} MiB: give it more --minutes")
        return ExitCode.INCONCLUSIVE
    print(f"nothing stayed behind; memory grows by less than {MOST_GROWTH} MiB in 100 runs")
    return ExitCode.OK


def _parts(looks: Sequence[Look]) -> tuple[Sequence[Look], ...]:
    """STAYS looks at the start, in the middle and at the end."""
    middle = (len(looks) - STAYS) // 2
    return looks[:STAYS], looks[middle : middle + STAYS], looks[-STAYS:]


def main(argv: Sequence[str]) -> int:
    """Prints a table for each half and returns the worse exit code: 1 before 5 before 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.soak")
    parser.add_argument("--minutes", type=float, default=60, help="how long both halves take together")
    seconds = 60 * parser.parse_args(argv).minutes
    codes = []
    for preload in (False, True):
        with tempfile.TemporaryDirectory(prefix="soak-") as name, soak(Path(name), preload=preload) as sweep:
            sweep.run(seconds / 2)
            print(f"\n{'Forks of bench.preload' if preload else 'Fresh processes'}, {len(sweep.looks)} runs:\n")
            codes.append(judge(sweep.looks, sweep.before, things(sweep.folder, None), sweep.failures))
    return next((code for code in (ExitCode.REGRESSION, ExitCode.INCONCLUSIVE) if code in codes), ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
