"""Servers that send something else than they say, or take their time: never two files in one, never without end."""

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests import http_files as http
from tests.http_files import CONTENT, HALF, FileServer
from util.errors import UntrustedFileError, UserError
from util.weights.connection import Deadline
from util.weights.download import Patience, cached
from util.weights.sources import SOURCES
from util.weights.transfer import DownloadError

QUICK = Patience(timeout=10.0, tries=3, pause=0.01)
OLD = bytes(HALF)  # the beginning of another version
TOTAL = len(CONTENT)
PARTIAL = {"weights.bin.part", "weights.bin.part.json"}


def fetch(server: FileServer, folder: Path, patience: Patience = QUICK) -> bytes:
    source = replace(SOURCES[0], url=server.url(), file="weights.bin", sha256=None, megabytes=1.0)
    return cached(source, cache_dir=folder, patience=patience).read_bytes()


def refusal(server: FileServer, folder: Path, kind: type[UserError], patience: Patience = QUICK) -> str:
    with pytest.raises(kind) as caught:
        fetch(server, folder, patience)
    assert "\n" not in str(caught.value)
    assert not (folder / "weights.bin").exists()
    return str(caught.value)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"weights.bin.lock"}


def answers(status: int, headers: dict[str, str], body: bytes = b"") -> http.Answer:
    def answer(handler: http.Handler, content: bytes) -> None:
        handler.start(status, {"Content-Length": str(len(body)), **headers})
        handler.wfile.write(body)

    return answer


def part(start: int, last: int, total: int | str = TOTAL, etag: str = '"one"') -> http.Answer:
    headers = {"ETag": etag, "Content-Range": f"bytes {start}-{last}/{total}"}
    return answers(206, headers, CONTENT[start : last + 1])


def begin(server: FileServer, folder: Path, content: bytes, *, total: int | None = TOTAL) -> None:
    """Leaves what an interrupted download leaves."""
    (folder / "weights.bin.part").write_bytes(content)
    note = {"url": server.url(), "validator": '"one"', "total": total}
    (folder / "weights.bin.part.json").write_text(json.dumps(note))


# -- one file, not two ------------------------------------------------------------------------------------------------

