"""The configurations as a table: the same cells for the terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from analysis import labels
from analysis.configurations import PREDICTED, Configuration
from analysis.metrics import METRICS, gib, number
from analysis.scaling import RATE, Standing
from analysis.stats import Interval
from analysis.text import some
from results.text import printable

HEADINGS = (
    "workload",
    "strategy",
    "devices",
    "runs",
    "images/s",
    "95% interval",
    "images/s/device",
    "efficiency",
    "its interval",
    "data wait",
    "process mem",
    "alloc peak",
)

_LEARNED = ("accuracy", "time to accuracy", "its 95% interval")
_FURTHER = ("predicted", "MFU", *_LEARNED)
"""Shown where they are known of some configuration."""

TEXT_COLUMNS = 2
"""The first ones, which hold words."""

_NAMES = (1, 2, 3)
"""Places of strategy, devices and runs."""

_SHOWN = 10
"""Names in a note."""

Cell = tuple[str, float | None]
"""What is shown, and the number that it is sorted by; None for words and for what is unknown."""


def headings(standings: Sequence[Standing]) -> tuple[str, ...]:
    """HEADINGS, and what else is known of these configurations."""
    known = [_further(standing.configuration) for standing in standings]
    return *HEADINGS, *(name for name in _FURTHER if any(cells[name] != _UNKNOWN for cells in known))


def cells(standing: Standing, series: str, shown: Sequence[str] = HEADINGS) -> tuple[Cell, ...]:
    """One configuration, in the order of `headings`, of which `shown` are wanted."""
    one = standing.configuration
    count, rate, efficiency = one.setup["num_devices"], one.typical(RATE), standing.efficiency
    ok, failed = len(one.run_ids), len(one.failures)
    wait = one.share("data_wait_share")
    return (
        (printable(one.workload), None),
        (printable(series), None),
        (printable(labels.devices(one.setup)), count),
        (f"{ok} + {failed} failed" if failed else str(ok), ok),
        (number(rate.value), rate.value) if rate else ("unreadable" if ok else "failed", None),
        _span(rate, number),
        (number(rate.value / count), rate.value / count) if rate and count else _UNKNOWN,
        (f"{efficiency.value:.0%}", efficiency.value) if efficiency else _UNKNOWN,
        _span(efficiency, "{:.0%}".format),
        (f"{wait:.1%}", wait) if wait is not None else _UNKNOWN,
        _memory(one.typical("peak_rss_bytes")),
        _memory(one.typical("framework_peak_mem_bytes")),
        *(cell for name, cell in _further(one).items() if name in shown),
    )


def _further(one: Configuration) -> dict[str, Cell]:
    predicted, measured, mfu = one.typical(PREDICTED), one.typical("framework_peak_mem_bytes"), one.typical("mfu")
    ratio = f" ({predicted.value / measured.value:.0%})" if predicted and measured else ""
    return {
        "predicted": (f"{gib(predicted.value)}{ratio}", predicted.value) if predicted else _UNKNOWN,
        "MFU": (METRICS["mfu"].text(mfu.value), mfu.value) if mfu else _UNKNOWN,
        **dict(zip(_LEARNED, _learned(one), strict=True)),
    }


def _learned(one: Configuration) -> tuple[Cell, ...]:
    """In the order of _LEARNED."""
    accuracy, time = one.typical("final_accuracy"), one.typical("time_to_accuracy_s")
    target, text = one.setup["target_accuracy"], METRICS["time_to_accuracy_s"].text
    first: Cell = (METRICS["final_accuracy"].text(accuracy.value), accuracy.value) if accuracy else _UNKNOWN
    if target is None or not one.run_ids:
        return first, _UNKNOWN, _UNKNOWN
    if time is None:
        return first, (f"{target:g} not reached", None), _UNKNOWN
    missed = len(one.run_ids) - time.runs
    runs = f", {missed} of {len(one.run_ids)} runs never" if missed else ""
    return first, (f"{text(time.value)} to {target:g}{runs}", time.value), _span(time, text)


_UNKNOWN: Cell = ("-", None)


def _span(interval: Interval | None, text: Callable[[float], str]) -> Cell:
    if interval is None or interval.low is None or interval.high is None:
        return _UNKNOWN
    return f"{text(interval.low)} - {text(interval.high)}", interval.low


def _memory(size: Interval | None) -> Cell:
    return (gib(size.value), size.value) if size else _UNKNOWN


def terminal_tables(standings: Sequence[Standing], series: Mapping[str, str]) -> Iterator[Table]:
    """A table for each workload, to fit into a terminal, and a second for what is known of some runs."""
    for workload, group in labels.workloads(standings):
        columns = headings(group)
        rows = [cells(standing, series[standing.configuration.key], columns) for standing in group]
        yield _terminal_table(printable(workload), columns, rows, range(1, len(HEADINGS)))
        if further := range(len(HEADINGS), len(columns)):
            yield _terminal_table("further figures", columns, rows, (*_NAMES, *further))


def _terminal_table(
    title: str, columns: Sequence[str], rows: Sequence[tuple[Cell, ...]], shown: Iterable[int]
) -> Table:
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index in shown:
        table.add_column(columns[index], justify="left" if index < TEXT_COLUMNS else "right")
    for row in rows:
        table.add_row(*(Text(row[index][0]) for index in shown))
    return table


def notes(standings: Sequence[Standing]) -> list[str]:
    """What a reader must know to read the table rightly."""
    setups = [standing.configuration.setup for standing in standings]
    bases = {one.base.name: len(one.base.run_ids) for one in standings if one.base}
    said = [
        "images/s: all devices together; the figure of several runs (each a process of its own) is their geometric "
        "mean; images/s/device is that divided by the devices.",
        "95% interval: Student's on the logarithms of the runs; a single run has none.",
        "efficiency: images/s over devices x images/s of the base case, one device without a strategy that had the "
        "same work, hardware and batch (per device for weak scaling, in all for strong); its interval lets both vary.",
    ]
    if bases:
        shown = [f"{name} ({runs} run{'' if runs == 1 else 's'})" for name, runs in sorted(bases.items())]
        said.append(f"base cases: {some(shown, _SHOWN)}.")
    served = [
        f"{one.efficiency_with_servers.value:.0%} for {one.configuration.name}"
        for one in standings
        if one.efficiency_with_servers
    ]
    if served:
        said.append(
            "parameter servers (PS) are processes besides the workers, on the same cores where all run on one machine, "
            f"on hosts of their own elsewhere. Counting each as a device, the efficiency is {some(served, _SHOWN)}."
        )
    if any(setup["scaling"] == "strong" for setup in setups) and any(setup["scaling"] == "weak" for setup in setups):
        said.append("'images a device' is weak scaling, 'images in all' strong scaling.")
    said.append("data wait: share of the timed iterations in which ranks waited for input; median over runs.")
    shared = ", less the part of TensorFlow's import that preloaded runs share"
    said.append(
        f"process mem: largest resident set of a process{shared if any(s['preloaded'] for s in setups) else ''}."
    )
    said.append("alloc peak: most memory that TensorFlow held for tensors on a device, after warm-up.")
    if "predicted" in (further := headings(standings)):
        said.append("predicted: the same from the layers' shapes, in brackets in parts of what was measured.")
    if "MFU" in further:
        said.append(
            "MFU: FLOPs that the model itself takes, a second and device, in parts of the device's peak; where that "
            "comes from, runs.peak_source says."
        )
    if "accuracy" in further:
        said.append("accuracy: the part of the test images that is recognised after the last epoch.")
        said.append(
            "time to accuracy: training time until an evaluation reached the target, without the evaluations and the "
            "first step; runs that never did have none, which makes it too good where they are many."
        )
    for why in sorted({one.why_no_efficiency for one in standings if one.why_no_efficiency}):
        said.append(f"no efficiency where there is {why}.")
    if any(one.configuration.failures for one in standings):
        said.append("failed runs are counted and never averaged in.")
    return said
