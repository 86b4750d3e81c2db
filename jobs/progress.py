"""What a sweep says while it runs: a line for each run, and a bar with the time left where somebody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jobs.matrix import Run
from jobs.runners import Figures
from results.text import printable


class Tally:
    """Says how each run went, and remembers those to be tried again."""

    def __init__(self, total: int, console: Console, show: Callable[[str | None], None]) -> None:
        self._total, self._console, self._show = total, console, show
        self._settled = 0
        self.again: list[Run] = []
        """Runs that failed and are to be tried once more."""
        self.failed = 0
        """Runs that have failed for good."""

    def begin(self, run: Run) -> None:
        self._show(run.name)

    def end(self, run: Run, figures: Figures, *, again: bool) -> None:
        """`again`: a failure is not the last word."""
        ok = figures["status"] == "ok"
        said = f"{figures['images_per_s']:.1f} images/s" if ok else f"{figures['status']}: {figures['error']}"
        if not ok and again:
            self.again.append(run)
            said += "; once more later"
        else:
            self.failed += not ok
            self._settled += 1
            self._show(None)
        self.say(f"{self._settled:3d}/{self._total} {run.name}: {said}")

    def turns(self, runs: Sequence[Run], retries: int) -> Iterator[tuple[Sequence[Run], bool]]:
        """(runs to perform, is there another turn for those that fail)."""
        self.again = list(runs)
        while self.again and retries >= 0:
            turn, self.again = self.again, []
            yield turn, retries > 0
            retries -= 1

    def say(self, line: str) -> None:
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(total: int, console: Console) -> Iterator[Tally]:
    """The tally of so many runs. On a terminal a bar stands below its lines, with the time left and what runs now."""
    if not console.is_terminal:
        yield Tally(total, console, lambda _name: None)
        return
    columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    name_column = TextColumn("{task.description}", markup=False)
    # Once a second: the display shares the cores with what is being timed.
    with Progress(*columns, name_column, console=console, refresh_per_second=1) as progress:
        task = progress.add_task("", total=total)

        def show(name: str | None) -> None:
            if name is None:
                progress.advance(task)
            else:
                progress.update(task, description=name)

        yield Tally(total, console, show)
