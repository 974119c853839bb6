"""Many clients: closed loops, which wait for answers; requests at a rate, which does not wait; slow ones."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

IDLE_SECONDS = 4.0  # a second less than the server keeps a connection


@dataclass(frozen=True)
class Told:
    """What one request was told: number of its image, status, body, seconds from sending it, and when."""

    image: int
    status: int
    body: bytes
    seconds: float
    at: float  # of time.perf_counter()

    @property
    def values(self) -> Any:
        return json.loads(self.body)


class _Connection(asyncio.Protocol):
    """One connection, which costs little: clients share the machine with the server that is measured."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.is_open = True
        self._data = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Sends a request, and returns what will be its status and body, or a ConnectionError."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, mark, body = self._data.partition(b"\r\n\r\n")
        if not mark:
            return
        head = head.lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._data = body[length:]
        if b"connection: close" in head:
            self.is_open = False
            self.transport.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))


class Client:
    """A connection that is kept, for one request after the other.

    One that was idle for long is not used again: the server may be closing it at that moment.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: _Connection | None = None
        self._used = 0.0

    async def classify(self, number: int, image: bytes, query: str = "") -> Told:
        """Sends an image, and returns what it was told; 0 as status where the connection broke."""
        begun = time.perf_counter()
        head = f"POST /v1/classify{query} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nX-Request-ID: {number}\r\n"
        request = f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image
        try:
            if self._connection is not None and begun - self._used > IDLE_SECONDS:
                self.close()
            if self._connection is None or not self._connection.is_open:
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
            status, body = await self._connection.ask(request)
        except OSError:
            status, body = 0, b""
        self._used = now = time.perf_counter()
        return Told(number, status, body, now - begun, now)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.transport.close()
            self._connection = None


async def closed_loops(
    port: int, images: Sequence[bytes], *, clients: int, requests: int = 1 << 60, seconds: float = 1e9, query: str = ""
) -> list[Told]:
    """Returns what was told in `requests` requests of as many clients at a time, or in so many seconds."""
    numbers, told, until = itertools.count(), [], time.monotonic() + seconds

    async def loop() -> None:
        client = Client(port)
        while (i := next(numbers)) < requests and time.monotonic() < until:
            told.append(await client.classify(i, images[i % len(images)], query))
        client.close()

    await asyncio.gather(*(loop() for _ in range(clients)))
    return told


async def open_loop(
    port: int, images: Sequence[bytes], *, rate: float, seconds: float, connections: int = 200
) -> list[Told]:
    """Returns what was told to requests that come at a rate, image by image, whether others are answered or not.

    Where all connections are waiting, a request is not sent; it is not counted either.
    """
    told: list[Told] = []
    free = [Client(port) for _ in range(connections)]
    waiting: set[asyncio.Task[None]] = set()

    async def one(client: Client, number: int) -> None:
        told.append(await client.classify(number, images[number % len(images)]))
        free.append(client)

    begun = time.monotonic()
    for i in itertools.count():
        due = begun + i / rate
        if due > begun + seconds:
            break
        if (pause := due - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        if free:
            task = asyncio.create_task(one(free.pop(), i))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    for client in free:
        client.close()
    return told


async def slow_heads(port: int, *, count: int, seconds: float) -> None:
    """Keeps so many connections that send a byte of a head each second; one that is cut off is opened anew."""
    await _trickle(port, b"POST /v1/classify HTTP/1.1\r\nX: ", count=count, seconds=seconds)


async def slow_bodies(port: int, *, count: int, seconds: float) -> None:
    """Keeps so many connections that send a byte of a body each second; one that is cut off is opened anew."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n"
    await _trickle(port, head, count=count, seconds=seconds)


async def _trickle(port: int, start: bytes, *, count: int, seconds: float) -> None:
    until = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(start)
                while time.monotonic() < until and not writer.is_closing():
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(1.0)
                writer.close()

    await asyncio.gather(*(one() for _ in range(count)))


async def slow_readers(port: int, *, count: int, seconds: float) -> None:
    """Keeps so many connections that ask ever more and read nothing; one that is cut off is opened anew."""
    until = time.monotonic() + seconds
    question = b"GET /v1/model HTTP/1.1\r\nHost: x\r\n\r\n"

    async def one() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError, TimeoutError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                while time.monotonic() < until and not writer.is_closing():
                    writer.write(question)
                    await asyncio.wait_for(writer.drain(), max(0.1, until - time.monotonic()))
                    await asyncio.sleep(0.1)
                writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(count)))


def run(work: Callable[[], Awaitable[list[Told]]]) -> list[Told]:
    """Returns what a loop of this module returns."""

    async def main() -> list[Told]:
        return await work()

    return asyncio.run(main())


def rate(told: Sequence[Told], seconds: float, status: int = 200) -> float:
    """Returns answers a second with this status, in a run of so many seconds without its first fifth.

    Until then queues fill. What is answered after the run does not count either.
    """
    begun = min(t.at - t.seconds for t in told)
    counted = [t for t in told if t.status == status and 0.2 * seconds < t.at - begun <= seconds]
    return len(counted) / (0.8 * seconds)


def quantile(told: Sequence[Told], part: float) -> float:
    """Returns the seconds within which this part of the requests was answered; 0 where there are none."""
    seconds = sorted(t.seconds for t in told) or [0.0]
    return seconds[min(len(seconds) - 1, int(part * len(seconds)))]
