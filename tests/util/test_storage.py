"""The file operations of saving: whole files or none, failures that pass, lines that do not mix."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from util import storage
from util.errors import SaveError


def pieces_then(error: BaseException) -> Iterator[bytes]:
    yield b"some"
    raise error


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Records the pauses instead of making them."""
    made: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", made.append)
    return made


# --- files


def test_pieces_become_a_file(tmp_path: Path) -> None:
    storage.write_file(tmp_path / "x", [b"abc", memoryview(b"def"), b""])
    assert (tmp_path / "x").read_bytes() == b"abcdef"


def test_long_pieces_are_written_in_chunks_and_short_writes_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def write_some(descriptor: int, data: memoryview) -> int:
        sizes.append(len(data))
        return os.write(descriptor, data[:3])

    monkeypatch.setattr(storage, "CHUNK", 4)
    monkeypatch.setattr(storage, "write", write_some)
    storage.write_file(tmp_path / "x", [b"0123456789"])
    assert (tmp_path / "x").read_bytes() == b"0123456789"
    assert sizes == [4, 4, 4, 1]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), KeyboardInterrupt(), ValueError()])
def test_an_interrupted_file_is_removed_and_closed(error: BaseException, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(type(error)):
        storage.write_file(tmp_path / "x", pieces_then(error))
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_process_of_the_same_number_left_is_replaced(tmp_path: Path) -> None:
    """The first process of a container has number 1 each time."""
    (tmp_path / "other").write_bytes(b"kept")
    (tmp_path / "x").symlink_to(tmp_path / "other")
    storage.write_file(tmp_path / "x", [b"new"])
    assert (tmp_path / "x").read_bytes() == b"new"
    assert (tmp_path / "other").read_bytes() == b"kept"


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 5), (3, 9), (4, 4), (8, None), (8, 99), (99, None)])
def test_reading_a_part(start: int, stop: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "CHUNK", 4)
    (tmp_path / "x").write_bytes(b"0123456789")
    pieces = list(storage.read(tmp_path / "x", start, stop))
    assert b"".join(pieces) == b"0123456789"[start:stop]
    assert all(0 < len(piece) <= 4 for piece in pieces)


# --- renaming


def test_put_keeps_what_was_there(tmp_path: Path) -> None:
    path, previous = tmp_path / "latest", tmp_path / "previous"
    for text in (b"1", b"2", b"3"):
        storage.write_file(tmp_path / ".tmp-new", [text])
        storage.put(tmp_path / ".tmp-new", path, previous=previous, size=1)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    assert sorted(os.listdir(tmp_path)) == ["latest", "previous"]


@pytest.mark.parametrize("can_link", [True, False])
def test_there_is_a_whole_file_at_every_moment(can_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, previous, rename = tmp_path / "latest", tmp_path / "previous", storage.replace
    path.write_bytes(b"old")
    previous.write_bytes(b"older")
    moments = []

    def look_and_rename(source: Path, target: Path) -> None:
        rename(source, target)
        moments.append((path.exists() and path.read_bytes(), previous.read_bytes()))

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(storage, "replace", look_and_rename)
    if not can_link:
        monkeypatch.setattr(storage, "link", refuse)
    storage.write_file(tmp_path / ".tmp-new", [b"new"])
    storage.put(tmp_path / ".tmp-new", path, previous=previous, size=1)
    between = (b"new", b"older") if can_link else (False, b"old")
    assert moments == [between, (b"new", b"old")]


# --- failures


def test_a_passing_failure_is_tried_again_after_growing_pauses(
    tmp_path: Path, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    def operation() -> str:
        if len(pauses) < 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return "done"

    assert storage.retried(operation, tmp_path / "x", size=1) == "done"
    assert pauses == [1.0, 2.0, 4.0]
    assert [(r.name, r.levelno) for r in caplog.records] == [("run.storage", logging.WARNING)] * 3
    assert caplog.records[1].getMessage() == f"{tmp_path / 'x'}: not saved yet: Input/output error; trying again in 2 s"


def test_a_lasting_failure_says_what_it_needs_and_what_is_free(tmp_path: Path, pauses: list[float]) -> None:
    def operation() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SaveError) as caught:
        storage.retried(operation, tmp_path / "x", size=320_100_000)
    assert len(pauses) == 3
    assert caught.value.exit_code == 74
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'x'}: not saved: No space left on device; it needs 320.1 MB, ")
    assert message.endswith(" MB are free; earlier checkpoints are untouched")


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.EROFS, errno.EFBIG])
def test_what_waiting_does_not_mend_fails_at_once(code: int, tmp_path: Path, pauses: list[float]) -> None:
    def operation() -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(SaveError, match=f"x: not saved: {os.strerror(code)}"):
        storage.retried(operation, tmp_path / "x", size=1)
    assert pauses == []


def test_errors_that_are_not_the_storages_pass_through(tmp_path: Path, pauses: list[float]) -> None:
    def operation() -> None:
        raise KeyError("mistake")

    with pytest.raises(KeyError):
        storage.retried(operation, tmp_path / "x", size=1)
    assert pauses == []


# --- lines


def test_a_line_is_one_write_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def record(descriptor: int, data: memoryview) -> int:
        written.append(bytes(data))
        return os.write(descriptor, data)

    monkeypatch.setattr(storage, "write", record)
    for text in ("one", "", "zwei ä"):
        storage.append_line(tmp_path / "x", text)
    assert written == [b"one\n", b"\n", "zwei ä\n".encode()]
    (tmp_path / "x").write_bytes(b"one\ntor")
    storage.append_line(tmp_path / "x", "two")
    assert written[-1] == b"\ntwo\n"
    assert (tmp_path / "x").read_bytes() == b"one\ntor\ntwo\n"


def test_a_line_cut_off_by_a_full_disk_is_an_error_and_ended_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", lambda descriptor, data: os.write(descriptor, data[:2]))
        patch.setattr(storage, "PAUSES", (0.0, 0.0))
        with pytest.raises(SaveError, match=r"x: not saved: No space left on device"):
            storage.append_line(tmp_path / "x", "one")
    storage.append_line(tmp_path / "x", "two")
    assert (tmp_path / "x").read_bytes() == b"two\n"  # what was cut off is taken back
    with pytest.raises(SaveError, match=r"x: not saved: No such file"):
        storage.append_line(tmp_path / "gone" / "x", "one")
