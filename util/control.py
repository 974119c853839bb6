"""A few numbers that the processes of a job agree on, from host to host, over connections of their own.

Collective operations go through the device (NCCL), or give up after 30 s without a word of each other (gloo). A process
may have to wait much longer than that, for a slow disk or a save, and nothing may wait for the device at every update.
Here a process waits as long as the others live: the end of one is noticed at once, as the end of its connection.
"""

import contextlib
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener

from util.errors import ResumableError


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
            place = share(None)
            connection = Client((place.host, place.port), authkey=place.key)
            return cls([connection])
        host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:0").rpartition(":")[0]  # as the launcher knows it
        size, key = int(os.environ["PADDLE_TRAINERS_NUM"]), secrets.token_bytes(32)
        with Listener((host, 0), backlog=size, authkey=key) as listener:
            share(_Meeting(host, listener.address[1], key))
            return cls([listener.accept() for _ in range(size - 1)])

    def largest(self, numbers: list[int], *, is_main: bool) -> list[int]:
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


@contextlib.contextmanager
def _naming_lost_peers() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError):
        raise LostPeerError("another process of this job ended; its own message says why") from None
