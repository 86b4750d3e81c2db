"""Processes that meet over real sockets; here threads stand for them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from jobs.cluster import SLURM, ClusterEnv, ClusterError, Task
from jobs.launch import free_ports
from jobs.rendezvous import PeerGone, PeerLate, PortTaken, Rendezvous, _packed

BOUND_S = 30


def cluster_of(size: int) -> list[ClusterEnv]:
    ports = free_ports(size)
    return [ClusterEnv.local(rank, ports, ["worker"] * size) for rank in range(size)]


def meet(clusters: Sequence[ClusterEnv]) -> list[Rendezvous]:
    """Everybody at once, rank 0 last of all to be started."""
    with ThreadPoolExecutor(len(clusters)) as pool:
        waiting = [pool.submit(Rendezvous, cluster, BOUND_S) for cluster in reversed(clusters)]
        return [future.result(BOUND_S) for future in reversed(waiting)]


def exchange(meetings: Sequence[Rendezvous], payloads: Sequence[bytes]) -> list[list[bytes]]:
    with ThreadPoolExecutor(len(meetings)) as pool:
        talks = [pool.submit(meeting.exchange, said) for meeting, said in zip(meetings, payloads, strict=True)]
        return [talk.result(BOUND_S) for talk in talks]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_everybody_hears_everybody_in_rank_order(size: int) -> None:
    meetings = meet(cluster_of(size))
    for size_of_payload in (0, 3, 200_000):
        payloads = [bytes([rank]) * size_of_payload for rank in range(size)]
        assert exchange(meetings, payloads) == [payloads] * size
    with ThreadPoolExecutor(size) as pool:
        for leaving in [pool.submit(meeting.close) for meeting in meetings]:
            leaving.result(BOUND_S)


def test_rank_zero_leaves_last() -> None:
    meetings = meet(cluster_of(3))
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(meetings[0].close)
        meetings[2].close()
        assert not wait([leaving], timeout=0.3).done
        meetings[1].close()
        leaving.result(BOUND_S)


def test_who_has_no_address_offers_one() -> None:
    (port,) = free_ports(1)
    unmet = [
        ClusterEnv(
            "mpirun of MPI",
            rank,
            (Task("chief"), Task("worker"), Task("ps")),
            rank,
            3,
            meeting_points=(f"127.0.0.1:{port}",),
        )
        for rank in range(3)
    ]
    meetings = meet(unmet)
    tasks = [meeting.cluster.tasks for meeting in meetings]
    assert tasks[0] == tasks[1] == tasks[2]
    assert [task.role for task in tasks[0]] == ["chief", "worker", "ps"]
    assert {task.host for task in tasks[0]} == {socket.gethostname()}
    assert len({task.port for task in tasks[0]}) == 3
    assert [meeting.cluster.local_rank for meeting in meetings] == [0, 1, 2]


def test_strangers_and_processes_of_other_jobs_are_turned_away() -> None:
    mine = cluster_of(3)
    other = ClusterEnv.local(1, [mine[0].task.port, *free_ports(1)], ["worker"] * 2)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(Rendezvous, mine[0], BOUND_S)
        stray = pool.submit(Rendezvous, other, BOUND_S)
        while True:
            try:
                with socket.create_connection(("127.0.0.1", mine[0].task.port)) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
                break
            except ConnectionRefusedError:
                continue
        rest = [pool.submit(Rendezvous, cluster, BOUND_S) for cluster in mine[1:]]
        meetings = [future.result(BOUND_S) for future in (first, *rest)]
        assert exchange(meetings, [b"a", b"b", b"c"])[2] == [b"a", b"b", b"c"]
        assert not stray.done()
        # The stray finds its own rank 0 there in the end, and meets that.
        own = Rendezvous(ClusterEnv.local(0, [task.port for task in other.tasks], ["worker"] * 2), BOUND_S)
        assert exchange([own, stray.result(BOUND_S)], [b"x", b"y"]) == [[b"x", b"y"]] * 2


def test_two_jobs_that_would_meet_at_one_port_both_meet() -> None:
    """Both have the same candidates, as jobs on one host may; only their names differ."""
    points = tuple(f"127.0.0.1:{port}" for port in free_ports(3))
    jobs = [
        [ClusterEnv(SLURM, rank, (Task("worker"),) * 3, rank, 3, meeting_points=points, job=job) for rank in range(3)]
        for job in ("17.0", "18.0")
    ]
    with ThreadPoolExecutor(6) as pool:
        waiting = [[pool.submit(Rendezvous, cluster, BOUND_S) for cluster in reversed(job)] for job in jobs]
        meetings = [[future.result(BOUND_S) for future in reversed(job)] for job in waiting]
    ports = [{task.port for task in meeting[0].cluster.tasks} for meeting in meetings]
    assert not ports[0] & ports[1]
    for job in meetings:
        assert exchange(job, [b"a", b"b", b"c"]) == [[b"a", b"b", b"c"]] * 3


def test_a_service_that_never_answers_at_the_first_meeting_point_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.rendezvous._WELCOME_S", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        points = (f"127.0.0.1:{mute.getsockname()[1]}", f"127.0.0.1:{free_ports(1)[0]}")
        clusters = [
            ClusterEnv(SLURM, rank, (Task("worker"),) * 2, rank, 2, meeting_points=points, job="1.0") for rank in (0, 1)
        ]
        meetings = meet(clusters)
    assert exchange(meetings, [b"a", b"b"]) == [[b"a", b"b"]] * 2


def test_who_leaves_is_missed_by_name() -> None:
    meetings = meet(cluster_of(3))
    meetings[2].close()
    with ThreadPoolExecutor(2) as pool:
        talks = [pool.submit(meeting.exchange, b"") for meeting in meetings[:2]]
        with pytest.raises(PeerGone, match=r"rank 2 \(127.0.0.1:\d+\) has gone"):
            talks[0].result(BOUND_S)
        meetings[0]._peers[1].close()
        with pytest.raises(PeerGone, match="rank 0 "):
            talks[1].result(BOUND_S)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_taken_port_is_named(rank: int) -> None:
    cluster = cluster_of(2)[rank]
    with socket.socket() as listener:
        listener.bind(("", cluster.task.port))
        listener.listen()
        with pytest.raises(PortTaken, match=f"port {cluster.task.port} of this process is in use"):
            Rendezvous(cluster, BOUND_S)


def test_a_name_server_that_fails_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, failures = socket.create_connection, [socket.EAI_AGAIN, socket.EAI_AGAIN]

    def connect_later(*args: Any, **options: Any) -> socket.socket:
        if failures:
            raise socket.gaierror(failures.pop(), "Temporary failure in name resolution")
        return connect(*args, **options)

    monkeypatch.setattr(socket, "create_connection", connect_later)
    assert exchange(meet(cluster_of(2)), [b"a", b"b"]) == [[b"a", b"b"]] * 2
    assert failures == []


def test_an_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **_options: object) -> socket.socket:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)  # without a name server here, it would be asked again
    tasks = (Task("worker", "no.such.host.invalid:1"), Task("worker", f"127.0.0.1:{free_ports(1)[0]}"))
    with pytest.raises(ClusterError, match=r"rank 0's host 'no\.such\.host\.invalid' is not known here"):
        Rendezvous(ClusterEnv.of_tasks("TF_CONFIG", 1, tasks), BOUND_S)


def late(clusters: Sequence[ClusterEnv], timeout_s: float) -> list[str]:
    """What each of those that did come is told."""
    with ThreadPoolExecutor(len(clusters)) as pool:
        waiting = [pool.submit(lambda c: Rendezvous(c, timeout_s).exchange(b""), cluster) for cluster in clusters]
        return [str(future.exception(BOUND_S)) for future in waiting if isinstance(future.exception(), PeerLate)]


def test_everybody_who_came_is_told_who_did_not() -> None:
    clusters = cluster_of(4)
    said = late([clusters[0], clusters[2]], 0.5)
    addresses = [cluster.task.address for cluster in clusters]
    wanted = (
        f"rank 1 ({addresses[1]}), rank 3 ({addresses[3]}) never arrived within 0.5 s: look whether all processes were "
        f"started and what they said, and whether their hosts reach {addresses[0]}"
    )
    assert said == [wanted, wanted]


def test_the_scheduler_s_names_tell_which_hosts_sent_nobody() -> None:
    (port,) = free_ports(1)
    clusters = [
        ClusterEnv(
            SLURM,
            rank,
            (Task("worker"),) * 12,
            0,
            1,
            nodes=("n1", "n2", "n3"),
            node=f"n{1 + rank}",
            meeting_points=(f"127.0.0.1:{port}",),
            job="1.0",
        )
        for rank in (0, 1)
    ]
    said = late(clusters, 0.5)
    assert len(said) == 2
    assert "rank 2, rank 3, rank 4, rank 5, rank 6, rank 7, rank 8, rank 9 and 2 more (nobody came from n3)" in said[0]


def test_who_finds_no_rank_zero_says_where_it_looked() -> None:
    cluster = cluster_of(2)[1]
    (said,) = late([cluster], 0.1)
    assert said.startswith(f"rank 0 ({cluster.meeting_points[0]}) did not answer rank 1 within 0.1 s: look whether")


def test_who_stops_answering_before_all_is_settled_is_named() -> None:
    clusters = cluster_of(2)
    with ThreadPoolExecutor(2) as pool:
        meetings = list(pool.map(Rendezvous, clusters, (1, BOUND_S)))
    with pytest.raises(PeerLate, match=r"rank 1 \(127.0.0.1:\d+\) has stopped answering within 1 s"):
        meetings[0].exchange(b"")
    with pytest.raises(PeerLate, match=r"rank 1 .* has stopped answering"):
        meetings[1].exchange(b"")


def test_a_host_that_has_vanished_is_gone_and_not_late() -> None:
    """The kernel gives such a connection up with the error that Python calls a timeout."""

    class Vanished:
        def settimeout(self, _: object) -> None: ...

        def sendall(self, _: bytes) -> None:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    meeting = meet(cluster_of(2))[1]
    meeting._peers[0] = Vanished()  # type: ignore[assignment]
    with pytest.raises(PeerLate):
        meeting.exchange(b"")
    meeting.settle()
    with pytest.raises(PeerGone, match=r"rank 0 .* is silent: look at its host"):
        meeting.exchange(b"")


@pytest.mark.parametrize(
    "said", [b"\0\0\0\0", _packed([b"5"]), _packed([b"[" * 100_000]), _packed([b'["job", [], {}]']), _packed([b"\xff"])]
)
def test_who_says_what_none_of_ours_says_is_turned_away(said: bytes) -> None:
    clusters = cluster_of(2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Rendezvous, clusters[0], BOUND_S)
        while True:
            try:
                with socket.create_connection(("127.0.0.1", clusters[0].task.port)) as stranger:
                    stranger.sendall(said)
                    assert stranger.recv(1) == b""
                break
            except ConnectionRefusedError:
                continue
        second = pool.submit(Rendezvous, clusters[1], BOUND_S)
        assert exchange([first.result(BOUND_S), second.result(BOUND_S)], [b"a", b"b"]) == [[b"a", b"b"]] * 2


def test_once_settled_nobody_is_hurried() -> None:
    clusters = cluster_of(2)
    with ThreadPoolExecutor(2) as pool:
        meetings = list(pool.map(Rendezvous, clusters, (0.5, 0.5)))
        for meeting in meetings:
            meeting.settle()
        early = pool.submit(meetings[0].exchange, b"a")
        assert not wait([early], timeout=1.0).done
        assert pool.submit(meetings[1].exchange, b"b").result(BOUND_S) == early.result(BOUND_S) == [b"a", b"b"]


def test_on_this_machine_alone_nobody_else_can_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[str] = []
    bind = socket.socket.bind

    def note(listener: socket.socket, address: tuple[str, int]) -> None:
        bound.append(address[0])
        bind(listener, address)

    clusters = cluster_of(2)
    monkeypatch.setattr(socket.socket, "bind", note)
    meet(clusters)
    assert set(bound) == {"127.0.0.1"}
