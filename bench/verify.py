"""Prove that the strategies train the same model: `python -m bench.verify`.

Every strategy runs the same few SGD steps from the same seed on the same global batches, on one, two, three and four
devices, each run in processes of its own. Losses, weights and samples are compared with those of `single`: on CPUs in
float64, where rounding hides next to nothing, and beside it in float32, in which models are trained.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.config import MachineConfig, WorkloadConfig
from bench.errors import BenchError, UsageError
from bench.preload import keep_numpy_single_threaded, prepare, run_in_fork
from results import command_line
from results.exit_codes import ExitCode
from results.store import Store, new_run_id
from strategies import STRATEGIES, load

# This process is forked for every run, so NumPy, and all that imports it, is imported when its threads are tamed.
if TYPE_CHECKING:
    from bench.equivalence import Finding
    from bench.workloads import ModelSpec

PROG = "bench.verify"
REFERENCE = "single"

Precision = Literal["fp64", "fp32"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Prove that the strategies train the same model; exit 4 when one does not."""

    model: str = "mnist_cnn"
    """Model, as in bench.run; its dropout is off."""
    image_size: int | None = None
    """Height and width of the images [pixels], as in bench.run."""
    num_classes: int | None = None
    """Classes, as in bench.run."""
    dataset: str = "digits"
    """Images, as in bench.run."""
    data_dir: Path | None = None
    """Folder of the data files [path], as in bench.run."""
    strategies: tuple[str, ...] = ()
    """Which strategies to compare. None named are all that train one model; what is named must be able to run."""
    devices: tuple[int, ...] = (1, 2, 3, 4)
    """On how many devices each [devices]."""
    steps: int = 8
    """Optimizer steps [steps], 4 to 10: later, rounding alone drives float32 runs apart."""
    global_batch_size: int = 24
    """Images all devices together and step [images]; every number of devices must divide it."""
    seed: int = 1
    """Seed of weights and sample order."""
    precisions: tuple[Precision, ...] = ()
    """In which numbers to train and compare. None named are fp64 and fp32; on GPUs, and of a model with an operation
    that TensorFlow has not in float64, fp32."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto, cpu or gpu, as in bench.run."""
    results_dir: Path = Path("results/data")
    """Where the table of verifications is kept [path]."""

    def __post_init__(self) -> None:
        if not 4 <= self.steps <= 10:  # noqa: PLR2004
            raise UsageError(f"--steps is {self.steps}: give 4 to 10; later, rounding alone drives float32 runs apart")
        if not self.devices:
            raise UsageError("--devices names no number of devices: give one or more, as in --devices 1 2")
        for count in self.devices:
            if count < 1 or self.global_batch_size % count:
                raise UsageError(
                    f"--devices {count} does not share --global-batch-size {self.global_batch_size} evenly: choose "
                    "devices that divide it"
                )


@dataclass(frozen=True)
class Case:
    """One run to make."""

    strategy: str
    devices: int
    precision: Precision

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.strategy} x{self.devices}"

    def flags(self, options: Options, scratch: Path) -> list[str]:
        """The `bench.run` arguments."""
        one_process, synchronous = load(self.strategy).one_process, load(self.strategy).synchronous
        # What is not synchronous is asked whether its loss falls, which a few steps don't show.
        steps = options.steps if synchronous else 4 * options.steps
        # Workers that take turns are seen to learn when a turn is short: one after the other they come in its order.
        in_a_call = steps - 1 if synchronous else 1
        return [
            f"--strategy={self.strategy}",
            f"--{'devices-per-worker' if one_process else 'num-workers'}={self.devices}",
            f"--model={options.model}",
            *([f"--image-size={options.image_size}"] if options.image_size else []),
            *([f"--num-classes={options.num_classes}"] if options.num_classes else []),
            f"--dataset={options.dataset}",
            *([f"--data-dir={options.data_dir}"] if options.data_dir else []),
            f"--seed={options.seed}",
            f"--precision={self.precision}",
            f"--device={options.device}",
            f"--global-batch-size={options.global_batch_size}",
            "--num-warmup-batches=1",
            f"--num-batches-per-iter={in_a_call}",
            f"--num-iters={(steps - 1) // in_a_call}",
            "--telemetry-period=0",
            f"--evidence={scratch / 'evidence'}",
            f"--results-dir={scratch / 'data'}",
        ]


