"""What run.sh becomes: many attempts, and notes that vanish or find no room."""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from util import job
from util.job import Attempt, Job, LogCopy, Outcome, Signals, make_notes, run


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets every attempt fail for a passing reason; returns what is said."""
    said: list[str] = []
    monkeypatch.setattr(job, "say", said.append)
    monkeypatch.setattr(job, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(Attempt, "__init__", lambda self, *found: None)
    monkeypatch.setattr(Attempt, "wait", lambda self: Outcome(75, "error: broken"))
    return said


def test_there_may_be_any_number_of_attempts(failing: list[str], tmp_path: Path) -> None:
    """2 ** 1024 is more than a float holds."""
    assert run(Job("train.py", [], [], 1100, 0.0), Signals(), tmp_path).code == 75
    assert failing[-1] == "attempt 1100 of 1100 in 0 s: broken"


@pytest.mark.parametrize("also_parent", [False, True])
def test_a_folder_that_was_removed_is_made_again_for_nobody_else(tmp_path: Path, also_parent: bool) -> None:
    folder = tmp_path / "tmp/launch"
    folder.mkdir(parents=True)
    make_notes(folder, 1)
    shutil.rmtree(folder.parent if also_parent else folder)
    notes = make_notes(folder, 2)
    assert notes.is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_room_an_attempt_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_notes(tmp_path, 1)
    plain = job.make_folder

    def full(notes: Path) -> None:
        if (tmp_path / "attempt_1").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(notes)

    monkeypatch.setattr(job, "make_folder", full)
    assert make_notes(tmp_path, 2).is_dir()


def test_without_any_room_the_reason_of_the_last_attempt_stays(
    failing: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = job.make_folder

    def full(notes: Path) -> None:
        if notes.name != "attempt_1":
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(notes)

    monkeypatch.setattr(job, "make_folder", full)
    found = run(Job("train.py", [], [], 3, 0.0), Signals(), tmp_path)
    lost = f"error: {tmp_path}: no folder for the logs: No space left on device; TMPDIR names another place"
    assert found == Outcome(75, f"error: broken\n{lost}")


def test_a_log_arrives_whole_where_it_is_read_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    content = os.urandom(400_000)
    (tmp_path / "log").write_bytes(content)
    with os.fdopen(write, "w") as output, os.fdopen(read, "rb") as reader:
        monkeypatch.setattr("sys.stdout", output)
        log = LogCopy(tmp_path / "log")
        begun = time.monotonic()
        assert not log.copy(), "the pipe holds less than the log"
        assert time.monotonic() - begun < 1
        found = b""
        while len(found) < len(content):
            log.copy()
            found += reader.read1(1 << 20)
        assert found == content
        log.close()


def test_a_torn_note_of_the_run_repeats_the_arguments(tmp_path: Path) -> None:
    (tmp_path / "run_folder").write_bytes(b'{"folder": "/')
    assert job.next_arguments(["--restart"], tmp_path) == ["--restart"]
    (tmp_path / "run_folder").write_text(json.dumps({"folder": str(tmp_path), "checkpoints": {}}))
    assert job.next_arguments(["--restart"], tmp_path) == []


def test_a_log_is_copied_to_its_end_although_its_name_is_gone(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    log = LogCopy(tmp_path / "log")
    log.copy()
    with (tmp_path / "log").open("wb", buffering=0) as file:
        file.write(b"one\n")
        log.copy()
        (tmp_path / "log").unlink()
        file.write(b"two\n")
        log.copy()
    log.close()
    assert capfdbinary.readouterr().out == b"one\ntwo\n"
