"""ReFrame checks that run `python -m bench.run` and report its figures. ReFrame 4.10 or later loads this file.

Everything comes from the one line that `--json` prints, nothing from patterns in the output. What a site sets with -S
stands under `TrainScale`; what it writes once (systems, references) in files like settings.py and references.yaml.
"""

from __future__ import annotations

import contextlib
import json
import operator
import shlex
from pathlib import Path
from typing import Any

import reframe as rfm
import reframe.utility.sanity as sn
import reframe.utility.typecheck as typ
from reframe.core.builtins import parameter, run_after, run_before, sanity_function, variable
from reframe.core.exceptions import PerformanceError, ReframeError, SanityError

FIGURES = {
    "images_per_s": "images/s",
    "images_per_s_per_device": "images/s",
    "images_per_s_spread": "images/s",
    "step_time_p50_s": "s",
    "step_time_p90_s": "s",
    "step_time_p95_s": "s",
    "step_time_p99_s": "s",
    "step_time_jitter_s": "s",
    "data_wait_share": "ratio",
    "latency_p50_s": "s",
    "latency_p90_s": "s",
    "latency_p95_s": "s",
    "latency_p99_s": "s",
    "mfu": "ratio",
    "startup_time_s": "s",
    "peak_rss_bytes": "bytes",
    "framework_peak_mem_bytes": "bytes",
    "predicted_mem_ratio": "ratio",
    "final_accuracy": "ratio",
    "best_accuracy": "ratio",
    "time_to_accuracy_s": "s",
}
"""Figure of the JSON line -> unit. Definitions: docs/metrics.md."""

BESIDES_WORKERS = {"ps": 2}
"""Strategy -> tasks that train nothing: a coordinator and, unless `flags` say otherwise, one parameter server."""

SHARE_OF_TIME_LIMIT = 0.9
"""What the run may use of the job's time limit; the rest is for recording why it did not end."""


