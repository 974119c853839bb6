"""One attempt to bring a file from an https address into a partial file beside its place, and to go on with it later.

Only https, however often the server redirects; http only to this machine itself. Beside the partial file lies what the
server said to recognise it by (ETag, or Last-Modified), so that the rest is asked for with Range and If-Range: a server
whose file has changed since then sends all of it again (RFC 9110, sections 13.1.5 and 14).
"""

import contextlib
import errno
import http.client
import io
import ipaddress
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from util.errors import MissingInputError, OutputError, SaveError, UntrustedFileError, UserError

MAX_REDIRECTS = 5
CHUNK = 1 << 20  # bytes
MIN_RATE = 1000  # bytes a second, over one timeout
REDIRECTS = (301, 302, 303, 307, 308)
LATER = (408, 425, 429)  # the server asks to come back, not to stay away
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class DownloadError(UserError):
    """The network or the server failed in a way that may pass; trying again later goes on where it stopped."""

    exit_code = 75


class PassingError(Exception):
    """An attempt failed in a way that may have passed a moment later."""


@dataclass(frozen=True)
class Limits:
    """What one attempt may take."""

    timeout: float  # seconds to connect, and without MIN_RATE
    most: int  # bytes that the file may have


def check_address(url: str, *, previous: str | None = None) -> None:
    """Refuses every address but https, and http of this machine; http also after https."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme, parts.hostname or ""
    except ValueError:  # brackets that enclose no address
        scheme, host = "", ""
    is_local = scheme == "http" and _is_loopback(host)
    downgrade = previous is not None and previous.startswith("https:") and scheme != "https"
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if not host or not is_plain or downgrade or (scheme != "https" and not is_local):
        where = repr(url) if previous is None else f"{previous} redirects to {url!r}"
        raise UntrustedFileError(f"{where}: refused; weights are fetched over https only")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def writing(path: Path, *, hint: str = "what arrived is kept, and continued next time") -> Iterator[None]:
    """Turns a failure at `path` into a SaveError (the disk) or an OutputError (the place) that ends in `hint`."""
    try:
        yield
    except OSError as error:
        kind = SaveError if error.errno in FULL else OutputError
        raise kind(f"{path}: cannot be written: {error.strerror or error}; {hint}") from None


def read_note(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; empty when there is none that can be read."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _is_validator(text: Any) -> bool:
    """Whether a header can carry it; a weak ETag does not promise equal bytes."""
    return isinstance(text, str) and 0 < len(text) <= 500 and text.isascii() and text.isprintable() and text[:2] != "W/"


class Partial:
    """A file that is arriving, and how its server names the version of which it is the beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note = path.with_name(f"{path.name}.json")

    def resumable(self, url: str) -> tuple[int, str | None]:
        """Returns how many bytes are there of the version at `url`, and its validator; 0 and None to start anew."""
        note = read_note(self.note)
        validator = note.get("validator") if note.get("url") == url else None
        size = self.path.stat().st_size if self.path.is_file() else 0
        return (size, validator) if size > 0 and _is_validator(validator) else (0, None)

    def start(self, url: str, validator: str | None) -> None:
        """Empties the file for the version that `validator` names; the order keeps old bytes from a new name."""
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")

    def remove(self) -> None:
        """Leaves nothing of it."""
        for path in (self.path, self.note):
            path.unlink(missing_ok=True)


def transfer(url: str, partial: Partial, limits: Limits, progress: Callable[[int, int | None], None]) -> None:
    """Completes `partial` from `url`, or keeps what arrived.

    progress: called with the bytes that are here and those that will be, if known, whenever some arrived.
    Raises PassingError; MissingInputError for an address without a file; UntrustedFileError for one that is not
    followed or a file that is larger than announced; SaveError or OutputError if it cannot be written.
    """
    check_address(url)
    have, validator = partial.resumable(url)
    headers = {"User-Agent": "paddle-cvt", "Accept-Encoding": "identity"}
    if validator is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with _open(url, headers, limits.timeout) as response:
            if response.status == 416:
                _settle_416(response, partial, have)
                return
            start = _start(response, url, partial, have)
            try:
                _receive(response, partial.path, start, limits, progress)
            except UntrustedFileError:
                partial.remove()
                raise
    except (OSError, http.client.HTTPException) as error:  # those of the disk are user errors already
        raise PassingError(str(error) or type(error).__name__) from None


