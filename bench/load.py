"""Many clients: closed loops, which wait for answers; requests at a rate, which does not wait; slow ones."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Told:
    """What one request was told: number of its image, status, answer, seconds from sending it."""

    image: int
    status: int
    values: Any
    seconds: float


class Client:
    """A connection that is kept, for one request after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def classify(self, number: int, image: bytes, query: str = "") -> Told:
        """Sends an image, and returns what it was told; 0 as status where the connection broke."""
        begun = time.perf_counter()
        head = f"POST /v1/classify{query} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nX-Request-ID: {number}\r\n"
        if self._streams is not None and self._streams[0].at_eof():  # idle for so long that the server closed it
            self.close()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(answer.partition("content-length: ")[2].partition("\r\n")[0])
            body = await reader.readexactly(length)
            if "connection: close" in answer:
                self.close()
            return Told(number, int(answer.split(" ", 2)[1]), json.loads(body), time.perf_counter() - begun)
        except (OSError, EOFError):
            self.close()
            return Told(number, 0, None, time.perf_counter() - begun)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


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


async def open_loop(port: int, image: bytes, *, rate: float, seconds: float, connections: int = 200) -> list[Told]:
    """Returns what was told to requests that come at a rate, whether others are answered or not.

    Where all connections are waiting, a request is not sent; it is not counted either.
    """
    told: list[Told] = []
    free = [Client(port) for _ in range(connections)]
    waiting: set[asyncio.Task[None]] = set()

    async def one(client: Client, number: int) -> None:
        told.append(await client.classify(number, image))
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


def quantile(told: Sequence[Told], part: float) -> float:
    """Returns the seconds within which this part of the requests was answered."""
    seconds = sorted(t.seconds for t in told)
    return seconds[min(len(seconds) - 1, int(part * len(seconds)))]
