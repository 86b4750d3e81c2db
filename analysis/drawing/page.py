"""Pages that load nothing: their scripts, their plots and their styles are in them. And the report as one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from analysis import table
from analysis.content import Content
from analysis.drawing import charts, convergence, one_run, telemetry
from analysis.drawing.plots import Plot, lines
from results.schema import COMPARABLE_FIELDS
from results.text import printable
from results.writing import replacing

MOST_FAILURES, MOST_MACHINES = 200, 20
_TEMPLATES = Path(__file__).parent / "templates"

_PLOTLY_STYLES = (
    # Of an element that it fills by script, which a policy does not forbid.
    "",
    # Of a heatmap's image.
    "image-rendering: optimizeSpeed; image-rendering: -moz-crisp-edges; image-rendering: -o-crisp-edges; "
    "image-rendering: -webkit-optimize-contrast; image-rendering: optimize-contrast; image-rendering: crisp-edges; "
    "image-rendering: pixelated; ",
)
"""What plotly puts into style elements and attributes."""


def write(content: Content, path: Path, title: str) -> None:
    """Writes the report."""
    with replacing(path) as new:
        new.write_text(render(content, title), encoding="utf-8")


def render(content: Content, title: str) -> str:
    """The report's page."""
    shown = table.headings(content.standings)
    names = [name for name in dict.fromkeys(name for each in content.machines for name in each) if name != "runs"]
    return html(
        "report.html.j2",
        title=title,
        counts=content.counts,
        content=content,
        headings=shown,
        rows=[table.cells(one, content.series[one.configuration.key], shown) for one in content.standings],
        sections=[{"name": printable(name), "plots": plots} for name, plots in _sections(content)],
        failures=content.failures[:MOST_FAILURES],
        machine_fields=names,
        machines=content.machines[:MOST_MACHINES],
        comparable=COMPARABLE_FIELDS,
    )


def html(template: str, *, title: str, counts: str, **values: object) -> str:
    """A page of a template that extends page.html.j2. Words of the store are escaped; scripts run and styles count only
    by their hashes, so none of the store's ever does; and nothing is loaded."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.drawing"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
    )
    plotly = get_plotlyjs()
    scripts = [_as_parsed(text) for text in (plotly, (_TEMPLATES / "page.js").read_text(encoding="utf-8"))]
    style = _as_parsed((_TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(
        title=printable(title),
        counts=printable(counts),
        written_at=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        style=style,
        style_hashes=_hashes([style, *_PLOTLY_STYLES]),
        # Plotly brings the styles of maps where the element is missing that would hold them.
        unwanted_styles=re.findall(r'getElementById\("([0-9a-f]{64})"\)', plotly),
        scripts=scripts,
        script_hashes=_hashes(scripts),
        script_safe=_script_safe,
        **values,
    )


def _sections(content: Content) -> Iterator[tuple[str, list[Plot]]]:
    """(workload, its plots) for all that ran."""
    shown = one_run.choose(content.results, content.workloads)
    quantiles = charts.quantiles(content.results, content.standings)
    rank_steps = one_run.RankSteps(content.results)
    for name, group in content.workloads:
        if name not in shown:
            continue
        found, run = lines(group, content.series), shown[name]
        sampled, learned = telemetry.plot(content.results, run), convergence.plot(content.results, found)
        yield (
            name,
            [
                charts.throughput(found),
                charts.efficiency(found),
                charts.breakdown(found),
                charts.distributions(found, quantiles),
                charts.memory(found, run.reasons),
                rank_steps.plot(run),
                *([learned] if learned else []),
                *([sampled] if sampled else []),
            ],
        )


def _script_safe(plot: Plot) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps({"data": plot.data, "layout": plot.layout}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _as_parsed(text: str) -> str:
    """As a browser reads it, for the hash is taken of that."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _hashes(texts: Sequence[str]) -> str:
    """Sources of a Content-Security-Policy."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
