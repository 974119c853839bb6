"""Whatever ends a run whose folder is open is in its events and its log, and never in another run's."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runs import open_run
from util.control import LostPeerError
from util.errors import DataError, MissingInputError, Stopped
from util.train.events import EventLog
from util.train.progress import Progress
from util.train.run_folder import RunFolder


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def fail(events: EventLog, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, events.recording_failure():
        raise error
    assert caught.value is error


def test_a_failure_is_in_the_events_and_in_the_log(tmp_path: Path) -> None:
    events = EventLog(open_run(tmp_path / "run"), rank=0)
    events.progress = Progress(epoch=2, update=9)
    fail(events, MissingInputError("/nope: no such\nfile"))
    [event] = events_of(tmp_path / "run")
    assert {name: value for name, value in event.items() if name != "time"} == {
        "event": "fail", "epoch": 2, "iteration": 0, "update": 9, "rank": 0, "exit_code": 66,
        "reason": "/nope: no such\nfile",
    }  # fmt: skip
    [line] = (tmp_path / "run/train.log").read_text().splitlines()
    assert line.endswith("] error: /nope: no such file")


@pytest.mark.parametrize(("error", "code"), [(KeyError("x"), 70), (KeyboardInterrupt(), 130), (DataError("x"), 65)])
def test_the_exit_code_is_the_process_s(tmp_path: Path, error: BaseException, code: int) -> None:
    fail(EventLog(open_run(tmp_path / "run"), rank=0), error)
    assert events_of(tmp_path / "run")[0]["exit_code"] == code


def test_every_process_says_how_it_failed_but_not_that_it_lost_another(tmp_path: Path) -> None:
    main, other = EventLog(open_run(tmp_path / "run"), rank=0), EventLog(RunFolder(str(tmp_path), "run"), rank=1)
    other.folder.join()
    fail(other, LostPeerError("gone"))
    assert not (tmp_path / "run/events.jsonl").exists()
    fail(main, LostPeerError("gone"))
    fail(other, DataError("mine"))
    main.add("save")  # which was being written
    fail(main, LostPeerError("gone"))
    failures = [event for event in events_of(tmp_path / "run") if event["event"] == "fail"]
    assert [(event["rank"], event["reason"]) for event in failures] == [(0, "gone"), (1, "mine")]
    assert (tmp_path / "run/train.log").read_text().splitlines()[-1].endswith("] error: process 1: mine")


def test_nothing_is_noted_of_a_stop_nor_where_the_folder_was_never_opened(tmp_path: Path) -> None:
    fail(EventLog(open_run(tmp_path / "run"), rank=0), Stopped("by a signal", exit_code=143))
    fail(EventLog(RunFolder(str(tmp_path), "run"), rank=0), DataError("x"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}


@pytest.mark.parametrize("rank", [0, 1])
def test_nothing_is_noted_in_a_folder_that_another_run_has_taken_and_the_first_error_stays(
    tmp_path: Path, rank: int
) -> None:
    folder = open_run(tmp_path / "run")
    if rank > 0:
        folder = RunFolder(str(tmp_path), "run")
        folder.join()
    folder.path.rename(tmp_path / "moved")
    open_run(tmp_path / "run")
    fail(EventLog(folder, rank=rank), DataError("the cause"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}


def test_a_full_disk_does_not_hide_the_error(tmp_path: Path) -> None:
    events = EventLog(open_run(tmp_path / "run"), rank=0)
    (tmp_path / "run/events.jsonl").symlink_to("/dev/full")
    (tmp_path / "run/train.log").symlink_to("/dev/full")
    fail(events, DataError("the cause"))


def test_damaged_events_are_read_as_far_as_they_can_be(tmp_path: Path) -> None:
    events = EventLog(open_run(tmp_path / "run"), rank=0)
    assert (events.has_failed(), events.first_epoch()) == (False, None)
    for text in ("[" * 200_000, "[1]", "7", '{"event"', '{"time": 1}', "\xff"):
        (tmp_path / "run/events.jsonl").write_bytes(text.encode("latin-1") + b"\n")
        assert (events.has_failed(), events.first_epoch()) == (False, None)
    events.add_start(resumed=False, processes=1)
    assert (events.has_failed(), events.first_epoch()) == (False, 0)


def test_a_run_began_with_the_last_start_before_anything_was_saved(tmp_path: Path) -> None:
    events = EventLog(open_run(tmp_path / "run"), rank=0)
    for epoch, saves in ((0, False), (3, True), (7, True)):
        events.progress = Progress(epoch=epoch)
        events.add_start(resumed=epoch > 0, processes=1)
        if saves:
            events.add("save")
    assert events.first_epoch() == 3
