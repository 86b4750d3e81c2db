"""Where the processes of a job meet before any framework connects them: every process and rank 0, over TCP.

It tells who is who and whether all belong together, while a failure still has a name: a framework's own rendezvous
only hangs. The connections stay open, so that a process that has gone is noticed and barriers need no framework.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

from jobs.cluster import ClusterEnv, ClusterError

_RETRY_S = 0.1
_HELLO_S = 5.0
"""How long a stranger that connects to rank 0 may keep it waiting."""
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
        assert cluster.meeting_point is not None, "MPI has not told where to meet"
        if cluster.rank == 0:
            self._peers = dict(_welcome(cluster, _port(cluster.meeting_point)))
        else:
            if cluster.task.address:
                _listener(cluster.task.port).close()  # the framework will want it: better to know now
            self._peers = {0: _call(cluster)}
        if any(task.address is None for task in cluster.tasks):
            self.cluster = cluster.with_addresses([text.decode() for text in self.exchange(_offer().encode())])

    def exchange(self, payload: bytes) -> list[bytes]:
        """Gives `payload` to every process and returns all of them in rank order: also a barrier. Raises PeerGone."""
        if self.cluster.size == 1:
            return [payload]
        if self.cluster.rank:
            self._send(0, [payload])
            return self._receive(0)
        said = [payload, *(self._receive(rank)[0] for rank in range(1, self.cluster.size))]
        for rank in self._peers:
            self._send(rank, said)
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

    def _send(self, rank: int, frames: list[bytes]) -> None:
        self._guard(rank, lambda peer: _send(peer, frames))

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


def _welcome(cluster: ClusterEnv, port: int) -> Iterator[tuple[int, socket.socket]]:
    """(rank, connection) of every other process; strangers, and processes of another job, are turned away."""
    with closing(_listener(port)) as listener:
        listener.listen(cluster.size)
        missing = set(range(1, cluster.size))
        while missing:
            peer, _ = listener.accept()
            peer.settimeout(_HELLO_S)
            try:
                job, rank = json.loads(_receive(peer)[0])
            except (OSError, ValueError):
                peer.close()
                continue
            if job != _job(cluster) or rank not in missing:
                peer.close()
                continue
            _keep(peer)
            _send(peer, [b"welcome"])
            missing.discard(rank)
            yield rank, peer


def _call(cluster: ClusterEnv) -> socket.socket:
    """The connection to rank 0, which may start later than this process."""
    host, _, port = str(cluster.meeting_point).rpartition(":")
    hello = json.dumps([_job(cluster), cluster.rank]).encode()
    while True:
        try:
            peer = socket.create_connection((host.strip("[]"), int(port)), timeout=_HELLO_S)
        except socket.gaierror as error:
            raise ClusterError(f"rank 0's host {host!r} is not known here ({error.strerror})") from error
        except OSError:
            time.sleep(_RETRY_S)
            continue
        try:
            _send(peer, [hello])
            peer.settimeout(None)  # rank 0 greets one after another
            if _receive(peer) == [b"welcome"]:
                _keep(peer)
                return peer
        except (OSError, ValueError):
            pass  # something else answers there, or rank 0 went away: it may come yet
        peer.close()
        time.sleep(_RETRY_S)


def _job(cluster: ClusterEnv) -> str:
    """What only the processes of one job say alike. Not a secret: it keeps strays apart, not intruders."""
    return f"trainscale, {cluster.size} by {cluster.source}, {cluster.meeting_point}"


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


def _offer() -> str:
    """This host and a free port of it."""
    with closing(_listener(0)) as free:
        return f"{socket.gethostname()}:{free.getsockname()[1]}"


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _keep(peer: socket.socket) -> None:
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that vanishes closes nothing
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _send(peer: socket.socket, frames: list[bytes]) -> None:
    peer.sendall(b"".join([_LENGTH.pack(len(frames)), *(_LENGTH.pack(len(f)) + f for f in frames)]))


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