class _Opener(urllib.request.OpenerDirector):
    """http and https, through the system's proxies, and no other scheme; redirects come back as errors."""

    def __init__(self, *, proxies: bool) -> None:
        super().__init__()
        for handler in (
            *((urllib.request.ProxyHandler(),) if proxies else ()),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self.add_handler(handler)


def _open(url: str, headers: dict[str, str], timeout: float) -> Any:
    """Returns the response to a request, after at most MAX_REDIRECTS; its status is 200, 206 or 416."""
    first = url
    for _ in range(MAX_REDIRECTS + 1):
        opener = _Opener(proxies=not _is_loopback(urlsplit(url).hostname or ""))
        try:
            response: Any = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
        except urllib.error.URLError as error:
            raise _unreachable(url, error.reason) from None
        if response.status in (200, 206, 416):
            return response
        response.close()
        if response.status not in REDIRECTS:
            raise _refusal(url, response.status, response.reason)
        onward = response.headers.get("Location") or ""
        with contextlib.suppress(ValueError):  # what cannot be joined is no address either, which is said below
            onward = urljoin(url, onward)
        check_address(onward, previous=url)
        url = onward
    raise UntrustedFileError(f"{first}: redirected more than {MAX_REDIRECTS} times, at last to {url}; refused")


def _unreachable(url: str, reason: object) -> Exception:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return UntrustedFileError(f"{url}: the server could not prove who it is: {reason.verify_message}")
    return PassingError(str(reason) or type(reason).__name__)


def _refusal(url: str, status: int, reason: str) -> Exception:
    if status >= 500:
        return PassingError(f"the server answered {status} {reason}")
    if status in LATER:
        return DownloadError(f"{url}: the server answered {status} {reason}; try again later")
    return MissingInputError(f"{url}: the server answered {status} {reason}; the file is not to be had there")


def _settle_416(response: Any, partial: Partial, have: int) -> None:
    """Nothing is left after what is here: either this is all of it, or it is not of this file."""
    if response.headers.get("Content-Range") != f"bytes */{have}":
        partial.remove()
        raise PassingError("what was here was longer than the file; starting again")


def _start(response: Any, url: str, partial: Partial, have: int) -> int:
    """Returns where the response's bytes belong; empties the partial file if that is the beginning."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range") or "")
        if match is None or int(match[1]) != have:
            partial.remove()
            raise PassingError("the server sent another part than the one asked for; starting again")
        return have
    tags = (response.headers.get("ETag"), response.headers.get("Last-Modified"))
    with writing(partial.path):
        partial.start(url, next(filter(_is_validator, tags), None))
    return 0


def _receive(
    response: Any, path: Path, start: int, limits: Limits, progress: Callable[[int, int | None], None]
) -> None:
    """Appends the response's body to the file at `start`, which is its length, and syncs it."""
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None and length.isdecimal() else None
    if total is None and not response.chunked:
        raise UntrustedFileError(f"{response.url}: the server does not say how long the file is; refused")
    _check_size(start if total is None else total, limits, response.url)
    _check_space(path, 0 if total is None else total - start)
    received, window, in_window = start, time.monotonic(), 0
    with writing(path):
        file = open(path, "ab", buffering=0)  # noqa: SIM115  closed below; a kill loses nothing that arrived
    with file:
        while chunk := response.read1(CHUNK):
            _write(file, chunk, path)
            received, in_window = received + len(chunk), in_window + len(chunk)
            _check_size(received, limits, response.url)
            progress(received, total)
            if (elapsed := time.monotonic() - window) > limits.timeout:
                if in_window < MIN_RATE * elapsed:
                    raise PassingError(f"only {in_window} bytes arrived in {elapsed:.1f} s")
                window, in_window = time.monotonic(), 0
        with writing(path):
            os.fsync(file.fileno())
    if total is not None and received < total:
        raise PassingError(f"the connection ended after {received} of {total} bytes")


def _write(file: io.FileIO, chunk: bytes, path: Path) -> None:
    rest = memoryview(chunk)
    with writing(path):
        while rest:
            rest = rest[file.write(rest) :]


def _check_size(size: int, limits: Limits, url: str) -> None:
    if size > limits.most:
        raise UntrustedFileError(f"{url}: {size} bytes, more than the {limits.most} that this file may have; refused")


def _check_space(path: Path, needed: int) -> None:
    with writing(path):
        free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise SaveError(f"{path}: {needed / 1e6:.1f} MB are to come, {free / 1e6:.1f} MB are free there")
