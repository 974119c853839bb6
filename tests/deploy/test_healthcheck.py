"""The container's health check: 0 if the server answers images, else 1 with the reason."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.deploy.environments import ROOT


class Answering(BaseHTTPRequestHandler):
    """Answers /readyz with the server's status, and everything else with 500."""

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/readyz" else 500)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"loading")

    def log_message(self, *values: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Answering) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def check(port: int) -> tuple[int, str]:
    """Returns the exit code and what was said, with a proxy in the environment that does not exist."""
    environment = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, str(ROOT / "deploy/healthcheck.py"), str(port)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    ("status", "expected"), [(200, (0, "")), (503, (1, "503: loading")), (404, (1, "404: loading"))]
)
def test_readiness_is_the_exit_code(server: HTTPServer, status: int, expected: tuple[int, str]) -> None:
    server.status = status  # type: ignore[attr-defined]
    assert check(server.server_port) == expected


def test_nobody_there_is_not_healthy(server: HTTPServer) -> None:
    port = server.server_port
    server.shutdown()
    server.server_close()
    code, said = check(port)
    assert (code, said.startswith(f"port {port}: ")) == (1, True)
