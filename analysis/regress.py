"""`python -m analysis.regress --baseline A --candidate B`: has anything become slower? 0 no, 1 yes, 5 cannot tell."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from analysis.command import console, name_skipped, say
from analysis.errors import AnalysisError
from analysis.options import Selection, Words, share
from results.command_line import perform
from results.writing import replacing

PROG = "analysis.regress"
_THRESHOLD = "5%"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Judge a candidate against a baseline, configuration by configuration.

    Exit 0: nothing lost as much as the threshold. 1: a configuration regressed, failed or vanished. 5: cannot be told.
    """

    candidate: str
    """What is judged: a directory, an experiment, a label, a run id; with wildcards, 'nightly-2026-11-*'."""
    baseline: str | None = None
    """What it is held against: the same, or the name of a saved baseline."""
    metric: Words = ()
    """A figure to judge, images_per_s without any; a wrong name lists all."""
    threshold: Annotated[str | None, arg(metavar="SHARE")] = None
    """Changes smaller than this are no regression: 10%, or 0.1. None is 5%."""
    across: Words = ()
    """A field in which configurations may differ and still be compared: device_name, ..."""
    save_baseline: str | None = None
    """Instead of judging, store the candidate's runs under this name, to be committed."""
    baselines_dir: Path = Path("results/baselines")
    """Where baselines are kept [path]."""
    json: Path | None = None
    """File for the verdicts as JSON [path]."""
    junit: Path | None = None
    """File for the verdicts as JUnit XML, where an inconclusive one is an error [path]."""
    markdown: bool = False
    """Print the verdicts as Markdown too, and append them to the file that $GITHUB_STEP_SUMMARY names."""
    selection: OmitArgPrefixes[Selection] = field(default_factory=Selection)


def regress(options: Options) -> int:
    """Does what the options say and returns the exit code."""
    threshold = share(_THRESHOLD if options.threshold is None else options.threshold)
    if options.save_baseline is not None:
        return _save(options)
    if options.baseline is None:
        raise AnalysisError("give --baseline, what the candidate is held against, or --save-baseline NAME")
    if options.baseline == options.candidate:
        raise AnalysisError(f"--baseline and --candidate are both {options.baseline!r}: name different runs")
    for flag, path in (("json", options.json), ("junit", options.junit)):
        if path and not path.parent.is_dir():  # said before the work, not after it
            raise AnalysisError(f"--{flag} is {str(path)!r}: there is no folder {str(path.parent)!r}, make it first")
    from analysis import markdown, outputs, sides
    from analysis.gate import gate
    from analysis.scaling import RATE

    metrics = options.metric or (RATE,)
    names = (options.baseline, options.candidate)
    loaded = sides.load(names, options.selection, options.baselines_dir, metrics=metrics, across=options.across)
    name_skipped(PROG, loaded.skipped)
    found = gate(loaded, metrics, threshold, options.across)
    for path, text in ((options.json, outputs.json_text), (options.junit, outputs.junit_text)):
        if path:
            with replacing(path) as new:
                new.write_text(text(found), encoding="utf-8")
    console().print(outputs.table(found))
    for note in outputs.notes(found):
        print(f"  {note}")
    print(outputs.summary(found))
    if options.markdown:
        markdown.publish(outputs.markdown_text(found))
    return found.exit_code


def _save(options: Options) -> int:
    from analysis import baselines, sides
    from analysis.words import count

    for flag in ("baseline", "metric", "threshold", "across", "json", "junit", "markdown"):
        if getattr(options, flag):
            raise AnalysisError(f"--save-baseline stores what --candidate names and judges nothing: leave out --{flag}")
    loaded = sides.load((options.candidate,), options.selection, options.baselines_dir)
    (side,) = loaded.sides
    path = baselines.save(str(options.save_baseline), side.runs, options.baselines_dir)
    good = sum(len(one.run_ids) for one in side.configurations)
    print(f"{path}: {len(side.configurations)} configurations, {good} good runs of {len(side.runs)}")
    for one in side.configurations:
        if len(one.run_ids) < 2:  # noqa: PLR2004
            say(f"Warning: {count(len(one.run_ids), 'good run')}, with which nothing can be judged: {one.title}")
    return name_skipped(PROG, loaded.skipped)


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0, 1 or 5, 2 for usage, 3 for a baseline of a later schema."""
    return perform(PROG, Options, argv, regress)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
