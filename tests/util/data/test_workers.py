"""What workers are doing is known to the process that waits for them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.scripts.run import ROOT
from util.data import workers
from util.data.workers import Watch, Worker, WorkerBoard, describe_workers, remove_leftovers


def test_a_forked_worker_says_what_it_is_busy_with() -> None:
    board = WorkerBoard(2)
    pid = os.fork()
    if pid == 0:
        board.busy(1, 42)
        time.sleep(60)
        os._exit(0)
    try:
        board.enter(1, pid)
        deadline = time.monotonic() + 10
        while board.workers()[0].index is None and time.monotonic() < deadline:
            time.sleep(0.01)
        (worker,) = board.workers()
        assert (worker.number, worker.pid, worker.index, worker.is_dead) == (1, pid, 42, False)
        time.sleep(0.2)
        assert 0.2 <= board.workers()[0].seconds < 30
        os.kill(pid, signal.SIGSTOP)
        assert _state(board, "T")
        os.kill(pid, signal.SIGKILL)
        assert _state(board, "Z")
        assert board.workers()[0].is_dead
        os.waitpid(pid, 0)
        assert _state(board, "X")
        board.idle(1)
        assert board.workers()[0].index is None
        board.clear()
        assert board.workers() == []
    finally:
        if board.pids():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _state(board: WorkerBoard, wanted: str) -> bool:
    deadline = time.monotonic() + 10
    while (found := board.workers()[0].state) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    return found == wanted


@pytest.mark.parametrize(("state", "said"), [
    ("T", "is stopped"), ("D", "waits for the disk"), ("S", "hangs"), ("R", "hangs"),
])  # fmt: skip
def test_what_keeps_a_worker_is_said(state: str, said: str) -> None:
    assert Worker(0, 1, state, None, 0.0).trouble == said


def test_a_long_pause_counts_as_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: clock.now))
    watch, seen = Watch(0.5), []
    for passed in (0.25, 0.5, 1.0, 3600.0, 0.75):
        clock.now += passed
        seen.append(watch.look())
    assert seen == [0.25, 0.5, 1.0, 1.0, 0.75]


@pytest.mark.parametrize("ending", [True, False])
def test_paddle_s_thread_says_nothing_when_its_batches_are_removed_at_the_end(ending: bool) -> None:
    """Its traceback would stand behind the one line that says why the run ended. False: the negative control."""
    code = (
        "import os, sys, threading\nfrom util.data.workers import _end_workers\n"
        "if sys.argv[1] == 'True': _end_workers(os.getpid())\n"
        "thread = threading.Thread(target=lambda: open('/nowhere/at all'))\nthread.start()\nthread.join()\n"
    )
    command = [sys.executable, "-c", code, str(ending)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ("Traceback" in done.stderr) == (not ending)


def test_only_the_batches_of_dead_workers_of_this_boot_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    names = [f"paddle_{gone.pid}_1_2", f"paddle_{gone.pid}_2_3", f"paddle_{os.getpid()}_1_2", f"paddle_{gone.pid}0_1_2"]
    for name in names:
        (tmp_path / name).touch()
    text = describe_workers([gone.pid, os.getpid()])
    assert remove_leftovers(text.replace('"boot": "', '"boot": "another')) == 0
    assert remove_leftovers(text[:-9]) == 0  # torn
    assert remove_leftovers(text.replace(str(gone.pid), "1e999")) == 0
    assert remove_leftovers("[" * 200_000) == 0
    assert remove_leftovers("null") == remove_leftovers('{"boot": 1}') == 0
    assert remove_leftovers(text) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
