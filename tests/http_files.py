"""A web server on this machine that serves files, and misbehaves on request."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

Answer = Callable[["Handler", bytes], None]
HEADER = b'{"w":{"dtype":"U8","shape":[299929],"data_offsets":[0,299929]}}'
CONTENT = len(HEADER).to_bytes(8, "little") + HEADER + hashlib.shake_256(b"weights").digest(300_000 - 8 - len(HEADER))
HALF = len(CONTENT) // 2


class Handler(BaseHTTPRequestHandler):
    """Answers one request with the next planned misbehaviour of its path, or with the file."""

    server: "_Server"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        files = self.server.files
        self.close_connection = True
        files.requests.append((self.path, dict(self.headers)))
        plan = files.plans.get(self.path)
        answer = plan.pop(0) if plan else whole
        with contextlib.suppress(ConnectionError):  # the client has enough
            answer(self, files.content)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what was asked is in `requests`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    files: "FileServer"


@dataclass
class FileServer:
    """Serves `content` at every path, with ranges; `plans` says for a path how its next requests are answered."""

    content: bytes = CONTENT
    etag: str = '"one"'
    plans: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __enter__(self) -> "FileServer":
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.files = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it; from then on connections are refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def ranges(self) -> list[str | None]:
        """Which part each request asked for."""
        return [headers.get("Range") for _, headers in self.requests]


def _wanted(handler: Handler, content: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a right answer (RFC 9110, section 14)."""
    etag, asked = handler.server.files.etag, handler.headers.get("Range")
    if asked is None or handler.headers.get("If-Range", etag) != etag:
        return 200, {"ETag": etag, "Content-Length": str(len(content))}, content
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    if start >= len(content):
        return 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}, b""
    where = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return 206, {"ETag": etag, "Content-Range": where, "Content-Length": str(len(content) - start)}, content[start:]


def whole(handler: Handler, content: bytes) -> None:
    """The right answer."""
    status, headers, body = _wanted(handler, content)
    handler.start(status, headers)
    handler.wfile.write(body)


def cut(after: int) -> Answer:
    """The right answer, but the connection ends after that many bytes of the body."""

    def answer(handler: Handler, content: bytes) -> None:
        status, headers, body = _wanted(handler, content)
        handler.start(status, headers)
        handler.wfile.write(body[:after])

    return answer


def without_ranges(handler: Handler, content: bytes) -> None:
    """The whole file, whatever part was asked for."""
    handler.start(200, {"ETag": handler.server.files.etag, "Content-Length": str(len(content))})
    handler.wfile.write(content)


def other_part(handler: Handler, content: bytes) -> None:
    """Status 206 with a part that nobody asked for."""
    handler.start(206, {"Content-Range": f"bytes 7-{len(content) - 1}/{len(content)}", "Content-Length": "5"})
    handler.wfile.write(content[7:12])


def without_length(handler: Handler, content: bytes) -> None:
    """A body whose end is only the end of the connection."""
    handler.start(200, {})
    handler.wfile.write(content)


def in_chunks(handler: Handler, content: bytes) -> None:
    """A body in chunks, whose length no header says."""
    handler.start(200, {"Transfer-Encoding": "chunked"})
    for start in range(0, len(content), 50_000):
        part = content[start : start + 50_000]
        handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def says(status: int) -> Answer:
    """Another status, with a body that is not the file."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.start(status, {"Content-Length": "4"})
        handler.wfile.write(b"oops")

    return answer


def redirects(location: str, status: int = 302) -> Answer:
    """Sends the client elsewhere."""
    return lambda handler, content: handler.start(status, {"Location": location, "Content-Length": "0"})


def drips(seconds: float) -> Answer:
    """A byte every so often, a hundred of them."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.start(200, {"Content-Length": str(len(content))})
        for byte in content[:100]:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(seconds)

    return answer


@contextlib.contextmanager
def stopped_at(after: int) -> Iterator[tuple[Answer, threading.Event]]:
    """The right answer, which stops after that many bytes until the event is set."""
    go_on = threading.Event()

    def answer(handler: Handler, content: bytes) -> None:
        status, headers, body = _wanted(handler, content)
        handler.start(status, headers)
        handler.wfile.write(body[:after])
        handler.wfile.flush()
        go_on.wait(120)
        handler.wfile.write(body[after:])

    try:
        yield answer, go_on
    finally:
        go_on.set()