def cases(options: Options, precisions: Sequence[Precision]) -> Iterator[Case]:
    """The reference first, then every strategy on every number of devices, in every precision."""
    yield from (Case(REFERENCE, 1, precision) for precision in precisions)
    for name in options.strategies or STRATEGIES:
        strategy = load(name)
        if not strategy.one_model:
            if options.strategies:
                raise UsageError(
                    f"strategy {name!r} trains each worker's own model by design: there is nothing to compare"
                )
            continue
        if strategy.name != REFERENCE:
            for count in options.devices:
                yield from (Case(strategy.name, count, precision) for precision in precisions)


def precisions_of(options: Options, spec: ModelSpec) -> tuple[Sequence[Precision], str | None]:
    """In what to compare, and why not in float64 where nobody chose. Raises UsageError and EnvironmentFault."""
    from bench.workloads import check_precision

    if options.precisions:
        for precision in options.precisions:
            check_precision(spec, precision)
        return options.precisions, None
    if not spec.float64:
        return ("fp32",), f"model {spec.name!r} has an operation that TensorFlow has not in float64"
    if _on_gpus(options):
        return ("fp32",), "the limits of float64 were never tried on GPUs (--precisions fp64 compares in it)"
    return ("fp64", "fp32"), None


def _on_gpus(options: Options) -> bool:
    """Whether the runs will be. Raises EnvironmentFault without the GPU that --device gpu wants."""
    if options.device == "cpu":
        return False
    from bench.plan import resources_of
    from bench.telemetry import Gpus

    gpus = Gpus(os.environ)
    machine = MachineConfig(device=options.device)
    return resources_of(machine, num_gpus=len(gpus.handles), why_no_gpu=gpus.unavailable).device_kind == "gpu"


def examine(case: Case, options: Options, reference: Finding | None) -> Finding:
    """Makes a run and compares it with the reference's finding, which is None for the reference itself."""
    import numpy as np

    from bench.equivalence import LIMITS, Finding, compare
    from bench.evidence import Evidence
    from bench.workloads.optimizers import OPTIMIZERS

    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        scratch = Path(folder)
        run = run_in_fork(case.flags(options, scratch))
        if run.exit_code in (ExitCode.USAGE, ExitCode.ENVIRONMENT):
            return Finding(verdict="not run", reason=run.error)
        ranks = [dict(rank) for rank in Evidence.load(scratch / "evidence")]
    if not ranks:
        return Finding(verdict="failed", reason=run.error)
    workers = case.devices if not load(case.strategy).synchronous else None
    # In whatever precision the weights are, Keras keeps the learning rate in float32.
    rate = float(np.float32(OPTIMIZERS["sgd"].learning_rate))
    finding = compare(ranks, reference, LIMITS[case.precision], asynchronous_workers=workers, learning_rate=rate)
    # A run that fails after its training has seen itself what is wrong: replicas that end differently.
    return finding if run.exit_code == 0 else finding.failed(run.error, digests_ok="not averaged" not in run.error)


def verify(options: Options, console: Console) -> int:
    """Runs everything, prints and stores what came out, and returns the exit code."""
    from bench.workloads import check as check_workload

    WorkloadConfig(image_size=options.image_size, num_classes=options.num_classes)
    spec = check_workload(
        options.model,
        options.dataset,
        options.data_dir,
        image_size=options.image_size,
        num_classes=options.num_classes,
    )
    if spec.batch_norm and max(options.devices) > 1:
        raise UsageError(
            f"model {spec.name!r} has batch normalisation, which normalises by the images of one device: on several it "
            "trains something else by design. Choose a model without (--model vgg16_cifar), or --devices 1"
        )
    precisions, why_no_float64 = precisions_of(options, spec)
    todo = list(cases(options, precisions))
    store = Store(options.results_dir)
    store.prepare()
    prepare()
    started_at = datetime.now(timezone.utc)
    found: list[tuple[Case, Finding]] = []
    for case in todo:
        console.print(f"{case.name} {case.precision} ...", end="\r") if console.is_terminal else None
        reference = next((finding for other, finding in found if other.precision == case.precision), None)
        found.append((case, examine(case, options, reference)))
    verification_id = new_run_id(started_at)
    made = {"verification_id": verification_id, "verified_at": started_at}
    rows = [{**made, **_row(options, spec, case, finding)} for case, finding in found]
    try:
        console.print(_table(found))
        for line in _remarks(found, why_no_float64):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    finally:  # a full disk leaves what was found in the other place
        unkept = _keep(store, verification_id, started_at, rows)
    return _exit_code(found, options) or unkept


