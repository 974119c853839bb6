"""Signals are noted at once and obeyed later."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_a_batch_is_awaited_until_a_signal_came_and_patience_is_over(stop: StopRequest) -> None:
    stop.check_waiting()
    stop.patience = 0.3
    os.kill(os.getpid(), signal.SIGTERM)
    stop.check_waiting()
    time.sleep(0.35)
    with pytest.raises(StopWaiting):
        stop.check_waiting()
    stop.patience = 60.0
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
