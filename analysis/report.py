"""`python -m analysis.report`: the table on the terminal, one self-contained HTML file, figures for papers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes

from analysis.command import console, name_skipped
from analysis.options import Selection
from results.command_line import Refused, perform

if TYPE_CHECKING:
    from analysis.content import Content

PROG = "analysis.report"
FIGURES = ("png", "svg")
FORMATS = ("html", *FIGURES, "text")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read the result store, print the table of configurations and write a report."""

    selection: OmitArgPrefixes[Selection] = field(default_factory=Selection)
    output: Path = Path("results/reports")
    """Folder for the files [path]."""
    format: str = "html"
    """What is written, a comma-separated list: html (report.html, whole in one file), png and svg (a figure for each
    workload), text (nothing but the table on the terminal)."""
    markdown: bool = False
    """Print Markdown instead of the table, and append it to the file that GITHUB_STEP_SUMMARY names, if any."""
    floor: float = 0.8
    """Efficiency that still counts as scaling in the summary."""
    link_gb_per_s: float | None = None
    """What the slowest link between two devices carries, 10^9 bytes/s: warns where the exchange would need more. None
    checks nothing."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0 written, 2 usage, 3 without files that cannot be read."""
    return perform(PROG, Options, argv, _report)


def _report(options: Options) -> int:
    formats = _formats(options.format)
    if not 0 < options.floor <= 1:
        raise Refused(f"--floor={options.floor:g}: give an efficiency between 0 and 1, such as 0.8")
    if options.link_gb_per_s is not None and not 0 < options.link_gb_per_s < float("inf"):
        raise Refused(f"--link-gb-per-s={options.link_gb_per_s:g}: give a rate above 0, in 10^9 bytes/s")
    # Heavy, so only when there is something to do.
    from analysis.content import gather
    from analysis.load import Results

    results = Results(options.selection)
    content = gather(results, floor=options.floor, link_gb_per_s=options.link_gb_per_s)
    title = ", ".join(options.selection.experiment) or "all experiments"
    written = write(content, options.output, formats, title)
    said = [f"{'Report' if path.suffix == '.html' else 'Figure'}: {path.resolve()}" for path in written]
    if options.markdown:
        from analysis import markdown, summary

        markdown.publish(summary.markdown(content, title, said))
    else:
        _terminal(content, said)
    return name_skipped(PROG, results.skipped)


def write(content: Content, folder: Path, formats: Sequence[str], title: str) -> list[Path]:
    """Writes the files of these formats into `folder` and returns their paths, the page's last."""
    written: list[Path] = []
    if formats != ["text"]:
        folder.mkdir(parents=True, exist_ok=True)
    if suffixes := [name for name in formats if name in FIGURES]:
        written += _figures(content, folder, suffixes)
    if "html" in formats:
        from analysis.drawing import page

        written.append(folder / "report.html")
        page.write(content, written[-1], title)
    return written


def _formats(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise Refused(f"--format={text}: give one or more of {', '.join(FORMATS)}, separated by commas")
    return list(dict.fromkeys(names))


def _figures(content: Content, folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    from analysis.drawing import charts, figures, plots

    quantiles = charts.quantiles(content.results, content.standings)
    used: set[str] = set()
    for name, group in content.workloads:
        found = plots.lines(group, content.series)
        if not found:
            continue
        stem = re.sub(r"\W+", "_", name)[:100]
        # Workloads that differ only in what a file's name cannot hold get a number.
        stem = next(each for each in (stem, *(f"{stem}-{count}" for count in range(2, 10_000))) if each not in used)
        used.add(stem)
        paths = [folder / f"{stem}.{suffix}" for suffix in suffixes]
        figures.save(name, found, quantiles, paths)
        yield from paths


def _terminal(content: Content, said: Sequence[str]) -> None:
    from analysis import table

    out = console()

    def tell(line: str, style: str = "") -> None:
        out.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    for sentence in content.sentences:
        tell(sentence)
    for each in table.terminal_tables(content.standings, content.series):
        out.print(each)
    tell(f"{content.counts}.")
    for note in content.notes:
        tell(f"  {note}")
    for warning in content.warnings:
        tell(f"  Warning: {warning}", "yellow")
    for line in said:
        tell(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
