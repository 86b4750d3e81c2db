from __future__ import annotations

import pytest

from bench.errors import gist


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "Graph execution error:\n\nDetected at node while/sgd defined at (most recent call last):\n"
            '  File "x.py", line 3, in <module>\n<stack traces unavailable>\n'
            "Collective ops is aborted by: recvmsg:Connection reset by peer\nRestart your program to reset.",
            "Collective ops is aborted by: recvmsg:Connection reset by peer",
        ),
        ("no such tensor", "no such tensor"),
        ("", ""),
        ("Graph execution error:\n\n  all is\nDetected at node", "Graph execution error: all is Detected at node"),
    ],
)
def test_the_gist_of_a_frameworks_error_is_what_happened(message: str, line: str) -> None:
    assert gist(message) == line
