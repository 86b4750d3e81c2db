"""A metric of configurations as samples of runs, ready to be divided by one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.configurations import Configuration
from analysis.metrics import EFFICIENCY, Metric
from analysis.scaling import RATE, standings
from analysis.stats import LEVEL, Interval, Sample, ratio


@dataclass(frozen=True)
class Samples:
    """A metric of one configuration: product of the typical values of `above` / product of those of `below`.

    A column of the runs has one sample above; an efficiency has that of its base case below, and 1/devices as scale.
    """

    above: Sequence[Sample]
    below: Sequence[Sample] = ()
    scale: float = 1.0

    def value(self, level: float = LEVEL) -> Interval:
        """The metric with its interval."""
        return ratio(self.above, self.below, scale=self.scale, level=level)

    def over(self, other: Samples, level: float) -> Interval:
        """The ratio of this to another, in which all samples vary."""
        return ratio(
            [*self.above, *other.below], [*self.below, *other.above], scale=self.scale / other.scale, level=level
        )

    @property
    def runs(self) -> int:
        """Of the sample that has the fewest."""
        return min(len(sample) for sample in (*self.above, *self.below))


def samples(found: Sequence[Configuration], metric: Metric) -> Mapping[str, Samples]:
    """comparability_key -> the metric's samples, for the configurations that have them."""
    if metric.name != EFFICIENCY:
        return {one.key: Samples([one.samples[metric.name]]) for one in found if one.samples[metric.name]}
    return {
        standing.configuration.key: Samples(
            [standing.configuration.samples[RATE]],
            [standing.base.samples[RATE]],
            1 / standing.configuration.setup["num_devices"],
        )
        for standing in standings(found)
        if standing.base is not None and standing.base is not standing.configuration
    }
