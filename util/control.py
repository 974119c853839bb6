"""A few numbers that the processes of a job agree on, from host to host, over connections of their own.

Collective operations go through the device (NCCL), or give up after 30 s without a word of each other (gloo). A process
may have to wait much longer than that, for a slow disk or a save, and nothing may wait for the device at every update.
Here a process waits as long as the others live: the end of one is noticed at once, as the end of its connection.
"""

import contextlib
import os
import queue
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge

from util.errors import ResumableError

_LOOK_SECONDS = 0.1  # between two looks at who has proved to belong to the job
_SILENT_SECONDS = 60  # after which a connection that does not prove it is closed


class LostPeerError(ResumableError):
    """Another process of the job ended; its own message, if it left one, is the reason."""


@dataclass(frozen=True)
class _Meeting:
    """Where the main process listens, and what proves to it that a process belongs to the job."""

    host: str
    port: int
    key: bytes


class Control:
    """The connections of one process: to each of the others on the main one, to the main one on the others."""

    def __init__(self, connections: list[Connection]) -> None:
        self._connections = connections

    @classmethod
    def meet(cls, *, rank: int, share: Callable[[_Meeting | None], _Meeting]) -> "Control":
        """Connects the processes. share: hands the main process's argument to all of them."""
        if rank > 0:
            return cls([_connect(share(None))])
        host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rpartition(":")[0]  # as the launcher knows it
        size, key = int(os.environ["PADDLE_TRAINERS_NUM"]), secrets.token_bytes(32)
        with socket.create_server((host, 0), backlog=size) as server:
            share(_Meeting(host, server.getsockname()[1], key))
            return cls(_admit(server, key=key, count=size - 1))

    def agree(self, numbers: list[int], *, is_main: bool) -> list[int]:
        """Returns the largest of what every process says, number by number; waits until all have said it."""
        form = struct.Struct(f"<{len(numbers)}q")
        with _naming_lost_peers():
            if not is_main:
                self._connections[0].send_bytes(form.pack(*numbers))
                return list(form.unpack(self._connections[0].recv_bytes()))
            said = [form.unpack(connection.recv_bytes()) for connection in self._connections]
            found = [max(column) for column in zip(numbers, *said, strict=True)]
            for connection in self._connections:
                connection.send_bytes(form.pack(*found))
            return found


def _connect(place: _Meeting) -> Connection:
    """Returns this process's connection to the main one."""
    try:
        return Client((place.host, place.port), authkey=place.key)
    except (AuthenticationError, EOFError, OSError) as error:
        raise LostPeerError(
            f"the first process of this job does not answer at {place.host}:{place.port} "
            f"({str(error) or 'it hung up'}): it ended, and its own message says why, or a firewall is in between"
        ) from None


def _admit(server: socket.socket, *, key: bytes, count: int) -> list[Connection]:
    """Returns the connections of `count` processes that prove to know the key, whatever else connects meanwhile.

    Each is heard in a thread of its own, so that a stranger who says nothing, or half of something, holds up nobody.
    """
    members: queue.SimpleQueue[Connection] = queue.SimpleQueue()
    server.settimeout(_LOOK_SECONDS)
    while members.qsize() < count:
        with contextlib.suppress(TimeoutError, ConnectionError):  # nobody came, or is gone already
            stranger, _ = server.accept()
            threading.Thread(target=_hear, args=(stranger, key, members), name="meeting", daemon=True).start()
    return [members.get() for _ in range(count)]


def _hear(stranger: socket.socket, key: bytes, members: "queue.SimpleQueue[Connection]") -> None:
    """Adds a connection to the members if it knows the key, and closes any other."""
    connection = Connection(os.dup(stranger.fileno()))
    with stranger:
        try:
            stranger.setblocking(True)
            _limit_reading(stranger, _SILENT_SECONDS)
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            _limit_reading(stranger, 0)
        except (AuthenticationError, EOFError, OSError):
            connection.close()
        else:
            members.put(connection)


def _limit_reading(stranger: socket.socket, seconds: int) -> None:
    """Sets how long the kernel lets a read of this connection wait, also through another descriptor; 0: for ever."""
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


@contextlib.contextmanager
def _naming_lost_peers() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):
        raise LostPeerError("another process of this job ended; its own message says why") from None