def _keep(store: Store, verification_id: str, started_at: datetime, rows: Sequence[Mapping[str, Any]]) -> int:
    """Stores what was found; the exit code that says whether that could be done."""
    try:
        store.commit(verification_id, started_at, {"verifications": rows})
    except OSError as error:
        why = f"results directory {str(store.root)!r} cannot be written ({error.strerror or error})"
        return command_line.complain(PROG, f"{why}: only what is printed is known; mend it", ExitCode.ENVIRONMENT)
    return ExitCode.OK


def _exit_code(found: Sequence[tuple[Case, Finding]], options: Options) -> int:
    verdicts = {finding.verdict for _, finding in found}
    if "failed" in verdicts:
        return ExitCode.WORKLOAD
    not_run = [case for case, finding in found if finding.verdict == "not run"]
    return ExitCode.ENVIRONMENT if not_run and (options.strategies or not_run[0].strategy == REFERENCE) else ExitCode.OK


def _row(options: Options, spec: ModelSpec, case: Case, finding: Finding) -> dict[str, Any]:
    from bench.provenance import framework_versions

    versions = framework_versions()
    return {
        "strategy": case.strategy,
        "model": options.model,
        "image_size": spec.image_size,
        "num_classes": spec.num_classes,
        "dataset": options.dataset,
        "num_devices": case.devices,
        "global_batch": options.global_batch_size,
        "precision": case.precision,
        **finding.as_row(),
        "tensorflow_version": versions["TensorFlow"],
        "keras_version": versions["Keras"],
        "horovod_version": versions["Horovod"],
        "hostname": socket.gethostname(),
    }


def _table(found: Sequence[tuple[Case, Finding]]) -> Table:
    """A row per training, in which each precision has its columns."""
    from bench.equivalence import DTYPES, common_cells

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    precisions = dict.fromkeys(case.precision for case, _ in found)
    compared = [heading for name in precisions for heading in (f"{DTYPES[name]}: loss", "weights", "verdict")]
    for heading in ("strategy", "devices", "steps", "samples", "replicas", *compared):
        table.add_column(heading, justify="left" if heading in ("strategy", "verdict") else "right")
    for strategy, devices in dict.fromkeys((case.strategy, case.devices) for case, _ in found):
        findings = [finding for case, finding in found if (case.strategy, case.devices) == (strategy, devices)]
        cells = [cell for finding in findings for cell in finding.cells()]
        table.add_row(strategy, str(devices), *common_cells(findings), *cells)
    return table


def _remarks(found: Sequence[tuple[Case, Finding]], why_no_float64: str | None) -> Iterator[str]:
    """The lines below the table: what is wrong with which training, and how to read the table."""
    from bench.equivalence import DTYPES, explain

    for case, finding in found:
        if finding.reason is not None:
            yield f"{case.name}, {DTYPES[case.precision]}: {finding.verdict}: {finding.reason}"
    if why_no_float64:
        yield f"Compared in float32 only: {why_no_float64}."
    by_precision: dict[str, list[tuple[str, Finding]]] = {}
    for case, finding in found:
        by_precision.setdefault(case.precision, []).append((load(case.strategy).name, finding))
    yield from explain(by_precision)


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 all the same, 2 usage, 3 cannot run here, 4 a mismatch."""

    def work(options: Options) -> int:
        keep_numpy_single_threaded()
        return verify(options, Console(width=max(110, Console().width)))

    try:
        return command_line.perform(PROG, Options, argv, work)
    except BenchError as error:
        return command_line.complain(PROG, error, int(error.exit_code))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
