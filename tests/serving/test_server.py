"""The address that the server listens at."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.serving.served import Serving
from util.errors import OutputError
from util.serving.server import listen


async def _is_sent_at_once(listening: socket.socket) -> bool:
    """Returns whether a connection that is accepted there sends without waiting for acknowledgements."""
    accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.set_result(bool(found))
        writer.close()

    async with await asyncio.start_server(connected, sock=listening):
        _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
        writer.close()
        return await accepted


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_answers_are_sent_at_once(host: str) -> None:
    async def check() -> bool:
        return await _is_sent_at_once(await listen(host, 0))

    assert asyncio.run(check())


def test_without_the_protocols_name_they_would_wait() -> None:
    async def check() -> bool:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        return await _is_sent_at_once(listening)

    assert not asyncio.run(check())


@pytest.mark.parametrize("host", ["..", "x" * 300, "no\nhost"])
def test_what_is_no_host_is_one_line(host: str) -> None:
    with pytest.raises(OutputError, match="cannot be listened at") as error:
        asyncio.run(listen(host, 0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("host", "key", "notes"), [("0.0.0.0", "", 1), ("0.0.0.0", "key", 0), ("127.0.0.1", "", 0)])
def test_a_server_that_everybody_reaches_without_a_key_says_so(
    host: str, key: str, notes: int, exported: Path, tmp_path: Path
) -> None:
    environment = {"PADDLE_CVT_API_KEY": key} if key else {}
    with Serving(exported, tmp_path, "--engine", "onnxruntime", "--host", host, **environment) as server:
        assert len(server.events("open to all")) == notes
