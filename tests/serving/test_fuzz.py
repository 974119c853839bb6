"""Requests and pictures with random damage: whatever comes, the server answers with a reason and goes on.

The short forms run by default; the long ones, five minutes each, with `make test-all`. Seeds are fixed.
"""

import json
import random
import re
import socket
import time
from collections.abc import Callable

import numpy as np
import pytest

from tests.scripts.background import SLOWNESS
from tests.serving.served import Serving, form
from tests.serving.test_classify import CHELSEA, ODD
from tests.util.data.test_images_odd import BAD_BYTES, BASELINE

SECONDS = [4.0, pytest.param(300.0, marks=pytest.mark.slow)]
HANGS = 2.0  # seconds without an answer where a complete request was sent
BATCH = 50  # requests after which the server must be healthy
PICTURES = [*ODD.values(), *(data for data, _ in BAD_BYTES.values())]
INTERESTING = (
    b"\0", b"\xff", b"\r\n", b"\n", b": ", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"--mark-of-the-form", b"%00",
    b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"HTTP/1.1", b"[[[[[[[[", b'{"', b"NaN", b"1e999",
)  # fmt: skip


def mutate(data: bytes, rng: random.Random, *, most: int = 8) -> bytes:
    """Returns data with up to `most` changes: bytes turned, taken out, doubled, put in, or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        place = rng.randrange(len(changed) + 1)
        length = min(rng.choice((1, 2, 4, 16, 256)), len(changed) - place)
        match rng.randrange(6):
            case 0 if place < len(changed):
                changed[place] = rng.randrange(256)
            case 1 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = changed[place : place + length]
            case 4:
                changed[place:place] = rng.choice(INTERESTING)
            case _ if rng.random() < 0.3:
                del changed[place:]
    return bytes(changed)


def requests() -> list[bytes]:
    """Returns a good request of each kind, as its bytes."""
    body, kind = form(BASELINE, CHELSEA[:3000])
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
    numbers = np.full(3072, 0.5, np.float32).tobytes()
    behind = {name: tensor[name] for name in ("name", "datatype", "shape")} | {
        "parameters": {"binary_data_size": 12288}
    }
    text = json.dumps({"id": "a", "inputs": [behind], "outputs": [{"name": "logits"}]}).encode()
    tensors = f"application/octet-stream\r\nInference-Header-Content-Length: {len(text)}"
    posts = (
        ("/v1/classify?top_k=3", "image/jpeg", BASELINE),
        ("/v1/classify", kind, body),
        ("/v1/classify", "application/json", json.dumps({"image": "AAAA"}).encode()),
        ("/v2/models/cvt_nano_32x32/infer", "application/json", json.dumps({"inputs": [tensor]}).encode()),
        ("/v2/models/cvt_nano_32x32/infer", tensors, text + numbers),
    )
    heads = [
        (f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
         "Connection: close\r\n\r\n", body)
        for path, kind, body in posts
    ]  # fmt: skip
    gets = ("/healthz", "/readyz", "/metrics", "/v1/model", "/openapi.json", "/v2", "/v2/models/cvt_nano_32x32/config")
    heads += [(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"") for path in gets]
    return [head.encode() + body for head, body in heads]


def statuses(server: Serving, data: bytes) -> list[int]:
    """Returns the statuses of all answers to bytes that a client sends before it closes its side."""
    answer = b""
    with server.connect(HANGS) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(1 << 16):
                answer += chunk
        except ConnectionError:  # the server refused it before all of it was sent
            pass
    return [int(code) for code in re.findall(rb"^HTTP/1\.[01] (\d{3})", answer, re.MULTILINE)]


def fuzz(server: Serving, seconds: float, send: Callable[[random.Random], list[int]]) -> set[int]:
    """Sends until the time is over; returns all statuses that came."""
    rng, until, seen, sent = random.Random(0), time.monotonic() + seconds, set[int](), 0
    while time.monotonic() < until or sent < BATCH:
        before = time.monotonic()
        found = send(rng)
        assert time.monotonic() - before < HANGS * SLOWNESS, "a request hung"
        assert not [code for code in found if code >= 500 and code != 503], f"request {sent}: {found}"
        seen |= set(found)
        sent += 1
        if sent % BATCH == 0:
            assert server.get("/healthz").status == 200
    assert server.process.poll() is None
    assert server.classify(BASELINE).status == 200
    return seen


@pytest.mark.parametrize("seconds", SECONDS)
def test_damaged_requests(seconds: float, server: Serving) -> None:
    good = requests()
    seen = fuzz(server, seconds, lambda rng: statuses(server, mutate(rng.choice(good), rng)))
    assert seen >= {200, 400}, "some requests survive the damage, some do not"


@pytest.mark.parametrize("seconds", SECONDS)
def test_damaged_pictures(seconds: float, server: Serving) -> None:
    def send(rng: random.Random) -> list[int]:
        answer = server.classify(mutate(rng.choice(PICTURES), rng))
        assert answer.status == 200 or answer.error
        return [answer.status]

    seen = fuzz(server, seconds, send)
    assert {200, 422} <= seen <= {200, 400, 413, 415, 422, 503}
    assert server.metric("paddle_cvt_held_images") == 0


@pytest.mark.parametrize("code", [500, 502])
def test_the_fuzzer_sees_a_failure(code: int, server: Serving) -> None:
    with pytest.raises(AssertionError, match=str(code)):
        fuzz(server, 0.1, lambda rng: [code])
