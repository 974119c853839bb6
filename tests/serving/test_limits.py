"""What a client cannot do to the server: fill its memory, hold its connections, make it decode bombs, confuse it."""

import io
import json
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.background import SLOWNESS, wait_until
from tests.serving.served import Answered, Serving, read_answer
from tests.serving.test_classify import CHELSEA
from tests.util.data.test_images_odd import BASELINE
from util.serving.protocol import Limits

LIMIT = 1 << 20  # bytes: --max_body 1
HEAD = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


@pytest.fixture(scope="module")
def server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    options = ("--engine", "onnxruntime", "--max_body", "1", "--deadline", "4", "--max_connections", "300")
    with Serving(exported, tmp_path_factory.mktemp("limits"), *options) as found:
        yield found.wait_ready()


def memory(server: Serving) -> int:
    """Returns the bytes that the server's process holds in memory."""
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(server: Serving) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def still_answers(server: Serving) -> bool:
    return server.classify(BASELINE).status == 200


@pytest.mark.parametrize(("size", "status"), [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413), (3 * LIMIT, 413)])
def test_the_size_of_a_body(size: int, status: int, server: Serving) -> None:
    body = CHELSEA + b"\0" * (size - len(CHELSEA))  # what follows a JPEG's end is not read
    assert server.classify(body).status == status
    chunked = f"{HEAD}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
    parts = [body[i : i + 50_000] for i in range(0, size, 50_000)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert server.say(chunked + chunks).status == status


@pytest.mark.parametrize(("head", "status"), [
    ("Content-Length: -1", 400), ("Content-Length: x", 400), ("Content-Length: 1e18", 400),
    ("Content-Length: 1000000000000000000", 413), ("Content-Length: 99999999999999999999999", 400),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400), ("Content-Length: 5\r\nContent-Length: 6", 400),
    ("Transfer-Encoding: gzip, x", 400), ("Bad Header: 1", 400), ("X: a\0b", 400),
])  # fmt: skip
def test_heads_that_lie(head: str, status: int, server: Serving) -> None:
    answer = server.say(f"{HEAD}{head}\r\n\r\n12345".encode())
    assert (answer.status, bool(answer.error)) == (status, True)
    assert answer.seconds < 3 * SLOWNESS
    assert still_answers(server)


@pytest.mark.parametrize(("line", "status"), [
    (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 414), (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431), (b"\0\1\2\3\r\n\r\n", 400),
    (b"GET /\0 HTTP/1.1\r\n\r\n", 400), (b"\x16\x03\x01\x02\x00\x01\x00", 400),
])  # fmt: skip
def test_first_lines_and_heads_that_are_no_http(line: bytes, status: int, server: Serving) -> None:
    answer = server.say(line)
    assert (answer.status, bool(answer.error)) == (status, True)
    assert still_answers(server)


def test_older_and_pipelined_requests(server: Serving) -> None:
    assert server.say(b"GET /healthz HTTP/1.0\r\n\r\n").status == 200
    with server.connect() as connection:
        one = f"{HEAD}Content-Length: {len(BASELINE)}\r\n\r\n".encode() + BASELINE
        last = f"{HEAD}Content-Length: {len(BASELINE)}\r\nConnection: close\r\n\r\n".encode() + BASELINE
        connection.sendall(one + one + last)
        answer = read_answer(connection)
    assert answer.body.count(b'"predictions"') == 3


