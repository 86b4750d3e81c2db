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
from collections.abc import Callable
from contextlib import closing, suppress

from jobs.cluster import OUR_PORTS, ClusterEnv, ClusterError, Task

_RETRY_S = 0.1
_HELLO_S = 5.0
"""How long a stranger that connects to rank 0 may keep it waiting."""
_WELCOME_S = 30.0
"""How long rank 0 may be busy with others before a process tries the next meeting point."""
_WELCOME = b"welcome"
_LEAVE_S = 10.0
"""How long rank 0 waits for the other processes, which have done their work, to end."""
_TOLD_S = 2.0
"""How much longer the others wait than rank 0, which can tell them who is missing."""
_SILENT_S = 30
"""How long a host may be silent before it is asked whether it still lives; it is given up after half as long again."""
_NAMED = 8
"""Processes that a message names."""
_LENGTH = struct.Struct("!I")
_MAX_FRAME = 1 << 24


class PortTaken(ClusterError):
    """Somebody else listens where this process should."""

    exit_code = 3


class PeerGone(ClusterError):
    """A process of the job has ended while others still needed it."""

    exit_code = 4


class PeerLate(ClusterError):
    """Not all processes of the job came in time."""

    exit_code = 124


class Rendezvous:
    """The processes of `cluster`, once all have arrived.

    They have `timeout_s` [s] to arrive and to exchange what they must, until `settle`. `cluster` is then complete:
    where the launcher named no addresses, every process has offered its host and a free port. Raises PeerLate with who
    is missing, PortTaken, and ClusterError for a host that is not known here.
    """

    def __init__(self, cluster: ClusterEnv, timeout_s: float) -> None:
        self.cluster = cluster
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s + (_TOLD_S if cluster.rank else 0)
        self._settled = False
        self._peers: dict[int, socket.socket] = {}
        if cluster.size == 1:
            return
        assert cluster.meeting_points, "MPI has not told where to meet"
        if cluster.rank == 0:
            self._welcome()
        else:
            if cluster.task.address:
                _listener(cluster.task).close()  # the framework will want it: better to know now
            self._peers = {0: self._call()}
        if any(task.address is None for task in cluster.tasks):
            self.cluster = cluster.with_addresses([text.decode() for text in self.exchange(offer(cluster).encode())])

    def settle(self) -> None:
        """From here on an exchange may take as long as the others train: who gets stuck is ended by its launcher."""
        self._settled = True

    def exchange(self, payload: bytes) -> list[bytes]:
        """Gives `payload` to every process and returns all of them in rank order: also a barrier.

        Raises PeerGone, and PeerLate before `settle`.
        """
        if self.cluster.size == 1:
            return [payload]
        if self.cluster.rank:
            self._guard(0, lambda peer: peer.sendall(_packed([payload])))
            heard = self._receive(0)
            if len(heard) != self.cluster.size:  # rank 0 says why there is no answer
                raise PeerLate(b"".join(heard).decode())
            return heard
        said = [payload, *(self._receive(rank)[0] for rank in range(1, self.cluster.size))]
        answer = _packed(said)  # once: it is long where many meet
        for rank in self._peers:
            self._guard(rank, lambda peer: peer.sendall(answer))
        return said

    def close(self) -> None:
        """Takes leave, in the end: rank 0 returns when all others have, for their frameworks may need its to the last.

        A peer that still waits for this process in `exchange` is told that it has gone.
        """
        deadline = time.monotonic() + _LEAVE_S
        for peer in self._peers.values():
            if self.cluster.rank == 0:
                with suppress(OSError):
                    peer.settimeout(max(0.01, deadline - time.monotonic()))
                    peer.recv(1)  # nothing, when the other end is closed
            peer.close()

    def _receive(self, rank: int) -> list[bytes]:
        frames: list[bytes] = []
        self._guard(rank, lambda peer: frames.extend(_receive(peer)))
        return frames

    def _guard(self, rank: int, talk: Callable[[socket.socket], None]) -> None:
        try:
            self._peers[rank].settimeout(None if self._settled else self._left_s())
            talk(self._peers[rank])
        except TimeoutError:
            if self._settled:  # by the kernel, of a host that has long been silent
                raise PeerGone(f"{self._name(rank)} is silent: look at its host and the network") from None
            raise self._late(f"{self._name(rank)} has stopped answering") from None
        except OSError as error:
            raise PeerGone(f"{self._name(rank)} has gone: look at what it said") from error

    def _left_s(self) -> float:
        """s until the deadline. Raises TimeoutError after it."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _name(self, rank: int) -> str:
        address = self.cluster.tasks[rank].address
        return f"rank {rank}{f' ({address})' if address else ''}"

    def _late(self, who: str) -> PeerLate:
        error = PeerLate(
            f"{who} within {round(self._timeout_s, 1):g} s: look whether all processes were started and what they "
            f"said, and whether their hosts reach {self.cluster.meeting_points[0]}"
        )
        if self.cluster.rank == 0:
            for peer in self._peers.values():
                with suppress(OSError):
                    peer.settimeout(_HELLO_S)
                    peer.sendall(_packed([str(error).encode()]))
        return error

    def _welcome(self) -> None:
        """Waits for every other process; strangers, and processes of another job, are turned away."""
        cluster = self.cluster
        missing = set(range(1, cluster.size))
        silent = [node for node in cluster.nodes if node != cluster.node]
        with closing(_first_free(cluster)) as listener:
            listener.listen(cluster.size)
            while missing:
                try:
                    listener.settimeout(self._left_s())
                    peer, _ = listener.accept()
                except TimeoutError:
                    raise self._late(f"{self._missing(missing, silent)} never arrived") from None
                peer.settimeout(_HELLO_S)
                try:
                    job, rank, node = _hello(_receive(peer))
                    if job != _job(cluster) or rank not in missing:
                        raise ValueError("a process of another job")
                    peer.sendall(_packed([_WELCOME]))
                    _receive(peer)  # it may have given up while others were greeted
                except (OSError, ValueError):
                    peer.close()
                    continue
                _keep(peer)
                missing.discard(rank)
                silent = [other for other in silent if other != node]
                self._peers[rank] = peer

    def _missing(self, ranks: set[int], silent: list[str]) -> str:
        named = ", ".join(self._name(rank) for rank in sorted(ranks)[:_NAMED])
        more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
        nobody = f" (nobody came from {', '.join(silent[:_NAMED])})" if silent else ""
        return f"{named}{more}{nobody}"

    def _call(self) -> socket.socket:
        """The connection to rank 0, which may start later than this process."""
        cluster = self.cluster
        hello = _packed([json.dumps([_job(cluster), cluster.rank, cluster.node]).encode()])
        for point in itertools.cycle(cluster.meeting_points):
            host, _, port = point.rpartition(":")
            try:
                patience = min(_HELLO_S, self._left_s())
            except TimeoutError:
                points = ", ".join(cluster.meeting_points)
                raise self._late(f"rank 0 ({points}) did not answer rank {cluster.rank}") from None
            try:
                peer = socket.create_connection((host.strip("[]"), int(port)), timeout=patience)
            except OSError as error:
                # A name server that is busy, or not there yet, may know the host later.
                if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
                    raise ClusterError(f"rank 0's host {host!r} is not known here ({error.strerror})") from error
                time.sleep(_RETRY_S / len(cluster.meeting_points))
                continue
            try:
                peer.settimeout(min(_WELCOME_S, self._left_s()))
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


def offer(cluster: ClusterEnv) -> str:
    """This host and a port of it that is free now. Each process of a job, and each job, begins to look elsewhere."""
    start = zlib.crc32(f"{cluster.job or os.getpid()} {cluster.rank}".encode())
    for turn in range(len(OUR_PORTS)):
        port = OUR_PORTS[(start + turn) % len(OUR_PORTS)]
        with suppress(PortTaken), closing(_bound("", port)):
            return f"{socket.gethostname()}:{port}"
    raise PortTaken(f"no port from {OUR_PORTS[0]} to {OUR_PORTS[-1]} is free on {socket.gethostname()}")


def _hello(frames: list[bytes]) -> tuple[str, int, str | None]:
    """(job, rank, node) of who introduces itself. Raises ValueError for what no process of ours says."""
    try:
        job, rank, node = json.loads(b"".join(frames))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not an introduction: {error}") from None
    if not (isinstance(job, str) and isinstance(rank, int) and isinstance(node, str | None)):
        raise ValueError("not an introduction")
    return job, rank, node


def _first_free(cluster: ClusterEnv) -> socket.socket:
    """Listens at the first meeting point that nobody else has taken."""
    points = list(dict.fromkeys(Task("", point).port for point in cluster.meeting_points))
    interface = _interface(cluster.meeting_points[0])
    for port in points[:-1]:
        with suppress(PortTaken):
            return _bound(interface, port)
    return _bound(interface, points[-1])


def _job(cluster: ClusterEnv) -> str:
    """What only the processes of one job say alike. Not a secret: it keeps strays apart, not intruders."""
    return f"trainscale, {cluster.size} by {cluster.source}, {cluster.job or cluster.meeting_points[0]}"


def _listener(task: Task) -> socket.socket:
    return _bound(_interface(str(task.address)), task.port)


def _interface(address: str) -> str:
    """Where to listen: what others on this machine alone can reach, where nobody else is to come."""
    host = Task("", address).host
    if host == "localhost":
        return "127.0.0.1"
    return host if host.startswith("127.") else ""


def _bound(interface: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((interface, port))
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
    # A host that vanishes closes nothing; the kernel's own patience is two hours.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _SILENT_S // 10)
    # And where something is on its way to it.
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500 * _SILENT_S)
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
