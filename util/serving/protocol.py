"""HTTP with deadlines: uvicorn's protocol, which waits for a client for ever, with limits of time, size and number.

A connection is in one of four phases: a request's head is arriving, its body is, it is being answered, or nothing is
under way. The first two have deadlines, the last is uvicorn's keep-alive. A client that does not read what it is sent,
or goes on sending what was refused, is cut off after a while.
"""

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from util.serving.admission import Admission
from util.serving.batcher import RefusedError
from util.serving.classifier import PLACE
from util.serving.observed import number_of

REASONS = {400: "Bad Request", 408: "Request Timeout", 414: "URI Too Long", 431: "Request Header Fields Too Large",
           503: "Service Unavailable"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds for a request's head, for all of it, and for a client to read an answer; bytes; connections."""

    head_seconds: float = 5.0
    request_seconds: float = 10.0
    write_seconds: float = 10.0
    linger_seconds: float = 1.0  # that a refused body may go on arriving, so that the client reads why
    head_bytes: int = 16_384
    url_bytes: int = 8_192
    connections: int = 512
    told: int = 256  # connections more, which learn why they are refused; others are cut off
    dropped_bytes: int = 4 << 20  # of a refused body that is let in so that the connection can be kept


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `protocol_with` binds the limits, and who says whether there is room."""

    limits: ClassVar[Limits] = Limits()
    admission: ClassVar[Admission]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._timer: asyncio.TimerHandle | None = None  # until when what is arriving must be there
        self._write_timer: asyncio.TimerHandle | None = None  # until when an answer must be read
        self._in_head = False
        self._in_body = False
        self._foreign_body = 0  # bytes still to come of a body that the parser leaves to another protocol
        self._is_dropped = False  # the request was refused, and the rest of its body is of no use
        self._head_begun = 0.0
        self._loose_bytes = 0  # since the last that were a body's, or the end of a head or a request
        self._place: int | None = None  # that is kept for the request's images
        self._running: Any = None  # the request that is being answered; `cycle` is the last one that came
        self._refusal: tuple[int, str] | None = None
        self._is_closed = False
        super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type]
        self._begin_head()  # also where it is refused: its request is let in, or a reset would take the answer along
        if len(self.connections) > self.limits.connections + self.limits.told:
            self._cut()
        elif len(self.connections) > self.limits.connections:
            self.refuse(503, "too many connections are open")

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed = True
        self._stop_timer()
        self.resume_writing()
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_ending or self.parser is None:
            return  # the last answer is on its way
        if not self._in_head and not self._in_body and self._is_idle:
            self._begin_head()
        self._loose_bytes += len(data)
        self._feed(data)
        if self._refusal is not None:
            self.refuse(*self._refusal)
        elif (
            not self._is_ending and self._loose_bytes > self.limits.head_bytes
        ):  # a head without an end, or what follows a body in chunks
            self._refuse_head()

    def _feed(self, data: bytes) -> None:
        """Parses; `Upgrade: h2c`, which some clients send with any request, is ignored, as HTTP allows.

        The parser takes what follows such a head for the other protocol's, so its body is counted here.
        """
        self._unset_keepalive_if_required()
        while data and not self._is_ending:
            if self._foreign_body:
                part, data = data[: self._foreign_body], data[self._foreign_body :]
                self._foreign_body -= len(part)
                self.on_body(part)
                if not self._foreign_body:
                    self.on_message_complete()
                continue
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.refuse(400, "the request is not valid HTTP")
                return

    @property
    def _is_ending(self) -> bool:
        """Whether nothing that still comes is answered."""
        return self._refusal is not None or self.transport.is_closing()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _begin_head(self) -> None:
        self._in_head, self._loose_bytes = True, 0
        self._head_begun = self.loop.time()
        self._start_timer(self.limits.head_seconds, self._late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head and not self._is_ending:  # it came in one piece with another
            self._in_head, self._head_begun = True, self.loop.time()

    def on_headers_complete(self) -> None:
        if self._is_ending:
            return  # what came in one piece behind a request that ends the connection
        self._in_head, self._in_body, self._loose_bytes = False, True, 0
        size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) > self.limits.url_bytes or size > self.limits.head_bytes:
            self._refusal = self._head_refusal()
            return
        if self.parser.should_upgrade():
            given = dict(self.headers)
            self._foreign_body = int(given.get(b"content-length", b"0"))
            if b"transfer-encoding" in given:
                self._refusal = (400, "a request with Upgrade needs a Content-Length")
                return
        self._start_timer(self._head_begun + self.limits.request_seconds - self.loop.time(), self._late)
        if self._is_idle:
            try:
                self._place = self.scope["state"][PLACE] = self.admission.admit(
                    self.parser.get_method(), self.url, self.headers
                )
            except RefusedError as error:
                self._turn_away(error)
                return
        try:
            super().on_headers_complete()
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            self._refusal = (400, "the URL is invalid")

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._leave()
        super().on_response_complete()
        if self._running is not None and not self._running.response_complete:
            return  # the next one, which waited
        if self._refusal is not None:
            self.refuse(*self._refusal)
        elif self._in_head and not self.transport.is_closing():  # a head that has begun behind it
            self._unset_keepalive_if_required()
            self._start_timer(self.limits.head_seconds, self._late)

    def _leave(self) -> None:
        self.admission.leave(self._place)
        self._place = None

    def on_body(self, body: bytes) -> None:
        self._loose_bytes = 0
        if self._refusal is None and not self._is_dropped:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._foreign_body:
            return
        self._in_body, self._loose_bytes = False, 0
        self._stop_timer()
        if self._is_dropped:
            self._is_dropped = False
            self.on_response_complete()
        elif not self._is_ending:
            super().on_message_complete()
            if self._is_idle:  # answered before its body was there, which has ended the time between two requests
                self._unset_keepalive_if_required()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _turn_away(self, error: RefusedError) -> None:
        """Answers at once, and keeps the connection where that is cheaper than a new one."""
        is_kept, number = self._may_be_kept(), number_of(self.headers)
        self.admission.note(self.parser.get_method(), self.url, number, 503)
        self._write(503, error.reason, number, retry_after=error.retry_after, close=not is_kept)
        if is_kept:
            self._is_dropped = True
        else:
            self._refusal = (503, error.reason)
            self.transport.close()

    def _may_be_kept(self) -> bool:
        """Returns whether the body of a refused request will come, and end soon, and whether its answer is read."""
        given = dict(self.headers)
        length = given.get(b"content-length", b"0")
        return bool(
            self.parser.get_http_version() != "1.0"
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and b"transfer-encoding" not in given
            and length.isdigit()
            and int(length) <= self.limits.dropped_bytes
            and not self.flow.write_paused
        )

    def _head_refusal(self) -> tuple[int, str]:
        if len(self.url) > self.limits.url_bytes:
            return 414, f"the URL may have up to {self.limits.url_bytes} bytes"
        return 431, f"the head may have up to {self.limits.head_bytes} bytes"

    def _refuse_head(self) -> None:
        # before its first line is whole, a head has no `url` beyond what came
        self.url = getattr(self, "url", b"") or b""
        self.refuse(*self._head_refusal())

    def _late(self) -> None:
        if self._in_body and (self._is_dropped or (self.cycle is not None and self.cycle.response_complete)):
            self.transport.close()  # it was answered long ago
            return
        if self._in_body and self.cycle is not None:
            return  # whoever reads the body has the same deadline, and answers
        what = "head" if self._in_head else "body"
        self.refuse(408, f"the request's {what} did not arrive in time")

    def refuse(self, status: int, reason: str, *, at_once: bool = False) -> None:
        """Answers what has come last and closes, when those that came before it are answered.

        at_once: does not wait for them. An answer that has begun is not followed by another; the connection just ends.
        """
        status, reason = self._refusal = self._refusal or (status, reason)
        self._stop_timer()
        if self.transport.is_closing():
            return
        running = None if self._running is None or self._running.response_complete else self._running
        if running is not None and not at_once and not running.more_body:
            if self.pipeline and self.pipeline[0][0].more_body:
                self.pipeline.popleft()  # the one whose body is refused, which waited for its turn
            return  # until `on_response_complete`
        if running is None or not running.response_started:
            method, url, headers = b"", getattr(self, "url", b"") or b"", ()
            if running is not None:
                scope = running.scope
                method, url, headers = scope["method"].encode(), scope["raw_path"], scope["headers"]
            number = number_of(headers)
            self._write(status, reason, number, retry_after=1 if status == 503 else None, close=True)
            self.admission.note(method, url[: self.limits.url_bytes], number, status)
        self.transport.close()

    def _write(self, status: int, reason: str, number: str, *, retry_after: int | None, close: bool) -> None:
        body = json.dumps({"error": reason, "request_id": number}).encode()
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\nx-request-id: {number}\r\n"
        head += "connection: close\r\n" if close else ""
        head += "" if retry_after is None else f"retry-after: {retry_after}\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_seconds, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _cut(self) -> None:
        """Ends the connection by a reset, so that the system keeps nothing of what the client has not read."""
        if not self._is_closed:
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.transport.abort()

    def _start_timer(self, seconds: float, action: Any) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(max(0.0, seconds), action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Lingering:
    """A transport whose `close` lets the client read the answer although it is still sending, and ends in any case.

    A socket that is closed with data in it resets the connection, and the client then loses an answer that it has not
    read. So a body that is not wanted is let in, and dropped, for a moment.
    """

    def __init__(self, transport: asyncio.Transport, protocol: GuardedProtocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._is_closing:  # what was refused meanwhile may still be answered, in vain
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        protocol, transport = self._protocol, self._transport
        protocol._stop_timer()
        expects_more = protocol._in_head or protocol._in_body
        if expects_more and transport.can_write_eof() and not transport.is_closing():
            transport.resume_reading()
            transport.write_eof()
            protocol.loop.call_later(protocol.limits.linger_seconds, transport.close)
        else:
            transport.close()
        # what is not read by then is not read any more
        protocol.loop.call_later(protocol.limits.write_seconds, protocol._cut)


def protocol_with(limits: Limits, admission: Admission) -> type[GuardedProtocol]:
    """Returns the protocol with these limits, for uvicorn's `http`."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits, "admission": admission})