def test_a_client_that_asks_first_is_told_to_go_on(server: Serving) -> None:
    with server.connect() as connection:
        connection.sendall(
            f"{HEAD}Content-Length: {len(BASELINE)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(BASELINE)
        assert read_answer(connection).status == 200


def test_a_body_that_is_refused_is_not_read_and_the_client_learns_why(server: Serving) -> None:
    before = memory(server)
    answers: list[Answered] = []

    def claim() -> None:
        with server.connect() as connection:
            connection.sendall(f"{HEAD}Content-Length: 1000000000\r\n\r\n".encode() + b"\0" * 100_000)
            answers.append(read_answer(connection))

    threads = [threading.Thread(target=claim) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [413] * 100
    assert max(answer.seconds for answer in answers) < 4 * SLOWNESS
    assert memory(server) - before < 30 << 20
    assert still_answers(server)


def png(width: int, height: int, data: bytes, extra: bytes = b"") -> bytes:
    """Returns a PNG of one bit a pixel whose head says what it likes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    content = b"Comment\0\0" + zlib.compress(b" " * 100_000_000)
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + (
        b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"
    )  # fmt: skip


BOMBS = {
    "a large PNG": png(13_370, 13_370, zlib.compress(b"\0" * (1672 * 13_370), 9)),
    "a PNG that is a head alone": png(60_000, 60_000, b""),
    "a PNG with a long text": png(8, 8, zlib.compress(b"\0\0" * 8), text_bomb()),
    "a GIF": gif(65_000, 65_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_heads(name: str, server: Serving) -> None:
    before = memory(server)
    answers: list[Answered] = []
    threads = [threading.Thread(target=lambda: answers.append(server.classify(BOMBS[name]))) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {413, 422}
    assert memory(server) - before < 30 << 20
    assert min(answer.seconds for answer in answers) < 0.5 * SLOWNESS
    assert still_answers(server)


def test_slow_clients_are_cut_off_and_do_not_slow_others(server: Serving) -> None:
    """Slow heads, slow bodies, and lines without an end; two hundred of them."""
    files = open_files(server)
    starts = [b"GET /healthz HTTP/1.1\r\nX: ", f"{HEAD}Content-Length: 100000\r\n\r\n".encode(), b"\r\n", b""]
    slow = [server.connect() for _ in range(200)]
    try:
        for i, connection in enumerate(slow):
            connection.sendall(starts[i % 4])
            connection.settimeout(0.0)
        begun, open_ones, healthy = time.monotonic(), set(range(200)), []
        while open_ones and time.monotonic() - begun < 20 * SLOWNESS:
            for i in list(open_ones):
                try:
                    slow[i].send(b"\r\n" if i % 4 == 2 else b"x")
                    if slow[i].recv(4096) == b"":
                        open_ones.discard(i)
                except BlockingIOError:
                    continue
                except OSError:
                    open_ones.discard(i)
            healthy.append(server.classify(BASELINE).seconds)
            time.sleep(0.2)
        assert not open_ones, f"{len(open_ones)} are open after {time.monotonic() - begun:.1f} s"
        assert time.monotonic() - begun < 15 * SLOWNESS
        assert sorted(healthy)[len(healthy) // 2] < 0.5 * SLOWNESS
    finally:
        for connection in slow:
            connection.close()
    wait_until(lambda: open_files(server) <= files + 2, "connections closed", 10 * SLOWNESS)


def test_a_late_body_is_a_408(server: Serving) -> None:
    answer = server.say(f"{HEAD}Content-Length: 100000\r\n\r\nabc".encode())
    assert (answer.status, "did not arrive" in answer.error) == (408, True)
    assert 3 < answer.seconds < 4 * SLOWNESS + 3
    answer = server.say(b"GET /healthz HTTP/1.1\r\n")
    assert (answer.status, "head did not arrive" in answer.error) == (408, True)
    assert 4 < answer.seconds < Limits().head_seconds * SLOWNESS + 3


def test_more_connections_than_allowed_are_refused(server: Serving) -> None:
    held = [server.connect() for _ in range(300)]
    try:
        time.sleep(0.3 * SLOWNESS)
        with server.connect() as connection:
            answer = read_answer(connection)
        assert (answer.status, "too many connections" in answer.error) == (503, True)
        assert answer.headers["retry-after"] == "1"
    finally:
        for connection in held:
            connection.close()
    wait_until(lambda: server.get("/healthz").status == 200, "connections taken again", 10 * SLOWNESS)


def test_clients_that_go_leave_nothing_behind(server: Serving) -> None:
    still_answers(server)
    files, threads = open_files(server), len(os.listdir(f"/proc/{server.pid}/task"))
    whole = f"{HEAD}Content-Length: {len(CHELSEA)}\r\n\r\n".encode() + CHELSEA
    for i in range(300):
        connection = server.connect()
        connection.sendall((b"", whole[:60], whole[:5000], whole)[i % 4])
        if i % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        elif i % 3 == 0:
            connection.shutdown(socket.SHUT_WR)
        connection.close()
    wait_until(lambda: open_files(server) <= files + 2, "connections closed", 10 * SLOWNESS)
    assert len(os.listdir(f"/proc/{server.pid}/task")) <= threads + 2
    wait_until(lambda: server.metric("paddle_cvt_held_images") == 0, "places free again", 5 * SLOWNESS)
    assert still_answers(server)
    assert server.metric('paddle_cvt_requests_total{route="/v1/classify",status="500"}') == 0


def test_a_reader_that_does_not_read_is_cut_off(server: Serving) -> None:
    """Its requests are pipelined, so that their answers fill what the system holds for it."""
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1.0)
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 60 * SLOWNESS:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        except TimeoutError:
            pass  # it does not take more
        except OSError:
            return
        wait_until(lambda: _is_cut(connection), "cut off", 30 * SLOWNESS)


def _is_cut(connection: socket.socket) -> bool:
    try:
        connection.send(b"G")
    except (TimeoutError, BlockingIOError):
        return False
    except OSError:
        return True
    return False


def test_nothing_of_a_request_is_logged_but_its_line(server: Serving) -> None:
    server.classify(BASELINE, "?top_k=3&password=hunter2", Cookie="session=hunter3")
    assert "hunter" not in server.stderr
    assert all(isinstance(json.loads(line), dict) for line in io.StringIO(server.stderr))
