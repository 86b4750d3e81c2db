"""What transfer learning gains: `python -m bench.transfer`.

A model is trained on some classes of a data set, its base is frozen, and its head is trained on a few images of the
others; beside it the same model is trained on the same images from scratch. Each training is a run of its own, in the
store; what is reported is the accuracy on the test images of the classes that were not seen before, over several seeds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError, UsageError
from bench.preload import keep_numpy_single_threaded, prepare, run_in_fork
from results import command_line
from results.exit_codes import ExitCode
from strategies import load

PROG = "bench.transfer"

LEVEL = 0.95
"""The probability with which an interval holds the true value."""

SCRATCH, PRETRAINING, TRANSFER = "from scratch", "pre-training", "transferred"
"""The trainings of each seed. That from scratch comes first: it is the fastest to say what is wrong with the flags."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare training on a few images from scratch with training only the head of a model that knows other classes."""

    model: str = "transfer_cnn"
    """Model, as in bench.run."""
    num_classes: int | None = None
    """Classes of the model, as in bench.run."""
    dataset: str = "digits"
    """Images, as in bench.run; its test images are what accuracy is measured on."""
    data_dir: Path | None = None
    """Folder of the data files [path], as in bench.run."""
    pretrain_classes: str = "0-4"
    """Classes of the pre-training, on all their images."""
    classes: str = "5-9"
    """Classes that are learned from few images, and not among those."""
    samples: int = 100
    """Training images of these classes in all [images]."""
    seeds: int = 3
    """Repeats, each with weights, images and orders of its own: seeds 1, 2, ..."""
    pretrain_epochs: int = 10
    """Passes over the images of the pre-training [epochs]."""
    epochs: int = 20
    """Passes over the few images, both from scratch and transferred [epochs]."""
    global_batch_size: int = 20
    """Images all devices together and step [images]."""
    optimizer: str = "adam"
    """As in bench.run, for all trainings."""
    lr: float | None = None
    """Learning rate, as in bench.run."""
    strategy: str = "single"
    """As in bench.run; it must train one model."""
    devices: int = 1
    """On how many devices [devices]."""
    device: str = "auto"
    """auto, cpu or gpu, as in bench.run."""
    experiment: str = "transfer"
    """Name of these runs in the store."""
    results_dir: Path = Path("results/data")
    """Where the runs are kept [path]."""

    def __post_init__(self) -> None:
        for name in ("samples", "seeds", "pretrain_epochs", "epochs", "global_batch_size", "devices"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give a whole number from 1 on")
        if self.global_batch_size * 2 > self.samples:
            raise UsageError(
                f"--global-batch-size {self.global_batch_size} leaves fewer than two steps in an epoch of --samples "
                f"{self.samples}, and the first one is warm-up: use a smaller batch"
            )


@dataclass(frozen=True)
class Interval:
    """A mean over seeds."""

    mean: float
    low: float | None
    """None where a single seed gives no interval."""
    high: float | None


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of values that are about normal, and Student's interval mean -+ t s / sqrt(n) for it."""
    import numpy as np
    from scipy.special import stdtrit

    mean, count = float(np.mean(values)), len(values)
    if count < 2:  # noqa: PLR2004
        return Interval(mean, None, None)
    reach = float(stdtrit(count - 1, (1 + level) / 2) * np.std(values, ddof=1) / np.sqrt(count))
    return Interval(mean, mean - reach, mean + reach)


def gain(scratch: Sequence[float], transferred: Sequence[float]) -> Interval:
    """Transferred - from scratch, seed by seed: both of a seed learn from the same images."""
    return interval([after - before for before, after in zip(scratch, transferred, strict=True)])


def verdict(found: Interval) -> str:
    """What a gain in accuracy says, in a sentence."""
    if found.low is None or found.high is None:
        return "One seed cannot tell whether that is chance: --seeds 3 or more can."
    if found.low > 0:
        return "Transfer learning is the better one."
    if found.high < 0:
        return "Training from scratch is the better one."
    return "They cannot be told apart: the interval of the difference holds 0; more --seeds narrow it."


def check(options: Options) -> None:
    """Raises UsageError for a strategy that trains no one model, and unless the classes are two groups of the data
    set's that have none in common."""
    from bench.workloads import check as check_workload
    from bench.workloads.classes import chosen_classes
    from bench.workloads.datasets import DATASETS

    if not load(options.strategy).one_model:
        raise UsageError(
            f"strategy {options.strategy!r} trains a model in each worker, so no one model is transferred: choose mwms"
        )
    groups = []
    for name, text in (("pretrain-classes", options.pretrain_classes), ("classes", options.classes)):
        check_workload(
            options.model,
            options.dataset,
            options.data_dir,
            num_classes=options.num_classes,
            classes=text,
            evaluated=True,
        )
        chosen = chosen_classes(text, options.dataset, DATASETS[options.dataset].num_classes)
        assert chosen is not None, name
        groups.append({*chosen})
    if common := groups[0] & groups[1]:
        raise UsageError(
            f"--pretrain-classes {options.pretrain_classes} and --classes {options.classes} have {min(common)} in "
            "common, which would not be unseen: give two groups apart, such as 0-4 and 5-9"
        )


def flags(options: Options, training: str, seed: int, pretrained: Path) -> list[str]:
    """The `bench.run` arguments of a training; the pre-training writes the weights that the transferred one reads."""
    few = [f"--classes={options.classes}", f"--num-train-samples={options.samples}", f"--epochs={options.epochs}"]
    own = {
        SCRATCH: few,
        PRETRAINING: [
            f"--classes={options.pretrain_classes}",
            f"--epochs={options.pretrain_epochs}",
            f"--save-model={pretrained}",
        ],
        TRANSFER: [*few, f"--weights={pretrained}", "--freeze=base"],
    }
    return [
        f"--strategy={options.strategy}",
        f"--{'devices-per-worker' if load(options.strategy).one_process else 'num-workers'}={options.devices}",
        f"--model={options.model}",
        *([f"--num-classes={options.num_classes}"] if options.num_classes is not None else []),
        f"--dataset={options.dataset}",
        *([f"--data-dir={options.data_dir}"] if options.data_dir else []),
        *own[training],
        f"--seed={seed}",
        f"--device={options.device}",
        f"--global-batch-size={options.global_batch_size}",
        f"--optimizer={options.optimizer}",
        *([f"--lr={options.lr}"] if options.lr is not None else []),
        "--num-warmup-batches=1",
        f"--experiment={options.experiment}",
        f"--label={training}",
        f"--results-dir={options.results_dir}",
        "--json",
    ]


class _RunFailed(BenchError):
    """A training ended with an exit code, and said why."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.exit_code = code  # type: ignore[assignment]  # as the run's own, whichever it is


def perform(words: Sequence[str], what: str) -> float:
    """Makes a run in a process of its own; its accuracy after the last epoch, not the best one: to choose by the test
    images would flatter. Raises what it failed with."""
    run = run_in_fork(words)
    if run.exit_code:
        raise _RunFailed(run.exit_code, f"{what}: {run.error}")
    return float(json.loads(run.output.splitlines()[-1])["final_accuracy"])


def transfer(options: Options, console: Console) -> int:
    """Makes all runs, prints what came out and returns the exit code."""
    check(options)
    prepare()
    accuracies: dict[str, list[float]] = {SCRATCH: [], PRETRAINING: [], TRANSFER: []}
    with tempfile.TemporaryDirectory(prefix="transfer-") as folder:
        for seed in range(1, options.seeds + 1):
            pretrained = Path(folder) / f"seed-{seed}.weights.h5"
            for training, found in accuracies.items():
                console.print(f"seed {seed}: {training} ...", end="\r") if console.is_terminal else None
                found.append(perform(flags(options, training, seed, pretrained), f"seed {seed}, {training}"))
            pretrained.unlink()
    console.print(_table(options, accuracies))
    gained = gain(accuracies[SCRATCH], accuracies[TRANSFER])
    sentence = f"Transferred - from scratch: {_signed(gained)}. {verdict(gained)}"
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return ExitCode.OK


def _table(options: Options, accuracies: Mapping[str, Sequence[float]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("training", "classes", "images", "epochs", "seeds", "accuracy", "95% interval"):
        table.add_column(heading, justify="left" if heading in ("training", "classes") else "right")
    for training, values in accuracies.items():
        first = training == PRETRAINING
        found = interval(values)
        table.add_row(
            training,
            options.pretrain_classes if first else options.classes,
            "all" if first else str(options.samples),
            str(options.pretrain_epochs if first else options.epochs),
            str(len(values)),
            f"{found.mean:.1%}",
            # Student's interval knows nothing of a largest accuracy.
            "-" if found.low is None or found.high is None else f"{max(0, found.low):.1%} - {min(1, found.high):.1%}",
        )
    return table


def _signed(found: Interval) -> str:
    mean = f"{100 * found.mean:+.1f} points"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} (95% interval {100 * found.low:+.1f} to {100 * found.high:+.1f})"


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 compared, or that of the run that failed."""

    def work(options: Options) -> int:
        keep_numpy_single_threaded()
        return transfer(options, Console(width=max(110, Console().width)))

    try:
        return command_line.perform(PROG, Options, argv, work)
    except BenchError as error:
        return command_line.complain(PROG, error, int(error.exit_code))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