class TrainScale(rfm.RunOnlyRegressionTest):
    """What both checks share: the command, how it ended, the figures."""

    python = variable(str, value="python")
    """Command that starts a Python which has TrainScale; several words are several words of the shell."""
    model = variable(str, value="")
    """--model; empty is bench.run's default, as for the next two."""
    batch_size = variable(int, type(None), value=None)
    """--batch-size [images a device]."""
    dataset = variable(str, value="")
    """--dataset."""
    flags = variable(str, value="")
    """More flags of bench.run, as a shell reads them. They come last and win."""
    experiment = variable(str, value="reframe")
    """--experiment: the name under which the runs are found in the store."""
    results_dir = variable(str, value=str(Path(__file__).resolve().parents[2] / "results" / "data"))
    """--results-dir: a folder that all nodes see. Not ReFrame's stage directory, which is deleted after a success."""
    references = variable(str, value="")
    """YAML file of expected figures, see references.yaml. Empty reports the figures and expects nothing."""
    launcher_options = variable(typ.List[str], value=[])
    """Options of srun or mpirun, such as --mpi=pmix."""
    run_id = variable(str, value="")
    """The run in TrainScale's store; set when it has ended."""

    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    sourcesdir = None
    # ReFrame's own, which turns what it is given into something else.
    time_limit: Any = "1h"
    num_gpus_per_node: Any
    reference: Any
    exclusive_access = True  # whoever shares a node measures the neighbours
    tags = {"trainscale"}

    @run_before("run")
    def read_references(self) -> None:
        """Not after init: there ReFrame takes a file that it cannot read for a reason to load no check, and passes."""
        if self.references:
            # An absolute path, for ReFrame would look for a relative one beside this file.
            self.reference = {"$ref": str(Path(self.references).expanduser().absolute())}
        # ReFrame would pass over a misspelt name.
        if unknown := sorted(set(self._expected()) - set(FIGURES)):
            raise ReframeError(
                f"{self.references} expects {', '.join(unknown)}, which no run reports. Valid: {', '.join(FIGURES)}"
            )

    @run_after("setup")
    def count_gpus(self) -> None:
        """A partition whose GPUs the site's configuration names is measured with all of them."""
        gpus = [device.num_devices for device in self.current_partition.select_devices("gpu")]
        if self.num_gpus_per_node is None and gpus:
            self.num_gpus_per_node = sum(gpus)

    @property
    def starts_its_workers(self) -> bool:
        """Nothing starts one process a task: bench.run has to, on the node where it runs."""
        return bool(self.job.launcher.registered_name == "local")

    def placement(self) -> list[str]:
        """Flags that say where the processes are. Strategies of one process need none."""
        return []

    @run_before("run")
    def compose(self) -> None:
        self.job.launcher.options = self.launcher_options
        wanted = {
            "--strategy": self.strategy,
            "--model": self.model,
            "--batch-size": self.batch_size,
            "--dataset": self.dataset,
            "--experiment": self.experiment,
            "--results-dir": self.results_dir,
            # Left to itself, bench.run takes the CPU where the driver shows no GPU: here that is a fault.
            "--device": "gpu" if self.num_gpus_per_node else None,
            "--timeout": f"{self.time_limit * SHARE_OF_TIME_LIMIT:g}" if self.time_limit else None,
        }
        said = [shlex.quote(f"{flag}={value}") for flag, value in wanted.items() if value not in ("", None)]
        self.executable = self.python
        self.executable_opts = ["-m bench.run", "--json", *said, *self.placement(), self.flags]

    @run_after("run")
    def read_line(self) -> None:
        """The figures, {} where bench.run ended without any. Something of the site's may print after them."""
        self.figures: dict[str, Any] = {}
        lines = [line for line in self._lines(self.job.stdout) if line.startswith("{")]
        with contextlib.suppress(IndexError, json.JSONDecodeError):  # killed before or while it printed
            self.figures = json.loads(lines[-1])
        self.run_id = self.figures.get("run_id", "")

    @sanity_function
    def ended_well(self) -> bool:
        outcome, code = self.figures.get("status", "no result"), self.job.exitcode
        if code is None:  # unknown to the scheduler, as it is to squeue
            code = self.figures.get("exit_code")
        if outcome == "ok" and code == 0:
            return True
        raise SanityError(f"{outcome}{'' if code is None else f', exit code {code}'}: {self._reason()}")

    @run_before("performance")
    def report_figures(self) -> None:
        self.perf_variables = {
            name: sn.make_performance_function(operator.itemgetter(name), unit, self.figures)
            for name, unit in FIGURES.items()
            if self.figures.get(name) is not None or self.is_dry_run()
        }
        # ReFrame would pass over these as well.
        if unmeasured := sorted(set(self._expected()) - set(self.perf_variables)):
            raise PerformanceError(
                f"{self.references} expects {', '.join(unmeasured)}, which this run could not measure; "
                f"runs.null_reasons of run {self.run_id} says why"
            )

    def _expected(self) -> dict[str, Any]:
        """Figure -> reference for this strategy, partition, ..., whatever the file's $index names."""
        try:
            return dict(self.reference[self]) if self.references else {}
        except KeyError:
            return {}

    def _reason(self) -> str:
        """The error of the record; else, of standard error, our own line, Slurm's on why it ended the job, the tail."""
        lines = [line for line in self._lines(self.job.stderr) if line.strip()]
        ours = [line for line in lines if line.startswith("bench.run: ")][:1]
        slurms = [line for line in lines if "error: *** " in line][-1:]
        return self.figures.get("error") or " | ".join(ours or slurms or lines[-3:]) or "nothing was printed"

    def _lines(self, name: str) -> list[str]:
        """Of a file in the stage directory; none where the job was cancelled before it started."""
        path = Path(self.stagedir, name)
        return path.read_text(errors="replace").splitlines() if path.exists() else []


@rfm.simple_test
class TrainScaleOneTask(TrainScale):
    """Strategies that run in one process, on the devices of one node."""

    descr = "TrainScale: one process"
    strategy = parameter(["single", "mirrored", "central"], type=str)

    @run_before("run")
    def count_tasks(self) -> None:
        self.num_tasks = self.num_tasks_per_node = 1


@rfm.simple_test
class TrainScaleTasks(TrainScale):
    """Strategies of one process a task. The partition's launcher starts them, or, if that is `local`, bench.run."""

    descr = "TrainScale: one process a task"
    strategy = parameter(["independent", "mwms", "horovod", "ps"], type=str)
    num_nodes = parameter([1, 2], type=int)
    tasks_per_node = variable(int, type(None), value=None)
    """Tasks on each node, those of ps that are no workers counted in. None is one for each of its GPUs, or one."""

    @run_after("setup")
    def count_tasks(self) -> None:
        self.num_tasks_per_node = self.tasks_per_node or self.num_gpus_per_node or 1
        self.num_tasks = self.num_nodes * self.num_tasks_per_node
        others = BESIDES_WORKERS.get(self.strategy, 0)
        self.skip_if(
            self.starts_its_workers and self.num_nodes > 1,
            "the launcher of this partition starts one process on one node: choose a partition with srun or mpirun",
        )
        self.skip_if(
            self.num_tasks <= others,
            f"{self.strategy} needs {others} tasks besides its workers and there are {self.num_tasks}: raise "
            "tasks_per_node or num_nodes",
        )

    def placement(self) -> list[str]:
        return [f"--num-processes={self.num_tasks}"] if self.starts_its_workers else []
