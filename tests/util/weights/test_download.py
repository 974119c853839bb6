"""Fetching weights: whole or not at all, over https, resumed, verified, once, and then without the network."""

import hashlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import http_files as http
from tests.http_files import CONTENT, HALF, FileServer
from util.errors import MissingInputError, UntrustedFileError, UserError
from util.weights import download, transfer
from util.weights.connection import check_address
from util.weights.download import Patience, cached
from util.weights.sources import SOURCES, Source
from util.weights.transfer import DownloadError

ROOT = Path(__file__).parents[3]
DIGEST = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(timeout=10.0, tries=3, pause=0.01)
IMPATIENT = replace(QUICK, timeout=0.3)


def source_at(url: str, *, sha256: str | None = DIGEST) -> Source:
    return replace(SOURCES[0], url=url, file="weights.bin", sha256=sha256, megabytes=1.0)


def fetch(server: FileServer, folder: Path, *, sha256: str | None = DIGEST) -> Path:
    return cached(source_at(server.url(), sha256=sha256), cache_dir=folder, patience=QUICK)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"weights.bin.lock"}


DONE = {"weights.bin", "weights.bin.json"}
PARTIAL = {"weights.bin.part", "weights.bin.part.json"}


CHILD = """
import logging, sys
{before}
from dataclasses import replace
from pathlib import Path
from util.errors import run_script
from util.weights.download import cached
from util.weights.sources import SOURCES
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
source = replace(SOURCES[0], url={url!r}, file="weights.bin", sha256={digest!r}, megabytes=1.0)
run_script(lambda argv: print(cached(source, cache_dir=Path({folder!r}))))
"""


def start_child(server: FileServer, folder: Path, *, before: str = "") -> "subprocess.Popen[str]":
    code = CHILD.format(before=before, url=server.url(), digest=DIGEST, folder=str(folder))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120  # starting Python on a machine that is busy
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- whole ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sha256", [None, DIGEST[:8], DIGEST])
def test_a_file_arrives_whole_and_is_noted(server: FileServer, tmp_path: Path, sha256: str | None) -> None:
    path = fetch(server, tmp_path, sha256=sha256)
    assert path.read_bytes() == CONTENT
    assert left(tmp_path) == DONE
    note = json.loads((tmp_path / "weights.bin.json").read_text())
    assert note["sha256"] == DIGEST
    assert (note["size"], note["validator"], note["url"]) == (len(CONTENT), '"one"', server.url())


def test_a_body_in_chunks_arrives_whole(server: FileServer, tmp_path: Path) -> None:
    server.plans["/file"] = [http.in_chunks]
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_without_any_length_nothing_is_believed(server: FileServer, tmp_path: Path) -> None:
    """The end of a connection is then the only end, and a broken connection looks the same."""
    server.plans["/file"] = [http.without_length]
    with pytest.raises(UntrustedFileError, match="does not say how long"):
        fetch(server, tmp_path)
    assert left(tmp_path) == set()


