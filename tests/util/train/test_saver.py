"""When to save, and writing in the background."""

import threading
import time

import pytest

from util.errors import SaveError
from util.options import RunOptions
from util.train import saver
from util.train.saver import SaveClock, Writer, checkpoint_files


def test_a_save_is_due_every_so_many_updates_and_not_twice_at_one() -> None:
    clock = SaveClock(RunOptions(save_updates=3, save_minutes=0), update=3)
    due = []
    for update in range(3, 11):
        if clock.is_due(update):
            due.append(update)
            clock.saved(update)
        assert not clock.is_due(update)
    assert due == [6, 9]


def test_a_save_is_due_when_minutes_have_passed_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(saver.time, "monotonic", lambda: now)
    clock = SaveClock(RunOptions(save_minutes=2.0), update=0)
    now += 119
    assert not clock.is_due(1)
    now += 1
    assert clock.is_due(2)
    assert not clock.is_due(0)  # nothing has changed since
    clock.saved(2)
    assert not clock.is_due(3)
    never = SaveClock(RunOptions(save_minutes=0), update=0)
    now += 1e9
    assert not never.is_due(1)


def test_writing_goes_on_beside_and_one_piece_at_a_time() -> None:
    order: list[str] = []
    gate = threading.Event()

    def first() -> None:
        gate.wait(10)
        order.append("first")

    writer = Writer(background=True)
    writer.do(first)
    assert order == []
    threading.Timer(0.2, gate.set).start()
    writer.do(lambda: order.append("second"))
    writer.wait()
    assert order == ["first", "second"]


def test_without_a_background_it_is_written_on_return() -> None:
    order: list[str] = []

    def slow() -> None:
        time.sleep(0.1)
        order.append("done")

    Writer(background=False).do(slow)
    assert order == ["done"]


def test_what_goes_wrong_in_the_background_is_raised_once_at_the_next_look() -> None:
    def fail() -> None:
        raise SaveError("full")

    writer = Writer(background=True)
    writer.do(fail)
    time.sleep(0.2)
    with pytest.raises(SaveError, match="full"):
        writer.check()
    writer.check()
    writer.wait()


@pytest.mark.parametrize(
    ("options", "averaged", "files"),
    [
        (RunOptions(), False, 4), (RunOptions(), True, 5),
        (RunOptions(checkpoint_interval=2, checkpoint_hist=3), True, 8),
    ],
)  # fmt: skip
def test_files_of_a_run(options: RunOptions, averaged: bool, files: int) -> None:
    assert checkpoint_files(options, averaged=averaged) == files
