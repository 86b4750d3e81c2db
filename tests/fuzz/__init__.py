"""Input that nobody meant: everything that is read is an answer or one line that says what is wrong with it.

`make test` tries the same examples every time, `make fuzz` new ones for minutes. What was found stays as an @example.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

HOSTILE_TEXTS = (
    *("", " ", "0", "1", "-1", "+3", " 3 ", "3\n", "1_000", "1e3", "1.0", "0x10", "²", "٣", "10" * 15, "9" * 5000),
    *("nan", "inf", "None", "a b", "a\nb", "\x1b[2J", "\u2028", "é", "💥", "-", "--", "=", ",", "..", "/", "[", "]"),
)
"""Numbers that `int` takes and nobody writes, those that `isdigit` takes and `int` does not, and what ends a line."""

hostile_texts = st.sampled_from(HOSTILE_TEXTS) | st.text(st.characters(exclude_characters="\0"), max_size=12)


def costly(times: int) -> settings:
    """For a test whose examples cost so many times as much as others."""
    return settings(max_examples=max(10, settings().max_examples // times))


def is_one_line(error: object) -> bool:
    """Whether an error is told as it should be."""
    return str(error).strip() != "" and len(str(error).splitlines()) == 1
