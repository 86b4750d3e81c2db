"""What was found, in sentences for people who decide: the fastest strategy, and where and why scaling stops.

And what makes the comparison doubtful; what makes single runs doubtful is in `analysis.diagnosis`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from analysis import earlier, input_bound
from analysis.configurations import words
from analysis.losses import losses, servers, without_base
from analysis.metrics import number
from analysis.scaling import BASE_STRATEGY, LIKE_BASE_CASE, RATE, WITHOUT_EXCHANGE, Standing, largest_over
from analysis.stats import LEVEL, corrected, ratio, runs_needed, smallest_effect, spread
from analysis.words import base_text, count, percent, rate, short

_MOST_WORKLOADS = 12
_ERROR_LENGTH = 100
_IMPOSSIBLE_EFFICIENCY = 1.02
"""Above 1 by more than rounding and a little noise."""
_WIDE_SPREAD = 0.1
_WANTED_EFFECT = 0.05
"""The change that a comparison should be able to show."""
_RUNS_FOR_AN_INTERVAL = 3
"""Two runs give one as well, but it reaches 12.7 standard errors."""


def sentences(standings: Sequence[Standing], floor: float) -> list[str]:
    """A paragraph for each workload, then what waits for its input and what failed. `floor`: the efficiency that
    scaling should not fall below."""
    workloads = _alike([one for one in standings if one.configuration.samples[RATE]])
    said = [
        f"{workload}: {' '.join(_workload(among, floor))}" for workload, among in [*workloads.items()][:_MOST_WORKLOADS]
    ]
    left = len(workloads) - _MOST_WORKLOADS
    if left > 0:
        said.append(f"{count(left, 'more workload')} are left out here: ask for fewer with --model or --where.")
    waiting = input_bound.sentences([one.configuration for one in standings])
    return [*said, *waiting, *_failures(standings)]


def warnings(standings: Sequence[Standing], link_gb_per_s: float | None) -> list[str]:
    """What cannot be true or is too uncertain. `link_gb_per_s`: what the network carries, 10^9 bytes/s."""
    measured = [one for one in standings if one.configuration.samples[RATE]]
    said = (
        _over_one(measured, beyond=True),
        _over_one(measured, beyond=False),
        _over_link(measured, link_gb_per_s),
        _wide(measured),
        _sample_size(measured),
        _ring_as_nccl(measured),
    )
    return [sentence for sentence in said if sentence]


def _over_one(measured: Sequence[Standing], *, beyond: bool) -> str | None:
    """About efficiencies over 100% that their intervals confirm, or about those that may be noise."""
    over = [
        (one.efficiency.value, one)
        for one in measured
        if one.efficiency and one.efficiency.value > _IMPOSSIBLE_EFFICIENCY and one.efficiency.excludes(1) is beyond
    ]
    if not over:
        return None
    _, worst = max(over, key=lambda pair: pair[0])
    assert worst.base and worst.efficiency
    which = (
        f"Efficiency is over 100% in {count(len(over), 'configuration')} (most: {worst.configuration.name}, "
        f"{percent(worst.efficiency)}; base case: {base_text(worst.base)})"
    )
    if not beyond:
        return f"{which}, but not by more than noise can do: run both sides more often."
    strong = any(one.configuration.setup["scaling"] == "strong" for _, one in over)
    caches = " (only with a fixed global batch can it be true, where a smaller share fits the caches)" if strong else ""
    return (
        f"{which}, which is impossible: the base case had fewer cores or a lower clock, or too few runs; measure it "
        f"again, in one sweep with the others{caches}."
    )


def _over_link(measured: Sequence[Standing], link_gb_per_s: float | None) -> str | None:
    if link_gb_per_s is None:
        return None
    over = [(one.bus_gb_per_s, one) for one in measured if one.bus_gb_per_s and one.bus_gb_per_s > link_gb_per_s]
    if not over:
        return None
    rate_gb_per_s, worst = max(over, key=lambda pair: pair[0])
    return (
        f"Gradients would need more than the {number(link_gb_per_s)} GB/s of the link in "
        f"{count(len(over), 'configuration')} (most: {worst.configuration.name}, {number(rate_gb_per_s)} GB/s), which "
        "cannot be: they stayed within one host, were compressed, came from fewer layers than thought, or the link's "
        "rate is wrong; check these."
    )


def _wide(measured: Sequence[Standing]) -> str | None:
    spreads = [(spread([one.configuration.samples[RATE]]), one) for one in measured]
    wide = [(width, one) for width, one in spreads if width is not None and width > _WIDE_SPREAD]
    if not wide:
        return None
    width, worst = max(wide, key=lambda pair: pair[0])
    return (
        f"Runs of the same configuration differ by more than {_WIDE_SPREAD:.0%} (standard deviation) in {len(wide)} of "
        f"{count(len(measured), 'configuration')} (most: {worst.configuration.name}, {width:.0%}): the machine was not "
        "quiet; repeat them with the machine to yourself."
    )


def _sample_size(measured: Sequence[Standing]) -> str | None:
    """Whether the runs at hand can show a change that matters, and how many more could."""
    samples = [one.configuration.samples[RATE] for one in measured]
    fewest = min((len(sample) for sample in samples), default=0)
    if not fewest:
        return None
    width = spread(samples)
    if width is None:
        more = _RUNS_FOR_AN_INTERVAL - 1
        return f"One run of each configuration gives no interval at all: run at least {more} more of each."
    needed = runs_needed(width, _WANTED_EFFECT)
    if needed is not None and needed <= fewest:
        return None
    remedy = "no number of runs does" if needed is None else f"run {needed - fewest} more of each"
    if fewest == 1:
        single = sum(len(sample) == 1 for sample in samples)
        can = f"{single} of {count(len(samples), 'configuration')} have a single run and so no interval"
    else:
        can = f"{fewest} runs a configuration can show a change of {smallest_effect(width, fewest):,.0%} or more"
    return f"{can}: runs differ by {width:.1%}, and to show {_WANTED_EFFECT:.0%}, {remedy}."


def _ring_as_nccl(measured: Sequence[Standing]) -> str | None:
    wrong = [one for one in measured if earlier.recorded_ring_as_nccl(one.configuration.setup)]
    if not wrong:
        return None
    return (
        f"{count(len(wrong), 'configuration')} of mwms recorded NCCL, but used TensorFlow's ring through host memory, "
        "which it takes on GPUs where --all-reduce is auto; --all-reduce=nccl measures NCCL."
    )


def _alike(measured: Sequence[Standing]) -> dict[str, list[Standing]]:
    """What may be compared, by workload and, where those of one workload differ in hardware or work that its name does
    not tell, by what they differ in: one plot can show several kinds of a device, but none of them is a strategy."""
    groups: dict[str, dict[tuple[Any, ...], list[Standing]]] = defaultdict(lambda: defaultdict(list))
    for one in measured:
        setup = one.configuration.setup
        groups[one.configuration.workload][tuple(setup[name] for name in LIKE_BASE_CASE)].append(one)
    found = {}
    for workload, kinds in groups.items():
        differ = [name for name, *values in zip(LIKE_BASE_CASE, *kinds, strict=True) if len({*values}) > 1]
        for among in kinds.values():
            found[", ".join([workload, *words(among[0].configuration.setup, differ)])] = among
    return found


def _workload(measured: Sequence[Standing], floor: float) -> list[str]:
    said, winner = _fastest(measured)
    if winner:
        mine = [one for one in measured if one.configuration.series == winner.configuration.series]
        said += _scaling(mine, floor)
    return said + servers(measured) + without_base(measured)


def _fastest(measured: Sequence[Standing]) -> tuple[list[str], Standing | None]:
    """The sentence about the contest, and the fastest at the largest number of devices that several took part with."""
    # Without an exchange nothing is trained together, and one device has nothing to exchange: neither is a rival.
    rivals = [one for one in measured if one.configuration.setup["strategy"] not in (BASE_STRATEGY, WITHOUT_EXCHANGE)]
    if not rivals:
        return [f"{base_text(_best(measured).configuration)}; no strategy was measured against it."], None
    contests: dict[tuple[int, int], dict[str, Standing]] = defaultdict(dict)
    for one in rivals:
        setup, series = one.configuration.setup, one.configuration.series
        contest = contests[setup["num_devices"] or 0, setup["num_nodes"] or 0]
        contest[series] = _best([one, *([contest[series]] if series in contest else [])])
    shared = {size: contest for size, contest in contests.items() if len(contest) > 1}
    if not shared:
        most = contests[max(contests)]
        only = _best(most.values())
        speed = number(rate(only.configuration))
        alone = "no other strategy was measured with the same devices"
        does = "infers" if only.configuration.setup["phase"] == "forward" else "trains"
        return [f"{short(only.configuration)} {does} {speed} images/s; {alone}."], only
    ranked = sorted(shared[max(shared)].values(), key=lambda one: -rate(one.configuration))
    return [_lead(ranked)], ranked[0]


def _lead(ranked: Sequence[Standing]) -> str:
    first, second = ranked[0].configuration, ranked[1].configuration
    # The leader was picked after the fact: it has to be ahead of all others at once.
    level = corrected(LEVEL, len(ranked) - 1)
    lead = ratio([first.samples[RATE]], [second.samples[RATE]], level=level)
    devices = _size(ranked[0])
    if not lead.excludes(1):
        rates = f"{number(rate(first))} and {number(rate(second))} images/s"
        why = "and a single run has no interval" if lead.low is None else f"a difference of {percent(lead, less=1)}"
        return f"{first.series} and {second.series} cannot be told apart at {devices}: {rates}, {why}."
    forward = first.setup["phase"] == "forward"
    alike = forward or first.setup["synchronous"]
    style = "" if alike else " Its updates are asynchronous: compare what it learns, too."
    return (
        f"{first.series} is the fastest at {devices}: {number(rate(first))} images/s, {percent(lead, less=1)} "
        f"more than {second.series}.{style}"
    )


def _scaling(mine: Sequence[Standing], floor: float) -> list[str]:
    """How far one series scales, and what its largest configuration loses."""
    known = [(one, one.efficiency) for one in mine if one.efficiency]
    if not known:
        return []
    known.sort(key=lambda pair: [pair[0].configuration.setup[name] or 1 for name in ("num_devices", "num_nodes")])
    (first, at_first), (last, at_last) = known[0], known[-1]
    held = largest_over(mine, floor)
    if held is None:
        more = f", {percent(at_last)} at {_size(last)}" if last is not first else ""
        text = f"is below {floor:.0%} already at {_size(first)}: {percent(at_first)}{more}"
    elif at_last.value < floor:
        text = f"falls below {floor:.0%} beyond {_size(held)}: {percent(at_last)} at {_size(last)}"
    else:
        always = all(efficiency.value >= floor for _, efficiency in known)
        verb = f"stays over {floor:.0%} up to" if always else f"is over {floor:.0%} at"
        text = f"{verb} {_size(last)}, the most that were measured: {percent(at_last)}"
    assert last.base
    name = last.configuration.series
    return [f"The efficiency of {name} {text}; base case: {base_text(last.base)}.", *losses(last, last.base)]


def _size(one: Standing) -> str:
    setup = one.configuration.setup
    nodes = f" on {setup['num_nodes']} nodes" if (setup["num_nodes"] or 1) > 1 else ""
    return f"{count(setup['num_devices'], 'device')}{nodes}"


def _failures(standings: Sequence[Standing]) -> list[str]:
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for one in standings:
        if one.configuration.failures:
            ends[str(one.configuration.setup["strategy"])].update(one.configuration.failures)
    failed = sum(seen.total() for seen in ends.values())
    if not failed:
        return []
    ran = failed + sum(len(one.configuration.run_ids) for one in standings)
    parts = []
    for strategy, seen in sorted(ends.items(), key=lambda item: (-item[1].total(), item[0])):
        (commonest, times), *_ = seen.most_common(1)
        which = "" if times == seen.total() else f"{times} of them "
        parts.append(f"{strategy} {seen.total()} ({which}{_error(commonest)})")
    return [f"{failed:,} of {count(ran, 'run')} failed and are in no figure: {', '.join(parts)}."]


def _error(end: str) -> str:
    text = " ".join(end.split())
    for nothing in (": None", ": nan", ": <NA>"):
        text = text.removesuffix(nothing)
    return text if len(text) <= _ERROR_LENGTH else text[:_ERROR_LENGTH] + "..."


def _best(among: Iterable[Standing]) -> Standing:
    return max(among, key=lambda one: rate(one.configuration))
