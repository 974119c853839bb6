"""Deadlines of a connection, and what it makes of unusual requests; in front of an application of a few lines."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tests.scripts.background import SLOWNESS
from util.serving.protocol import Limits, protocol_with

LIMITS = Limits(head_seconds=1.0, request_seconds=1.0, write_seconds=1.0, linger_seconds=0.5, connections=3, told=10)
LARGE = 1 << 22  # bytes of an answer that no system takes in at once


class Open:
    """Lets everybody in."""

    def admit(self, method: bytes, url: bytes, headers: Any) -> None:
        return None

    def leave(self, place: int | None) -> None:
        pass

    def note(self, method: bytes, url: bytes, number: str, status: int) -> None:
        pass


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body; at /early without waiting for it, at /large with so much that a client has to read."""
    body, more = b"", scope["path"] != "/early"
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"].startswith("/slow"):
        await asyncio.sleep(0.3 if scope["path"] == "/slow/a_little" else 5)
    data = b"x" * LARGE if scope["path"] == "/large" else body
    headers = [(b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def serve(work: Callable[[Callable[[], Awaitable[Streams]]], Awaitable[None]]) -> None:
    """Runs `work`, which is given a function that connects."""

    async def main() -> None:
        admission: Any = Open()
        protocol, state = protocol_with(LIMITS, admission), ServerState()
        config = Config(application, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1)
        config.load()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: failures.append(context))
        server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            await asyncio.wait_for(work(lambda: asyncio.open_connection("127.0.0.1", port, limit=1 << 16)), 60)

    failures: list[dict[str, Any]] = []
    asyncio.run(main())
    assert failures == []


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Reads until the server closes, however it does."""
    data = b""
    try:
        while chunk := await reader.read(1 << 16):
            data += chunk
    except ConnectionError:
        pass
    return data


@pytest.mark.parametrize("second", [b"", b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_who_does_not_read_is_cut_off_whatever_else_it_asks(second: bytes) -> None:
    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        _, writer = await connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(second)
        begun = time.monotonic()
        while not writer.is_closing() and time.monotonic() - begun < 10 * SLOWNESS:
            await asyncio.sleep(0.1)
            writer.write(b"\r\n")
        assert time.monotonic() - begun < 5 * SLOWNESS

    serve(work)


def test_a_head_that_does_not_come_is_cut_off_also_after_an_answer_was_read() -> None:
    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        reading = asyncio.create_task(read_all(reader))
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        begun = time.monotonic()
        answer = await asyncio.wait_for(reading, 10 * SLOWNESS)
        assert b"the request's head did not arrive in time" in answer[-500:]
        assert time.monotonic() - begun < 5 * SLOWNESS

    serve(work)


@pytest.mark.parametrize(
    "begin",
    [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
     b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n"],
)  # fmt: skip
def test_headers_without_end_are_refused_wherever_they_come(begin: bytes) -> None:
    """At first, behind a body in chunks, and behind a request that is being answered."""

    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.write(begin)
        await asyncio.sleep(0.05)
        for _ in range(3):
            for end in (b"\r\n", b""):  # many, and one that is long
                writer.write(b"X: " + b"y" * 4000 + end)
                await asyncio.sleep(0.02)
        assert b"HTTP/1.1 431 " in await read_all(reader)

    serve(work)


def send_and_then_read(port: int) -> bytes:
    """A client that reads when it has sent all, which fails where the connection was reset meanwhile."""
    with socket.create_connection(("127.0.0.1", port), timeout=30 * SLOWNESS) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
        for _ in range(10):
            time.sleep(0.02)
            connection.sendall(b"x" * 1000)
        return connection.recv(1 << 16)


def test_one_connection_too_many_learns_that_although_it_sends() -> None:
    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        held = [await connect() for _ in range(LIMITS.connections)]
        port = held[0][1].get_extra_info("peername")[1]
        for _ in range(5):
            answer = await asyncio.to_thread(send_and_then_read, port)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"too many connections are open" in answer
        for _, writer in held:
            writer.close()

    serve(work)


@pytest.mark.parametrize("cuts", [(), (30,), (170, 172)])
def test_an_upgrade_to_another_protocol_is_ignored_and_the_body_is_read(cuts: tuple[int, ...]) -> None:
    """As curl --http2 and Java's client send it."""
    head = (
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
    )
    request = head + b"\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        for begin, end in zip((0, *cuts), (*cuts, len(request)), strict=True):
            writer.write(request[begin:end])
            await asyncio.sleep(0.05)
        answer = await read_all(reader)
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert b"\r\n\r\nhello" in answer

    serve(work)


def test_an_upgrade_whose_body_has_no_length_is_refused() -> None:
    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        answer = await read_all(reader)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert "Content-Length" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]

    serve(work)


@pytest.mark.parametrize("late", [b"12345", b"12345GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_body_that_comes_after_its_answer_does_not_keep_the_connection(late: bytes) -> None:
    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.write(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(late)
        begun = time.monotonic()
        answer = await asyncio.wait_for(read_all(reader), 10 * SLOWNESS)
        assert answer.count(b"HTTP/1.1 200") == late.count(b"GET")
        assert 0.5 < time.monotonic() - begun < 4 * SLOWNESS

    serve(work)


GOOD = b"POST /slow/a_little HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nfirst"


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"POST /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: ", 408),
    ],
    ids=["no HTTP", "a long URL", "a long URL with a body", "a wrong chunk", "many headers", "half a head"],
)
@pytest.mark.parametrize("number", [1, 2])
def test_what_is_wrong_behind_requests_does_not_take_their_answers(number: int, bad: bytes, status: int) -> None:
    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.write(number * GOOD + bad)
        answer = await asyncio.wait_for(read_all(reader), 20 * SLOWNESS)
        assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200"] * number + [str(status).encode()]
        assert answer.count(b"\r\n\r\nfirstHTTP/1.1") == number

    serve(work)


def test_nothing_is_answered_behind_a_refusal_that_lingers() -> None:
    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        writer.write(b"GET /" + b"a" * 9000)
        answer = b""
        while b"HTTP/1.1 4" not in answer and not reader.at_eof():
            answer += await reader.read(1 << 16)
        writer.write(b" HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer += await asyncio.wait_for(read_all(reader), 10 * SLOWNESS)
        assert len(re.findall(rb"HTTP/1\.1 4\d\d", answer)) == 1

    serve(work)


def test_many_connections_too_many_are_cut_off_without_a_word() -> None:
    async def work(connect: Callable[[], Awaitable[Streams]]) -> None:
        held = [await connect() for _ in range(LIMITS.connections)]
        more = [await connect() for _ in range(LIMITS.told + 5)]
        answers = await asyncio.gather(*(asyncio.wait_for(read_all(reader), 20 * SLOWNESS) for reader, _ in more))
        told = [b"too many connections are open" in answer for answer in answers]
        assert told == [True] * LIMITS.told + [False] * 5
        for _, writer in held:
            writer.close()

    serve(work)