OTHERS = {
    "another version": part(HALF, TOTAL - 1, etag='"two"'),
    "no version": answers(206, {"Content-Range": f"bytes {HALF}-{TOTAL - 1}/{TOTAL}"}, CONTENT[HALF:]),
    "another start": part(HALF - 1, TOTAL - 1),
    "another total": part(HALF, TOTAL - 1, TOTAL + 1),
    "no total": part(HALF, TOTAL - 1, "*"),
    "an end beyond the total": part(HALF, TOTAL - 1, TOTAL - 1),
    "another length": answers(206, {"ETag": '"one"', "Content-Range": f"bytes {HALF}-{TOTAL - 1}/{TOTAL}"}, b"short"),
    "5000 digits": part(HALF, TOTAL - 1, "3" * 5000),
    "all of it as a 416": answers(416, {"Content-Range": f"bytes */{HALF}"}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_part_of_another_version_or_place_is_never_appended(server: FileServer, tmp_path: Path, other: str) -> None:
    begin(server, tmp_path, OLD)
    server.plans["/file"] = [OTHERS[other]]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges() == [f"bytes={HALF}-", None]


def test_a_shorter_part_than_asked_is_not_taken_for_the_end(server: FileServer, tmp_path: Path) -> None:
    begin(server, tmp_path, CONTENT[:HALF])
    server.plans["/file"] = [part(HALF, HALF + 999)]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges() == [f"bytes={HALF}-", f"bytes={HALF + 1000}-"]


@pytest.mark.parametrize("status", [206, 416])
def test_a_part_that_was_not_asked_for_is_not_taken(server: FileServer, tmp_path: Path, status: int) -> None:
    """Beside a stale beginning without a note, to which nothing may be appended either."""
    (tmp_path / "weights.bin.part").write_bytes(OLD)
    where = f"bytes 0-{HALF - 1}/{TOTAL}" if status == 206 else "bytes */0"
    headers = {"ETag": '"one"', "Content-Range": where}
    server.plans["/file"] = [answers(status, headers, CONTENT[:HALF])]
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges() == [None, None]


def test_chunks_that_go_on_after_the_end_of_their_part_are_refused(server: FileServer, tmp_path: Path) -> None:
    def answer(handler: http.Handler, content: bytes) -> None:
        where = f"bytes {HALF}-{TOTAL - 1}/{TOTAL}"
        handler.start(206, {"ETag": '"one"', "Content-Range": where, "Transfer-Encoding": "chunked"})
        handler.wfile.write(f"{HALF + 1:x}\r\n".encode() + content[HALF:] + b"?\r\n0\r\n\r\n")

    begin(server, tmp_path, CONTENT[:HALF])
    server.plans["/file"] = [answer]
    assert "refused" in refusal(server, tmp_path, UntrustedFileError)
    assert left(tmp_path) == set()


# -- not the file -----------------------------------------------------------------------------------------------------


def test_a_page_is_no_file_and_keeps_what_arrived(server: FileServer, tmp_path: Path) -> None:
    begin(server, tmp_path, CONTENT[:HALF])
    server.plans["/file"] = [answers(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>")]
    assert "a page (text/html) instead of the file" in refusal(server, tmp_path, DownloadError)
    assert left(tmp_path) == PARTIAL
    assert fetch(server, tmp_path) == CONTENT
    assert server.ranges()[-1] == f"bytes={HALF}-"


@pytest.mark.parametrize("body", [b"", b"<html>log in</html>", b"\xef\xbb\xbf\r\n <!DOCTYPE html>"])
def test_a_page_that_does_not_say_so_passes_and_leaves_nothing(server: FileServer, tmp_path: Path, body: bytes) -> None:
    server.plans["/file"] = [answers(200, {"ETag": '"one"'}, body)]
    assert "instead of the file" in refusal(server, tmp_path, DownloadError)
    assert left(tmp_path) == set()
    assert fetch(server, tmp_path) == CONTENT


@pytest.mark.parametrize("body", [b"NNN", b"\x1f\x8b gzip", b"version https://git-lfs.github.com/spec/v1\n"])
def test_what_is_no_weights_file_is_never_in_the_cache(server: FileServer, tmp_path: Path, body: bytes) -> None:
    server.plans["/file"] = [answers(200, {}, body)]
    assert "not the published file" in refusal(server, tmp_path, UntrustedFileError)
    assert left(tmp_path) == set()


@pytest.mark.parametrize("name", ["Content-Encoding", "Transfer-Encoding"])
def test_an_encoding_that_was_not_asked_for_is_refused(server: FileServer, tmp_path: Path, name: str) -> None:
    server.plans["/file"] = [answers(200, {name: "gzip"}, CONTENT)]
    assert "encoding that was not asked for" in refusal(server, tmp_path, UntrustedFileError)
    assert [headers["Accept-Encoding"] for _, headers in server.requests] == ["identity"]


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "3 3", "+3"])
def test_a_length_that_is_none_is_one_line(server: FileServer, tmp_path: Path, length: str) -> None:
    server.plans["/file"] = [answers(200, {"Content-Length": length}, CONTENT)]
    message = refusal(server, tmp_path, UntrustedFileError)
    assert "no length that a file can have" in message
    assert len(message) < 300


# -- slow -------------------------------------------------------------------------------------------------------------


def drips_after(beginning: bytes, repeated: bytes, seconds: float) -> http.Answer:
    def answer(handler: http.Handler, content: bytes) -> None:
        handler.wfile.write(beginning)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            handler.wfile.write(repeated)
            time.sleep(seconds)

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "the status": drips_after(b"HTTP/1.1 200 ", b"O", 0.05),
    "a header": drips_after(b"HTTP/1.1 200 OK\r\nX: ", b"a", 0.05),
    "100 Continue": drips_after(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0),
    "an extension": drips_after(CHUNKED + b"1;", b"a", 0.05),
    "a trailer": drips_after(CHUNKED + b"0\r\n", b"a: b\r\n", 0.0),
}


@pytest.mark.parametrize("what", SLOW)
def test_what_never_ends_is_given_up_at_the_deadline(server: FileServer, tmp_path: Path, what: str) -> None:
    server.plans["/file"] = [SLOW[what]]
    started = time.monotonic()
    assert "timed out" in refusal(server, tmp_path, DownloadError, Patience(timeout=0.4, tries=1))
    assert time.monotonic() - started < 4


def test_redirects_share_one_deadline(server: FileServer, tmp_path: Path) -> None:
    def late(handler: http.Handler, content: bytes) -> None:
        time.sleep(0.3)
        http.redirects("/file")(handler, content)

    server.plans["/file"] = [late] * 5
    assert "timed out" in refusal(server, tmp_path, DownloadError, Patience(timeout=0.5, tries=1))
    assert len(server.requests) <= 2


def test_a_body_may_take_longer_than_the_deadline_if_it_flows(server: FileServer, tmp_path: Path) -> None:
    def flows(handler: http.Handler, content: bytes) -> None:
        handler.start(200, {"Content-Length": str(len(content))})
        for start in range(0, len(content), 30_000):
            handler.wfile.write(content[start : start + 30_000])
            time.sleep(0.15)

    server.plans["/file"] = [flows]
    assert fetch(server, tmp_path, Patience(timeout=1.0, tries=1)) == CONTENT
    assert len(server.requests) == 1


def test_a_deadline_counts_down_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    deadline = Deadline(2.5)  # at 2.5
    assert [deadline.left(), deadline.left()] == [1.5, 0.5]
    with pytest.raises(TimeoutError):
        deadline.left()
    deadline.renew(5.0)
    assert deadline.left() == 4.0
