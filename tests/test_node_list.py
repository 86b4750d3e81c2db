from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cluster import ClusterError
from jobs.node_list import expand


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node7", ["node7"]),
        ("node[2,9-11]", ["node2", "node9", "node10", "node11"]),
        ("node[2,9-10],gpu01", ["node2", "node9", "node10", "gpu01"]),
        ("z,a,m[2,1]", ["z", "a", "m2", "m1"]),
        ("n[008-011]", ["n008", "n009", "n010", "n011"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("rack[1-2]n[01-02].site", ["rack1n01.site", "rack1n02.site", "rack2n01.site", "rack2n02.site"]),
        ("[1-2]a", ["1a", "2a"]),
    ],
)
def test_hosts_come_in_the_order_of_the_list(text: str, hosts: list[str]) -> None:
    assert expand(text) == hosts


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a,",
        ",a",
        "a,,b",
        "a b",
        "a\nb",
        "n[",
        "n]",
        "n[]",
        "n[1",
        "n[a]",
        "n[2-1]",
        "n[1-2-3]",
        "n\x1b[1]",
        f"n[{'9' * 5000}]",
    ],
)
def test_what_slurm_would_not_write_is_an_error(text: str) -> None:
    with pytest.raises(ClusterError, match="is malformed"):
        expand(text)


@pytest.mark.parametrize(
    "text", ["n[0-99999999]", "n[0-999]m[0-999]", ",".join(["n[0-50000]"] * 2), "n" + "[0-9999]" * 9999]
)
def test_a_list_without_end_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="more than 65536 hosts"):
        expand(text)


@given(st.text(alphabet="an019-,[] \n.", max_size=24) | st.text(max_size=24))
def test_any_text_is_a_list_or_a_cluster_error(text: str) -> None:
    try:
        hosts = expand(text)
    except ClusterError:
        return
    assert hosts
    assert not any(set(host) & set("[], \n") for host in hosts)
