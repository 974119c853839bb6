"""A server in a process of its own, and what clients of tests say to it."""

import http.client
import json
import re
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from tests.scripts.background import SLOWNESS, Background, wait_until
from tests.scripts.run import ROOT


@dataclass
class Answered:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def values(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """What an answer with an error says; its form is the same for all."""
        assert set(self.values) == {"error", "request_id"}, self.body
        assert self.headers["content-type"] == "application/json"
        assert "/" + str(ROOT.parts[1]) + "/" not in self.values["error"], "a path of the server"
        return str(self.values["error"])

    @property
    def predictions(self) -> list[dict[str, Any]]:
        assert self.status == 200, self.body
        return list(self.values["predictions"])


class Serving(Background):
    """`serve.py` on a free port; `with Serving(folder) as server:` ends it."""

    def __init__(self, model_dir: Path, cwd: Path, *options: str, **environment: str) -> None:
        fixed = ("--model_dir", str(model_dir), "--port", "0", "--cpu_threads", "1")
        super().__init__(*fixed, *options, cwd=cwd, script=ROOT / "serve.py", **environment)
        self.port = 0

    def __enter__(self) -> "Serving":
        wait_until(lambda: "listening" in self.stderr or self.process.poll() is not None, "listening")
        found = re.search(r'"url": "([^"]+)"', self.stderr)
        assert found is not None, self.stderr
        self.port = urlparse(found[1]).port or 0
        return self

    def wait_ready(self) -> "Serving":
        wait_until(lambda: self.get("/readyz").status == 200, "ready")
        return self

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the events of that name in the log, every line of which is JSON."""
        lines = [json.loads(line) for line in self.stderr.splitlines()]
        return [line for line in lines if line["event"] == name]

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answered:
        """Returns the answer to one request; names of headers are written with underscores."""
        begun = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60 * SLOWNESS)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in (headers or {}).items()})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answered(answer.status, answer.read(), found, time.perf_counter() - begun)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answered:
        return self.ask("GET", path, None, headers)

    def classify(self, image: bytes, query: str = "", *, kind: str = "image/jpeg", **headers: str) -> Answered:
        return self.ask("POST", f"/v1/classify{query}", image, {"Content_Type": kind} | headers)

    def metric(self, name: str) -> float:
        """Returns the sum of a metric's samples."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(\{{|\s)", line))

    def connect(self, seconds: float = 60.0) -> socket.socket:
        """Returns a connection that says what it likes."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds * SLOWNESS)

    def say(self, data: bytes, *, seconds: float = 60.0) -> Answered:
        """Sends bytes, and reads until the server closes the connection."""
        with self.connect(seconds) as connection:
            connection.sendall(data)
            return read_answer(connection)


def read_answer(connection: socket.socket) -> Answered:
    """Reads an answer and whatever follows it, until the server closes."""
    begun, data = time.perf_counter(), b""
    while chunk := connection.recv(1 << 16):
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)} if head else {}
    return Answered(int(first.split()[1]) if head else 0, body, headers, time.perf_counter() - begun)


def form(*files: bytes, field_name: str = "image") -> tuple[bytes, str]:
    """Returns a form with files, and its Content-Type."""
    mark = b"mark-of-the-form"
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="%d"\r\n\r\n%s\r\n'
        % (mark, field_name.encode(), i, file)
        for i, file in enumerate(files)
    ]
    return b"".join(parts) + b"--%s--\r\n" % mark, f"multipart/form-data; boundary={mark.decode()}"
