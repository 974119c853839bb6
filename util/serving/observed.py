"""A number, a line of the log and figures for each request. Neither headers nor queries nor bodies are logged."""

import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from util.serving.metrics import Metrics
from util.serving.pages import FILES

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
log = logging.getLogger("serve")
_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
ROUTES = ("/v1/classify", "/v1/model", "/healthz", "/readyz", "/metrics", "/openapi.json", *FILES)


def say(event: str, *, level: int = logging.INFO, **values: Any) -> None:
    """Logs an event as a line of JSON."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    log.log(level, json.dumps({"time": now, "event": event} | values, ensure_ascii=False))


def request_id(scope: Scope) -> str:
    """Returns a request's number, which it keeps."""
    known = scope.setdefault("state", {})
    if "request_id" not in known:
        known["request_id"] = number_of(scope["headers"])
    return str(known["request_id"])


def number_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Returns the `X-Request-ID` of a request's headers where it is a plain one, else a new number."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _ID.fullmatch(given) else uuid.uuid4().hex


def error_answer(request: Request, status: int, reason: str, *, retry_after: int | None = None) -> Response:
    """Returns an answer that says why a request has no other one."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not waited for
    return JSONResponse({"error": reason, "request_id": request_id(request.scope)}, status, headers)


@dataclass(frozen=True)
class Journal:
    """Where each answer is noted: in the figures, and in the log where requests are logged."""

    metrics: Metrics
    log_requests: bool

    def note(self, method: str, path: str, number: str, status: int, seconds: float) -> None:
        """Counts an answer and logs its line."""
        route = path if path in ROUTES else "/v2" if path.startswith("/v2") else "other"
        self.metrics.requests.labels(route, status).inc()
        self.metrics.request_seconds.labels(route, status).observe(seconds)
        if self.log_requests:
            ms = round(1000 * seconds, 1)
            say("request", request_id=number, method=method, path=path, status=status, ms=ms)


class Observed:
    """Gives each answer its request's number, logs and counts it. What nobody caught becomes a 500 without details."""

    def __init__(self, app: Any, *, journal: Journal) -> None:
        self.app = app
        self.journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, number, status = time.perf_counter(), request_id(scope), 0

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        try:
            await self.app(scope, receive, numbered)
        except Exception:
            log.exception(json.dumps({"event": "internal error", "request_id": number}))
            if status:
                raise
            await _internal_error(number, numbered)
        finally:
            self.journal.note(scope["method"], scope["path"], number, status, time.perf_counter() - begun)


async def _internal_error(number: str, send: Send) -> None:
    body = json.dumps({"error": "internal error", "request_id": number}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
