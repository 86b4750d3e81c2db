"""Node lists as Slurm writes them, and what looks like one."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import ClusterError
from jobs.node_list import expand
from tests.fuzz import is_one_line

words = st.text("abn.-_x", min_size=1, max_size=4)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[str, list[str]]:
    """(a range of numbers in brackets, the numbers)."""
    width, first, count = draw(st.integers(1, 4)), draw(st.integers(0, 120)), draw(st.integers(1, 5))
    numbers = [f"{number:0{width}d}" for number in range(first, first + count)]
    return (numbers[0] if count == 1 else f"{numbers[0]}-{first + count - 1:0{width}d}"), numbers


@st.composite
def entries(draw: st.DrawFn) -> tuple[str, list[str]]:
    """(an entry of a list: text with up to two sets of brackets in it, the hosts that it names)."""
    text, parts = draw(words), []
    parts.append([text])
    for _ in range(draw(st.integers(0, 2))):
        found = draw(st.lists(ranges(), min_size=1, max_size=3))
        text += f"[{','.join(each for each, _ in found)}]"
        parts.append([number for _, numbers in found for number in numbers])
        more = draw(st.sampled_from(("", "x", ".site")))
        text += more
        parts.append([more])
    return text, ["".join(each) for each in itertools.product(*parts)]


@given(st.lists(entries(), min_size=1, max_size=3))
def test_a_list_names_the_hosts_that_it_was_made_of(made: list[tuple[str, list[str]]]) -> None:
    assert expand(",".join(text for text, _ in made)) == [host for _, hosts in made for host in hosts]


lists = st.lists(entries(), min_size=1, max_size=3).map(lambda made: ",".join(text for text, _ in made))
pieces = st.sampled_from(
    ("[", "]", "-", ",", "0", "99999999999", "9" * 5000, "0" * 5000, "²", "٣", "\n", "\x1b", " ", "[0-65535]")
)


@st.composite
def damaged_lists(draw: st.DrawFn) -> str:
    """A list with pieces cut out and put in."""
    text = draw(lists | st.just("node[1-3,07-12]x[1-2]"))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(pieces | st.just("")) + text[at + draw(st.integers(0, 3)) :]
    return text


@given(damaged_lists() | st.text(max_size=30))
def test_any_text_is_hosts_or_a_cluster_error(text: str) -> None:
    try:
        hosts = expand(text)
    except ClusterError as error:
        assert is_one_line(error)
        return
    assert hosts
    assert all(host and host.isprintable() and not set(host) & set("[], ") for host in hosts)
    assert expand(",".join(hosts)) == hosts
