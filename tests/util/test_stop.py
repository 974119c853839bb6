"""Signals are noted at once and obeyed later."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import util.stop
from util.stop import StopRequest, StopWaiting, exit_code_of

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    request = StopRequest()
    request.listen()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_what_counts(stop: StopRequest, number: signal.Signals, code: int) -> None:
    assert stop.signal == 0
    os.kill(os.getpid(), number)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal == number
    assert exit_code_of(stop.signal) == code


def test_a_batch_is_awaited_until_a_signal_came_and_patience_is_over(
    stop: StopRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(util.stop.time, "monotonic", lambda: now)
    stop.begin_waiting(patience=5.0)
    now += 50
    stop.check_waiting()
    os.kill(os.getpid(), signal.SIGTERM)
    now += 4.9
    stop.check_waiting()
    now += 0.1
    with pytest.raises(StopWaiting):
        stop.check_waiting()
    stop.begin_waiting(patience=5.0)  # the next batch came, and another one is awaited
    now += 4.9
    stop.check_waiting()
    stop.begin_waiting(patience=0.0)
    with pytest.raises(StopWaiting):
        stop.check_waiting()


def test_the_patience_of_many_batches_has_an_end(stop: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(util.stop.time, "monotonic", lambda: now)
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(19):
        stop.begin_waiting(patience=5.0)
        now += 1
        stop.check_waiting()
    now += 1
    stop.begin_waiting(patience=5.0)
    with pytest.raises(StopWaiting):
        stop.check_waiting()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, '.'); from util.stop import StopRequest\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); stop = StopRequest(); stop.listen()\n"
        "os.kill(os.getpid(), signal.SIGHUP); assert stop.signal == 0\n"
        "os.kill(os.getpid(), signal.SIGINT); assert stop.signal == signal.SIGINT\n"
        "os.kill(os.getpid(), signal.SIGINT); raise SystemExit('still here')"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("SIGINT: saving")) == (130, 1), done.stderr
