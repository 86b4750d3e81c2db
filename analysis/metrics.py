"""The figures of a run that configurations are compared by: a table name -> what it is and which way is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from analysis.errors import AnalysisError

GIB = 2**30


@dataclass(frozen=True)
class Metric:
    """One figure. Its name is the column of `analysis.load.Results.runs` and the word that flags take."""

    name: str
    title: str
    higher_is_better: bool
    text: Callable[[float], str]
    """A value with its unit."""


def number(value: float) -> str:
    """Four digits or more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"  # noqa: PLR2004


def _seconds(value: float) -> str:
    return f"{number(value)} s" if value >= 1 else f"{value * 1e3:.4g} ms"


def gib(value: float) -> str:
    """Bytes as GiB."""
    return f"{value / GIB:.2f} GiB"


EFFICIENCY = "efficiency"
"""The one metric that is not a column: it needs the runs of the base case too (`analysis.scaling`)."""

TIME_TO_ACCURACY = "time_to_accuracy_s"
"""The one metric that a good run lacks because it was worse: it did not reach its `target_accuracy`."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric("images_per_s", "throughput", True, lambda value: f"{number(value)} images/s"),
        Metric("step_time_p50_s", "median step time", False, _seconds),
        Metric("step_time_p95_s", "p95 step time", False, _seconds),
        Metric(TIME_TO_ACCURACY, "time to accuracy", False, _seconds),
        Metric("final_accuracy", "test accuracy after the last epoch", True, "{:.2%}".format),
        Metric("mfu", "model FLOPs utilisation", True, lambda value: f"{value:.1%}"),
        Metric("startup_time_s", "start-up time", False, _seconds),
        Metric("peak_rss_bytes", "peak resident memory of a process", False, gib),
        Metric("framework_peak_mem_bytes", "peak of TensorFlow's allocator", False, gib),
        Metric("gpu_peak_mem_used_bytes", "peak GPU memory in use", False, gib),
        Metric(EFFICIENCY, "scaling efficiency", True, lambda value: f"{value:.1%}"),
    )
}


def metric_named(name: str) -> Metric:
    """A row of METRICS. Raises AnalysisError for a name that is not there."""
    if name not in METRICS:
        raise AnalysisError(f"--metric {name}: no such metric. There are: {', '.join(METRICS)}")
    return METRICS[name]


def why_none(metric: Metric) -> str:
    """The usual reason for a metric that no run has, to stand behind what is said of it."""
    if metric.name in (TIME_TO_ACCURACY, "final_accuracy"):
        return " (only runs with --epochs are evaluated, and only those that reach --target-accuracy have a time to it)"
    if metric.name != EFFICIENCY:
        return ""
    return " (measure the base case, strategy single, as well, and leave it in what is asked for)"