def test_progress_is_logged_and_says_the_licence(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(download.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(transfer, "CHUNK", 100_000)
    with caplog.at_level(logging.INFO, logger=download.log.name):
        fetch(server, tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    assert "licence: apache-2.0" in lines[0]
    assert [line for line in lines if "of 0.3 MB" in line]
    assert lines[-1].endswith(f"0.3 MB, sha256 {DIGEST}, as published")


# -- interrupted ------------------------------------------------------------------------------------------------------


def test_a_broken_connection_is_resumed_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    server.plans["/file"] = [http.cut(HALF), http.cut(1000)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert [headers.get("If-Range") for _, headers in server.requests] == [None, '"one"', '"one"']
    assert left(tmp_path) == DONE


def test_after_the_last_try_what_arrived_is_kept_for_the_next_run(server: FileServer, tmp_path: Path) -> None:
    server.plans["/file"] = [http.cut(1000)] * 3
    with pytest.raises(DownloadError, match=r"ended after 3000 of 300000 bytes.*goes on where this stopped") as caught:
        fetch(server, tmp_path)
    assert caught.value.exit_code == 75
    assert left(tmp_path) == PARTIAL
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges()[-1] == "bytes=3000-"


def test_a_kill_leaves_a_partial_file_that_the_next_run_resumes(server: FileServer, tmp_path: Path) -> None:
    """The child's own timeout is 30 s from its request, however long it takes to start."""
    with http.stopped_at(HALF) as (stopped, _):
        server.plans["/file"] = [stopped]
        child = start_child(server, tmp_path)
        part = tmp_path / "weights.bin.part"
        wait_until(lambda: part.is_file() and part.stat().st_size == HALF)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={HALF}-"]


def test_a_server_without_ranges_sends_all_of_it_again(server: FileServer, tmp_path: Path) -> None:
    server.plans["/file"] = [http.cut(HALF), http.without_ranges]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges()[1] is not None


def test_a_file_that_changed_between_tries_is_fetched_from_its_beginning(server: FileServer, tmp_path: Path) -> None:
    def changes(handler: http.Handler, content: bytes) -> None:
        http.cut(HALF)(handler, bytes(len(content)))
        server.etag = '"two"'

    server.plans["/file"] = [changes]
    assert fetch(server, tmp_path, sha256=None).read_bytes() == CONTENT
    assert server.requests[1][1]["If-Range"] == '"one"'


def test_a_weak_validator_is_not_resumed_with(server: FileServer, tmp_path: Path) -> None:
    server.etag = 'W/"one"'
    server.plans["/file"] = [http.cut(HALF)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, None]


def test_another_part_than_asked_for_is_not_taken(server: FileServer, tmp_path: Path) -> None:
    server.plans["/file"] = [http.cut(HALF), http.other_part]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_partial_file_that_is_complete_or_too_long(server: FileServer, tmp_path: Path, extra: bytes) -> None:
    """The server answers 416 to both: the first is taken, the second started anew."""
    server.plans["/file"] = [http.cut(1000)] * 3
    fetch_and_fail(server, tmp_path, DownloadError)
    (tmp_path / "weights.bin.part").write_bytes(CONTENT + extra)
    server.requests.clear()
    server.plans.clear()
    assert fetch(server, tmp_path, sha256=None).read_bytes() == CONTENT
    assert len(server.requests) == (2 if extra else 1)


def test_the_beginning_of_another_address_is_not_continued(server: FileServer, tmp_path: Path) -> None:
    server.plans["/other"] = [http.cut(1000)] * 3
    with pytest.raises(DownloadError):
        cached(source_at(server.url("/other")), cache_dir=tmp_path, patience=QUICK)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges()[-1] is None


def fetch_and_fail(server: FileServer, folder: Path, kind: type[UserError]) -> str:
    with pytest.raises(kind) as caught:
        fetch(server, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- corrupted, too large, slow ---------------------------------------------------------------------------------------


def test_a_wrong_digest_deletes_what_arrived_and_says_both(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    message = fetch_and_fail(server, tmp_path, UntrustedFileError)
    assert DIGEST in message
    assert hashlib.sha256(server.content).hexdigest() in message
    assert left(tmp_path) == set()
    assert len(server.requests) == 1


def test_a_wrong_beginning_of_a_digest_is_enough(server: FileServer, tmp_path: Path) -> None:
    other = f"{int(DIGEST[:8], 16) ^ 1:08x}"
    with pytest.raises(UntrustedFileError, match=f"instead of {other}; it is damaged"):
        fetch(server, tmp_path, sha256=other)


def test_a_file_above_the_limit_is_refused_by_its_header(server: FileServer, tmp_path: Path) -> None:
    """The published size is rounded: 0.2 MB allow 210,000 bytes."""
    with pytest.raises(UntrustedFileError, match="300000 bytes, more than the 210000"):
        cached(replace(source_at(server.url()), megabytes=0.2), cache_dir=tmp_path, patience=QUICK)
    assert left(tmp_path) == set()


def test_a_body_above_the_limit_is_stopped(server: FileServer, tmp_path: Path) -> None:
    server.plans["/file"] = [http.in_chunks]
    with pytest.raises(UntrustedFileError, match="more than the 210000"):
        cached(replace(source_at(server.url()), megabytes=0.2), cache_dir=tmp_path, patience=QUICK)
    assert left(tmp_path) == set()


def test_without_a_published_size_there_is_still_a_limit(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download.MAX_BYTES == 3_000_000_000
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    with pytest.raises(UntrustedFileError, match="more than the 1000"):
        cached(replace(source_at(server.url()), megabytes=None), cache_dir=tmp_path, patience=QUICK)


def test_a_drip_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.plans["/file"] = [http.drips(0.05)]
    patience = replace(IMPATIENT, tries=1)
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"only \d+ bytes arrived in \d+\.\d s"):
        cached(source_at(server.url()), cache_dir=tmp_path, patience=patience)
    assert time.monotonic() - started < 3


def test_a_silent_server_is_given_up_and_resumed(server: FileServer, tmp_path: Path) -> None:
    with http.stopped_at(HALF) as (stopped, _):
        server.plans["/file"] = [stopped]
        path = cached(source_at(server.url()), cache_dir=tmp_path, patience=IMPATIENT)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={HALF}-"]


# -- redirected, missing, failing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(server: FileServer, tmp_path: Path, status: int) -> None:
    server.plans["/file"] = [http.redirects("moved?a=1", status), http.redirects(server.url("/elsewhere"), status)]
    server.plans["/moved?a=1"] = [http.cut(HALF)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/file", "/moved?a=1", "/file", "/elsewhere"]
    assert server.ranges()[2:] == [f"bytes={HALF}-"] * 2


@pytest.mark.parametrize(("count", "is_followed"), [(5, True), (6, False)])
def test_five_redirects_are_followed_and_no_more(
    server: FileServer, tmp_path: Path, count: int, is_followed: bool
) -> None:
    server.plans["/file"] = [http.redirects("/file")] * count
    if is_followed:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    else:
        assert "redirected more than 5 times" in fetch_and_fail(server, tmp_path, UntrustedFileError)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "location",
    ["http://example.com/x", "file:///etc/passwd", "ftp://example.com/x", "data:,x", "http://[::1", "https:///x",
     "http://localhost.example.com/x", "https://example.com/a b", "https://example.com/\xe9",
     "https://a..b/", "https://.../", "https://" + "a" * 70 + ".com/", "https://a:99999/", "https://a:b/"],
)  # fmt: skip
def test_a_redirect_away_from_https_is_refused_and_keeps_what_arrived(
    server: FileServer, tmp_path: Path, location: str
) -> None:
    server.plans["/file"] = [http.cut(HALF), http.redirects(location)]
    assert "refused; weights are fetched over https only" in fetch_and_fail(server, tmp_path, UntrustedFileError)
    assert len(server.requests) == 2
    assert left(tmp_path) == PARTIAL


def test_https_is_never_left_not_even_for_this_machine() -> None:
    check_address("https://example.com/a", previous="https://huggingface.co/b")
    check_address("http://127.0.0.1:80/a", previous="http://localhost/b")
    with pytest.raises(UntrustedFileError, match="redirects to"):
        check_address("http://127.0.0.1/a", previous="https://huggingface.co/b")
    with pytest.raises(UntrustedFileError, match="https only"):
        check_address("http://huggingface.co/a")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_missing_file_is_not_asked_for_again(server: FileServer, tmp_path: Path, status: int) -> None:
    server.plans["/file"] = [http.says(status)] * 3
    assert f"the server answered {status}" in fetch_and_fail(server, tmp_path, MissingInputError)
    assert len(server.requests) == 1
    assert left(tmp_path) == set()


def test_too_many_requests_can_be_tried_later(server: FileServer, tmp_path: Path) -> None:
    server.plans["/file"] = [http.says(429)] * 3
    assert "try again later" in fetch_and_fail(server, tmp_path, DownloadError)
    assert len(server.requests) == 1


def test_a_server_error_is_tried_again_with_growing_pauses(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.plans["/file"] = [http.says(500), http.says(503)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert pauses == [0.01, 0.02]
    assert len(server.requests) == 3
