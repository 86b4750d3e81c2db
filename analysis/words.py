"""Names and figures as the sentences of a report say them."""

from __future__ import annotations

from analysis.configurations import Configuration
from analysis.metrics import number
from analysis.scaling import RATE
from analysis.stats import Interval

_NARROW = 0.02
"""An interval that would begin and end at nearly the same whole percent."""


def base_text(base: Configuration) -> str:
    """A base case by name with its absolute figure: 'single x1, 2,992 images/s'."""
    return f"{short(base)}, {number(rate(base))} images/s"


def rate(one: Configuration) -> float:
    """Images/s of a configuration that has a good run."""
    typical = one.typical(RATE)
    assert typical
    return typical.value


def short(one: Configuration) -> str:
    """A configuration within its workload: 'mwms x8'."""
    return f"{one.series} x{one.setup['num_devices']}"


def percent(share: Interval, less: float = 0) -> str:
    """A share with its interval: '12% (8% to 16%)'."""
    if share.low is None or share.high is None:
        return _percent(share.value - less, 0)
    digits = 1 if share.high - share.low < _NARROW else 0
    value, low, high = (_percent(figure - less, digits) for figure in (share.value, share.low, share.high))
    return f"{value} ({low} to {high})"


def count(number_of: int, what: str) -> str:
    """'1 run', '2 runs'."""
    return f"{number_of:,} {what}{'' if number_of == 1 else 's'}"


def _percent(share: float, digits: int) -> str:
    return f"{round(share, 2 + digits) + 0.0:.{digits}%}"  # -0.0 + 0.0 is 0.0
