"""The cache of fetched weights: used without a request, verified, shared by processes, or not to be written."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from tests import http_files as http
from tests.http_files import CONTENT, HALF, FileServer
from tests.util.weights.test_download import DIGEST, DONE, fetch, fetch_and_fail, left, start_child
from util.errors import MissingInputError, OutputError, SaveError, UntrustedFileError
from util.weights import download, transfer
from util.weights.transfer import DownloadError

# -- the cache --------------------------------------------------------------------------------------------------------


def test_what_is_in_the_cache_is_used_without_a_request(server: FileServer, tmp_path: Path) -> None:
    path = fetch(server, tmp_path)
    server.stop()
    assert fetch(server, tmp_path) == path
    assert len(server.requests) == 1


def test_offline_without_the_file_is_one_line_that_says_where_to_put_it(server: FileServer, tmp_path: Path) -> None:
    server.stop()
    message = fetch_and_fail(server, tmp_path, DownloadError)
    assert server.url() in message
    assert str(tmp_path / "weights.bin") in message
    assert "Connection refused" in message


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_file_put_there_by_hand_is_used_and_noted(server: FileServer, tmp_path: Path, sha256: str | None) -> None:
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    server.stop()
    assert fetch(server, tmp_path, sha256=sha256) == tmp_path / "weights.bin"
    assert json.loads((tmp_path / "weights.bin.json").read_text())["sha256"] == DIGEST


def test_a_wrong_file_put_there_by_hand_is_refused(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"something else")
    assert DIGEST in fetch_and_fail(server, tmp_path, UntrustedFileError)


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_cached_file_that_changed_is_noticed(server: FileServer, tmp_path: Path, sha256: str | None) -> None:
    path = fetch(server, tmp_path, sha256=sha256)
    changed = bytearray(CONTENT)
    changed[HALF] ^= 1
    path.write_bytes(changed)
    with pytest.raises(UntrustedFileError, match="delete it, and it is fetched again"):
        fetch(server, tmp_path, sha256=sha256)
    path.unlink()
    assert fetch(server, tmp_path, sha256=sha256).read_bytes() == CONTENT


def test_a_copied_file_is_hashed_once_and_then_known_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(server, tmp_path)
    os.utime(path, (1, 1))
    hashed: list[Path] = []
    real = download._sha256
    monkeypatch.setattr(download, "_sha256", lambda file: hashed.append(file) or real(file))  # type: ignore[func-returns-value]
    for _ in range(3):
        assert fetch(server, tmp_path) == path
    assert hashed == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"size": "x"}', "[" * 100_000])
def test_a_damaged_note_costs_a_hash_and_nothing_else(server: FileServer, tmp_path: Path, text: str) -> None:
    path = fetch(server, tmp_path)
    (tmp_path / "weights.bin.json").write_text(text)
    assert fetch(server, tmp_path) == path
    assert json.loads((tmp_path / "weights.bin.json").read_text())["sha256"] == DIGEST


def test_a_cached_file_that_cannot_be_read_is_one_line(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.bin").write_bytes(CONTENT)

    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(download, "_sha256", denied)
    assert "cannot be read: Permission denied" in fetch_and_fail(server, tmp_path, MissingInputError)


def test_a_cache_that_cannot_be_made_is_an_output_error(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="set PADDLE_CVT_HOME to a folder"):
        fetch(server, tmp_path / "file" / "cache")
    assert server.requests == []


def test_a_full_disk_is_one_line_and_the_rest_is_fetched_later(server: FileServer, tmp_path: Path) -> None:
    """A limit on the size of files is the kernel's own EFBIG, in the middle of the body."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    child = start_child(server, tmp_path, before=limit)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == SaveError.exit_code
    assert errors.count("error:") == 1
    assert "File too large; what arrived is kept" in errors.splitlines()[-1]
    assert (tmp_path / "weights.bin.part").stat().st_size == 100_000
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=100000-"]


def test_too_little_room_is_found_before_the_body(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transfer.shutil.disk_usage
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: real(path)._replace(free=HALF))
    assert "0.3 MB are to come, 0.1 MB are free" in fetch_and_fail(server, tmp_path, SaveError)


# -- several processes ------------------------------------------------------------------------------------------------


def test_of_two_processes_one_fetches_and_the_other_waits(server: FileServer, tmp_path: Path) -> None:
    with http.stopped_at(HALF) as (stopped, go_on):
        server.plans["/file"] = [stopped]
        children = [start_child(server, tmp_path) for _ in range(2)]
        waiting = threading.Event()

        def read(child: "subprocess.Popen[str]") -> None:
            assert child.stderr is not None
            for line in child.stderr:
                if "waiting for it" in line:
                    waiting.set()

        readers = [threading.Thread(target=read, args=(child,)) for child in children]
        for reader in readers:
            reader.start()
        assert waiting.wait(60)
        go_on.set()
        assert [child.wait(60) for child in children] == [0, 0]
        for reader in readers:
            reader.join()
    assert len(server.requests) == 1
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    assert left(tmp_path) == DONE
    for child in children:
        assert child.stdout is not None
        assert child.stdout.read() == f"{tmp_path / 'weights.bin'}\n"


def test_without_locks_each_process_has_its_own_partial_file(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(download.fcntl, "flock", no_locks)
    (tmp_path / "weights.bin.part").write_bytes(b"another process is at this")
    server.plans["/file"] = [http.cut(1000)] * 3
    fetch_and_fail(server, tmp_path, DownloadError)
    assert left(tmp_path) == {"weights.bin.part"}  # nobody would go on with what this process began
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert left(tmp_path) == DONE | {"weights.bin.part"}
    assert (tmp_path / "weights.bin.part").read_bytes() == b"another process is at this"
