"""One attempt to bring a file from an https address into a partial file beside its place, and to go on with it later.

Only https, however often the server redirects; http only to this machine itself. Beside the partial file lies what the
server said to recognise it by (ETag, or Last-Modified), so that the rest is asked for with Range and If-Range: a server
whose file has changed since then sends all of it again (RFC 9110, sections 13.1.5 and 14). Not every server does, nor
every proxy: bytes are appended only if the answer carries the same name and the same total.
"""

import contextlib
import errno
import http.client
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from util.errors import RESUMABLE, MissingInputError, OutputError, SaveError, UntrustedFileError, UserError
from util.weights.connection import Deadline, PassingError, check_address, request

MAX_REDIRECTS = 5
CHUNK = 1 << 20  # bytes
MIN_RATE = 1000  # bytes a second, over one timeout
REDIRECTS = (301, 302, 303, 307, 308)
LATER = (408, 425, 429)  # the server asks to come back, not to stay away
PAGES = ("text/html", "application/xhtml+xml")
NUMBER = "[0-9]{1,15}"  # int() refuses thousands of digits
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class DownloadError(UserError):
    """The network or the server failed in a way that may pass; trying again later goes on where it stopped."""

    exit_code = RESUMABLE


@dataclass(frozen=True)
class Limits:
    """What one attempt may take."""

    timeout: float  # seconds until the headers are here, and then for each read and without MIN_RATE
    most: int  # bytes that the file may have


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


@dataclass(frozen=True)
class Beginning:
    """What has arrived of a file."""

    size: int  # bytes that are here
    validator: str  # the server's name of the version
    total: int | None  # bytes that this version has, if the server said so


@dataclass(frozen=True)
class Part:
    """Where a response's body belongs, in bytes of the file."""

    start: int
    end: int | None  # None: the body's own end says
    total: int | None  # of the file, if known


