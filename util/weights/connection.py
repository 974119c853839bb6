"""One request over https, all of whose waiting ends at one time, however the server spreads out what it sends.

A socket's own timeout begins again with each byte. A server that sends its headers a byte at a time, `100 Continue`
without end, or an extension to the size of a chunk would therefore be waited for as long as it likes. Here each read
waits only until the deadline. Connecting shares what is left among the host's addresses; a TLS handshake and sending
the request are limited as a whole by Python. Only the system's look-up of a name has limits of its own.
"""

import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from util.errors import UntrustedFileError

_LABEL = re.compile(r"[^.]{1,63}")  # of a host's name (RFC 1035); anything else cannot even be looked up


class PassingError(Exception):
    """An attempt failed in a way that may have passed a moment later."""


class Deadline:
    """When to stop waiting."""

    def __init__(self, seconds: float) -> None:
        self.renew(seconds)

    def renew(self, seconds: float) -> None:
        """Moves it to so many seconds from now."""
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Returns the seconds that are left; a TimeoutError if none are."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


def check_address(url: str, *, previous: str | None = None) -> None:
    """Refuses every address but https, and http of this machine; http also after https."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname or ""
        _ = parts.port  # is looked at only now
    except ValueError:  # brackets that enclose no address, a port that is no number or too large
        scheme, host = "", ""
    is_local = scheme == "http" and is_loopback(host)
    downgrade = previous is not None and previous.startswith("https:") and scheme != "https"
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if not _is_host(host) or not is_plain or downgrade or (scheme != "https" and not is_local):
        shown = url if len(url) <= 500 else f"{url[:500]}..."
        where = repr(shown) if previous is None else f"{previous} redirects to {shown!r}"
        raise UntrustedFileError(f"{where}: refused; weights are fetched over https only")


def _is_host(host: str) -> bool:
    """Whether each part between its dots has 1 to 63 characters; a dot at the end is the root's."""
    return len(host) <= 253 and all(map(_LABEL.fullmatch, host.removesuffix(".").split(".")))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, without asking anyone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def request(url: str, headers: dict[str, str], deadline: Deadline) -> Any:
    """Returns the response, an http.client.HTTPResponse or an HTTPError, whatever its status; follows no redirect.

    Reading its body waits until `deadline`, too, which may be renewed for that. Raises PassingError if there is no
    answer, UntrustedFileError if the server cannot prove who it is.
    """
    opener = _Opener(deadline, proxies=not is_loopback(urlsplit(url).hostname or ""))
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=deadline.left())
    except urllib.error.HTTPError as error:
        return error
    except urllib.error.URLError as error:
        raise _unreachable(url, error.reason) from None


def _unreachable(url: str, reason: object) -> Exception:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return UntrustedFileError(f"{url}: the server could not prove who it is: {reason.verify_message}")
    return PassingError(str(reason) or type(reason).__name__)


class _Opener(urllib.request.OpenerDirector):
    """http and https, through the system's proxies, and no other scheme; redirects come back as errors."""

    def __init__(self, deadline: Deadline, *, proxies: bool) -> None:
        super().__init__()
        for handler in (
            *((urllib.request.ProxyHandler(),) if proxies else ()),
            _HTTPHandler(deadline),
            _HTTPSHandler(deadline),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self.add_handler(handler)


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)  # type: ignore[arg-type]  # gives the timeout alone

    def _connection(self, host: str, /, *, timeout: float) -> http.client.HTTPConnection:
        return _limited(http.client.HTTPConnection(host, timeout=timeout), self._deadline)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)  # type: ignore[arg-type]  # gives the timeout alone

    def _connection(self, host: str, /, *, timeout: float) -> http.client.HTTPConnection:
        return _limited(http.client.HTTPSConnection(host, timeout=timeout), self._deadline)


def _limited(connection: http.client.HTTPConnection, deadline: Deadline) -> http.client.HTTPConnection:
    """Makes a connection, and the responses that it gives, wait until the deadline and no longer."""

    def connect(address: tuple[str, int], timeout: float, source: tuple[str, int] | None) -> socket.socket:
        return _dial(address, deadline)

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None) -> None:
            super().__init__(sock, debuglevel, method)
            self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, deadline))

    connection._create_connection = connect  # type: ignore[attr-defined]
    connection.response_class = Response
    return connection


def _dial(address: tuple[str, int], deadline: Deadline) -> socket.socket:
    """Connects to the first of a host's addresses that answers; each has an equal part of the time that is left."""
    try:
        places = [entry[4] for entry in socket.getaddrinfo(*address, type=socket.SOCK_STREAM)]
    except UnicodeError:  # of a proxy: those of servers are checked before
        raise OSError(f"{address[0][:100]!r} is not the name of a host") from None
    for number, place in enumerate(places):
        try:
            return socket.create_connection((str(place[0]), int(place[1])), deadline.left() / (len(places) - number))
        except OSError:
            if number == len(places) - 1:
                raise
    raise OSError("the name of the host has no address")


class _TimedReader(io.RawIOBase):
    """A socket's bytes, each waited for until the deadline."""

    def __init__(self, raw: Any, sock: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.left())
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
