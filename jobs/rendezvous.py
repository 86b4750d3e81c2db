"""Where the processes of a job meet before any framework connects them: every process and rank 0, over TCP.

It tells who is who and whether all belong together, while a failure still has a name: a framework's own rendezvous
only hangs. The connections stay open, so that a process that has gone is noticed and barriers need no framework.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

from jobs.cluster import OUR_PORTS, ClusterEnv, ClusterError

_RETRY_S = 0.1
_HELLO_S = 5.0
"""How long a stranger that connects to rank 0 may keep it waiting."""
_WELCOME_S = 30.0
"""How long rank 0 may be busy with others before a process tries the next meeting point."""
_WELCOME = b"welcome"
_LEAVE_S = 10.0
"""How long rank 0 waits for another process that has done its work to end."""
_LENGTH = struct.Struct("!I")
_MAX_FRAME = 1 << 24


class PortTaken(ClusterError):
    """Somebody else listens where this process should."""

    exit_code = 3


class PeerGone(ClusterError):
    """A process of the job has ended while others still needed it."""

    exit_code = 4


class Rendezvous:
    """The processes of `cluster`, once all have arrived; waits for them without a bound of its own.

    `cluster` is then complete: where the launcher named no addresses, every process has offered its host and a free
    port. Raises PortTaken, and ClusterError for a host that is not known here.
    """

    def __init__(self, cluster: ClusterEnv) -> None:
        self.cluster = cluster
        self._peers: dict[int, socket.socket] = {}
        if cluster.size == 1:
            return
        assert cluster.meeting_points, "MPI has not told where to meet"
        if cluster.rank == 0:
            self._peers = dict(_welcome(cluster))
        else:
            if cluster.task.address:
                _listener(cluster.task.port).close()  # the framework will want it: better to know now
            self._peers = {0: _call(cluster)}
        if any(task.address is None for task in cluster.tasks):
            self.cluster = cluster.with_addresses([text.decode() for text in self.exchange(offer(cluster).encode())])

    def exchange(self, payload: bytes) -> list[bytes]:
        """Gives `payload` to every process and returns all of them in rank order: also a barrier. Raises PeerGone."""
        if self.cluster.size == 1:
            return [payload]
        if self.cluster.rank:
            self._guard(0, lambda peer: peer.sendall(_packed([payload])))
            return self._receive(0)
        said = [payload, *(self._receive(rank)[0] for rank in range(1, self.cluster.size))]
        answer = _packed(said)  # once: it is long where many meet
        for rank in self._peers:
            self._guard(rank, lambda peer: peer.sendall(answer))
        return said

    def close(self) -> None:
        """Takes leave, in the end: rank 0 returns when all others have, for their frameworks may need its to the last.

        A peer that still waits for this process in `exchange` is told that it has gone.
        """
        for peer in self._peers.values():
            if self.cluster.rank == 0:
                peer.settimeout(_LEAVE_S)
                with suppress(OSError):
                    peer.recv(1)  # nothing, when the other end is closed
            peer.close()

    def _receive(self, rank: int) -> list[bytes]:
        frames: list[bytes] = []
        self._guard(rank, lambda peer: frames.extend(_receive(peer)))
        return frames

    def _guard(self, rank: int, talk: Callable[[socket.socket], None]) -> None:
        try:
            talk(self._peers[rank])
        except OSError as error:
            address = self.cluster.tasks[rank].address
            raise PeerGone(f"rank {rank}{f' ({address})' if address else ''} has gone: look at what it said") from error


def offer(cluster: ClusterEnv) -> str:
    """This host and a port of it that is free now. Each process of a job, and each job, begins to look elsewhere."""
    start = zlib.crc32(f"{cluster.job or os.getpid()} {cluster.rank}".encode())
    for turn in range(len(OUR_PORTS)):
        port = OUR_PORTS[(start + turn) % len(OUR_PORTS)]
        with suppress(PortTaken), closing(_listener(port)):
            return f"{socket.gethostname()}:{port}"
    raise PortTaken(f"no port from {OUR_PORTS[0]} to {OUR_PORTS[-1]} is free on {socket.gethostname()}")


def _welcome(cluster: ClusterEnv) -> Iterator[tuple[int, socket.socket]]:
    """(rank, connection) of every other process; strangers, and processes of another job, are turned away."""
    with closing(_first_free(cluster)) as listener:
        listener.listen(cluster.size)
        missing = set(range(1, cluster.size))
        while missing:
            peer, _ = listener.accept()
            peer.settimeout(_HELLO_S)
            try:
                job, rank = json.loads(_receive(peer)[0])
                if job != _job(cluster) or rank not in missing:
                    raise ValueError("a process of another job")
                peer.sendall(_packed([_WELCOME]))
                _receive(peer)  # it may have given up while others were greeted
            except (OSError, ValueError):
                peer.close()
                continue
            _keep(peer)
            missing.discard(rank)
            yield rank, peer


def _first_free(cluster: ClusterEnv) -> socket.socket:
    """Listens at the first meeting point that nobody else has taken."""
    ports = list(dict.fromkeys(int(point.rpartition(":")[2]) for point in cluster.meeting_points))
    for port in ports[:-1]:
        with suppress(PortTaken):
            return _listener(port)
    return _listener(ports[-1])


def _call(cluster: ClusterEnv) -> socket.socket:
    """The connection to rank 0, which may start later than this process."""
    hello = _packed([json.dumps([_job(cluster), cluster.rank]).encode()])
    for point in itertools.cycle(cluster.meeting_points):
        host, _, port = point.rpartition(":")
        try:
            peer = socket.create_connection((host.strip("[]"), int(port)), timeout=_HELLO_S)
        except socket.gaierror as error:
            raise ClusterError(f"rank 0's host {host!r} is not known here ({error.strerror})") from error
        except OSError:
            time.sleep(_RETRY_S / len(cluster.meeting_points))
            continue
        try:
            peer.settimeout(_WELCOME_S)
            peer.sendall(hello)
            if _receive(peer) == [_WELCOME]:
                peer.sendall(_packed([]))
                _keep(peer)
                return peer
        except (OSError, ValueError):
            pass  # something else answers there, or rank 0 went away: it may come yet
        peer.close()
        time.sleep(_RETRY_S)
    raise AssertionError("there is no meeting point")


def _job(cluster: ClusterEnv) -> str:
    """What only the processes of one job say alike. Not a secret: it keeps strays apart, not intruders."""
    return f"trainscale, {cluster.size} by {cluster.source}, {cluster.job or cluster.meeting_points[0]}"


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} of this process is in use on {socket.gethostname()}: end what listens there, or give "
                "this task another port"
            ) from error
        raise PortTaken(f"port {port} of this process cannot be opened: {error.strerror}") from error
    return listener


def _keep(peer: socket.socket) -> None:
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that vanishes closes nothing
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _packed(frames: list[bytes]) -> bytes:
    return b"".join([_LENGTH.pack(len(frames)), *(_LENGTH.pack(len(f)) + f for f in frames)])


def _receive(peer: socket.socket) -> list[bytes]:
    count = _LENGTH.unpack(_exactly(peer, _LENGTH.size))[0]
    return [_exactly(peer, _LENGTH.unpack(_exactly(peer, _LENGTH.size))[0]) for _ in range(count)]


def _exactly(peer: socket.socket, size: int) -> bytes:
    if size > _MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes")
    chunks = bytearray()
    while len(chunks) < size:
        chunk = peer.recv(min(1 << 16, size - len(chunks)))
        if not chunk:
            raise ConnectionError("closed")
        chunks += chunk
    return bytes(chunks)
