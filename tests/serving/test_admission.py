"""A server without room says so as soon as it knows what is asked, before the body, and keeps the connection."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.background import SLOWNESS, wait_until
from tests.serving.conftest import KEY
from tests.serving.served import Answered, Serving, read_answer
from tests.util.data.test_images_odd import BASELINE
from util.processes import children

HEAD = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: image/jpeg\r\n"
ROOM = ("--engine", "onnxruntime", "--max_queue", "1", "--max_batch", "1", "--deadline", "60")  # for two images


@pytest.fixture(scope="module")
def full(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server whose engine is held while two images, all it takes, wait for it."""
    with Serving(exported, tmp_path_factory.mktemp("full"), *ROOM, PADDLE_CVT_API_KEY=KEY) as server:
        server.wait_ready()
        [engine] = children()[server.pid]
        os.kill(engine, signal.SIGSTOP)
        answers: list[Answered] = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.classify(BASELINE, X_API_Key=KEY))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: figure(server, "paddle_cvt_held_images ") == 2, "full", 10 * SLOWNESS)
        yield server
        os.kill(engine, signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [200, 200], "who was accepted is answered"


def figure(server: Serving, start: str) -> float:
    lines = server.get("/metrics", X_API_Key=KEY).body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def read_one(connection: socket.socket) -> str:
    """Reads an answer whose connection goes on."""
    data = connection.recv(1 << 16).decode()
    length = int(data.partition("content-length: ")[2].partition("\r\n")[0])
    while len(data.partition("\r\n\r\n")[2]) < length:
        data += connection.recv(1 << 16).decode()
    return data


def test_the_answer_does_not_wait_for_the_body_and_the_connection_goes_on(full: Serving) -> None:
    refused = 'paddle_cvt_requests_total{route="/v1/classify",status="503"}'
    before = figure(full, refused)
    with full.connect() as connection:
        for i in range(3):
            connection.sendall(f"{HEAD}X-Request-ID: own-{i}\r\nContent-Length: 50000\r\n\r\n".encode() + b"x" * 1000)
            answer = read_one(connection)
            assert answer.startswith("HTTP/1.1 503 Service Unavailable\r\n")
            assert "2 images are waiting already" in answer
            assert f'"request_id": "own-{i}"' in answer
            assert f"\r\nx-request-id: own-{i}\r\n" in answer
            assert "\r\nretry-after: 1\r\n" in answer
            assert "connection" not in answer
            connection.sendall(b"x" * 49_000)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_answer(connection).values == {"status": "ok"}
    assert figure(full, refused) == before + 3
    assert [e["status"] for e in full.events("request") if e["request_id"].startswith("own-")] == [503] * 3


@pytest.mark.parametrize("rest", [
    "Content-Length: 5000000\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\nExpect: 100-continue\r\n",
    "Content-Length: 5\r\nConnection: close\r\n",
])  # fmt: skip
def test_a_connection_that_cannot_be_kept_is_closed(rest: str, full: Serving) -> None:
    answer = full.say(f"{HEAD}{rest}\r\n".encode())
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert "images are waiting" in answer.error
    assert answer.seconds < 3 * SLOWNESS


def test_what_is_refused_for_another_reason_still_is(full: Serving) -> None:
    assert full.classify(BASELINE).status == 401, "nobody without the key learns of the queue"
    assert full.classify(BASELINE, X_API_Key="another").status == 401
    assert full.ask("GET", "/v1/classify", None, {"X_API_Key": KEY}).status == 405
    assert full.ask("POST", "/v1/classif", b"", {"X_API_Key": KEY}).status == 404
    for model in ("cvt_nano_32x32", "cvt_nano_32x32_files/versions/1"):
        assert full.ask("POST", f"/v2/models/{model}/infer?x=1", b"{}", {"X_API_Key": KEY}).status == 503
    assert full.get("/v1/model", X_API_Key=KEY).status == 200


def test_nothing_behind_a_refusal_that_closes_is_answered(full: Serving) -> None:
    answer = full.say(
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()
        + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert "images are waiting" in answer.error, "and nothing follows it"
    assert full.events("internal error") == []


def test_who_asks_on_and_does_not_read_is_cut_off(full: Serving) -> None:
    with full.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1.0)
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 60 * SLOWNESS:
                connection.sendall(f"{HEAD}Content-Length: 0\r\n\r\n".encode() * 1000)
        assert time.monotonic() - begun < 30 * SLOWNESS
        written = Path(f"/proc/{full.pid}/status").read_text(encoding="ascii")
        assert int(written.partition("VmRSS:")[2].split()[0]) < 1 << 20, "answers nobody reads are not kept"
    assert full.get("/healthz").status == 200


def test_requests_that_end_without_an_image_give_their_places_back(exported: Path, tmp_path: Path) -> None:
    with Serving(exported, tmp_path, *ROOM) as server:
        server.wait_ready()
        for body, query, kind in ((b"", "", "image/jpeg"), (b"x", "", "text/plain"), (b"x", "?top_k=0", "image/jpeg")):
            statuses = [server.classify(body, query, kind=kind).status for _ in range(20)]
            assert 503 not in statuses
        assert server.ask("POST", "/v2/models/nope/infer", b"{}").status == 404
        assert server.classify(BASELINE).status == 200


def test_a_place_is_kept_for_a_body_that_comes_and_not_for_one_that_does_not(exported: Path, tmp_path: Path) -> None:
    """Each of the two places is a slow body's until it has shown that it is slow."""
    with Serving(exported, tmp_path, *ROOM, PADDLE_CVT_API_KEY=KEY) as server:
        server.wait_ready()
        slow: list[socket.socket] = []

        def is_kept() -> bool:
            for _ in range(2):
                slow.append(server.connect())
                slow[-1].sendall(f"{HEAD}Content-Length: 50000\r\n\r\n".encode())
            return server.classify(BASELINE, X_API_Key=KEY).status == 503

        wait_until(is_kept, "places kept", 10 * SLOWNESS)
        wait_until(lambda: server.classify(BASELINE, X_API_Key=KEY).status == 200, "places free", 5 * SLOWNESS)
        for connection in slow:
            connection.close()