class Partial:
    """A file that is arriving, and how its server names the version of which it is the beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note = path.with_name(f"{path.name}.json")

    def resumable(self, url: str) -> "Beginning | None":
        """Returns what is here of the version at `url`; None to start anew."""
        note = read_note(self.note)
        validator, total = note.get("validator"), note.get("total")
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size == 0 or note.get("url") != url or not isinstance(validator, str) or not _is_validator(validator):
            return None
        return Beginning(size, validator, total if type(total) is int else None)

    def start(self, url: str, validator: str | None, total: int | None) -> None:
        """Empties the file for the version that `validator` names; the order keeps old bytes from a new name."""
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps({"url": url, "validator": validator, "total": total}), encoding="utf-8")

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
    have = partial.resumable(url)
    headers = {"User-Agent": "paddle-cvt", "Accept-Encoding": "identity"}
    if have is not None:
        headers |= {"Range": f"bytes={have.size}-", "If-Range": have.validator}
    deadline = Deadline(limits.timeout)
    try:
        with _open(url, headers, deadline) as response:
            if response.status == 416:
                _settle_416(response, partial, have)
                return
            part = _start(response, url, partial, have)
            try:
                _receive(response, partial.path, part, limits, deadline, progress)
            except UntrustedFileError:
                partial.remove()
                raise
    except (OSError, http.client.HTTPException) as error:  # those of the disk are user errors already
        reason = " ".join(str(error).split())[:200]  # may quote what the server sent
        raise PassingError(reason or type(error).__name__) from None


def _open(url: str, headers: dict[str, str], deadline: Deadline) -> Any:
    """Returns the response to a request, after at most MAX_REDIRECTS; its status is 200, 206 or 416."""
    first = url
    for _ in range(MAX_REDIRECTS + 1):
        response = request(url, headers, deadline)
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


def _refusal(url: str, status: int, reason: str) -> Exception:
    if status >= 500:
        return PassingError(f"the server answered {status} {reason}")
    if status in LATER:
        return DownloadError(f"{url}: the server answered {status} {reason}; try again later")
    return MissingInputError(f"{url}: the server answered {status} {reason}; the file is not to be had there")


def _settle_416(response: Any, partial: Partial, have: Beginning | None) -> None:
    """Nothing is left after what is here: either this is all of it, or it is not of this file."""
    if have is None or have.size != have.total or response.headers.get("Content-Range") != f"bytes */{have.size}":
        partial.remove()
        raise PassingError("the server has nothing after what was here, which is not all of the file; starting again")


def _start(response: Any, url: str, partial: Partial, have: Beginning | None) -> Part:
    """Returns where the response's body belongs; empties the partial file if that is the beginning.

    What is here is left alone if the answer is not the file at all.
    """
    kind = response.headers.get_content_type() if "Content-Type" in response.headers else ""
    if kind in PAGES:
        raise DownloadError(
            f"{url}: the server answered with a page ({kind}) instead of the file, as networks do that ask to log in; "
            "try again later"
        )
    encoding = (response.headers.get("Content-Encoding") or "identity").lower()
    if encoding != "identity" or (response.headers.get("Transfer-Encoding") and not response.chunked):
        raise UntrustedFileError(f"{url}: sent in an encoding that was not asked for ({encoding[:40]}); refused")
    length = _length(response)
    if response.status == 206:
        part = _asked_part(response, have, length)
        if part is None:
            partial.remove()
            raise PassingError("the server sent another part than the one asked for; starting again")
        return part
    with writing(partial.path):
        partial.start(url, next(filter(_is_validator, _names(response)), None), length)
    return Part(0, length, length)


def _names(response: Any) -> tuple[str | None, str | None]:
    """Returns how the server names the version of the file, the better name first."""
    return response.headers.get("ETag"), response.headers.get("Last-Modified")


def _length(response: Any) -> int | None:
    """Returns how long the body is to be; None where only its last chunk says."""
    if response.chunked:
        return None
    lengths = set(response.headers.get_all("Content-Length") or ())
    if not lengths:
        raise UntrustedFileError(f"{response.url}: the server does not say how long the file is; refused")
    text = lengths.pop()
    if lengths or not re.fullmatch(NUMBER, text):
        raise UntrustedFileError(f"{response.url}: no length that a file can have: {text[:40]!r}; refused")
    return int(text)


def _asked_part(response: Any, have: Beginning | None, length: int | None) -> Part | None:
    """Returns which part of the file a 206 is, None unless it goes on with what is here.

    It may end before the file does (RFC 9110, section 15.3.7); the file's end is then still its total.
    """
    match = re.fullmatch(rf"bytes ({NUMBER})-({NUMBER})/({NUMBER})", response.headers.get("Content-Range") or "")
    if match is None or have is None or have.validator not in _names(response):
        return None
    start, last, total = map(int, match.groups())
    is_next = start == have.size <= last < total and have.total in (None, total)
    return Part(start, last + 1, total) if is_next and length in (None, last + 1 - start) else None


def _receive(
    response: Any,
    path: Path,
    part: Part,
    limits: Limits,
    deadline: Deadline,
    progress: Callable[[int, int | None], None],
) -> None:
    """Appends the response's body to the file, which ends where the part starts, and syncs it."""
    start, total = part.start, part.total
    _check_size(start if total is None else total, limits, response.url)
    _check_space(path, 0 if total is None else total - start)
    received, window, in_window = start, time.monotonic(), 0
    with writing(path):
        file = open(path, "ab", buffering=0)  # noqa: SIM115  closed below; a kill loses nothing that arrived
    with file:
        deadline.renew(limits.timeout)
        while chunk := response.read1(CHUNK):
            deadline.renew(limits.timeout)
            _write(file, chunk, path)
            received, in_window = received + len(chunk), in_window + len(chunk)
            _check_size(received, limits if part.end is None else replace(limits, most=part.end), response.url)
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
