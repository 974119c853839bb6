"""What each process that loads data is doing, so that one that hangs or died can be named together with its file.

Paddle's DataLoader waits for ever for a worker that hangs, and of one that was killed it knows the process alone.
"""

import atexit
import contextlib
import json
import mmap
import multiprocessing.util  # noqa: F401  its own end of workers is registered before `_end_workers`, and so runs later
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHARED_MEMORY = Path("/dev/shm")  # where Paddle's workers put batches for the main process

_PID, _INDEX, _SINCE = range(3)
_NOTHING = -1


@dataclass(frozen=True)
class Worker:
    """A worker process, as the process that waits for it sees it."""

    number: int
    pid: int
    state: str  # R, S, D, T (stopped) or Z, as in /proc; X when it is gone
    index: int | None  # of the image it is busy with
    seconds: float  # since it began with that

    @property
    def is_dead(self) -> bool:
        return self.state in ("X", "Z")

    @property
    def trouble(self) -> str:
        """Says what keeps it, where it lives and nothing comes from it."""
        return {"T": "is stopped", "D": "waits for the disk"}.get(self.state, "hangs")


class Watch:
    """The seconds between looks at workers of which nothing comes, to be added up and held against a limit.

    A long pause counts as two intervals: it was this process that stood still, mostly with the whole job (Ctrl-Z, a
    machine that slept), and its workers shall have their time when it goes on.
    """

    def __init__(self, interval: float) -> None:
        self._most = 2 * interval
        self._last = time.monotonic()

    def look(self) -> float:
        """Returns the seconds since the last look, or since the beginning: at most two intervals."""
        before, self._last = self._last, time.monotonic()
        return min(self._last - before, self._most)


class WorkerBoard:
    """A few numbers a worker in memory that is shared with the processes forked from this one."""

    def __init__(self, num_workers: int) -> None:
        size = num_workers * 3 * 8
        self._table = np.frombuffer(mmap.mmap(-1, size), np.int64).reshape(num_workers, 3)
        self.clear()
        _remember(self)

    def clear(self) -> None:
        """Forgets the workers of before."""
        self._table[:] = 0, _NOTHING, 0

    def enter(self, worker: int, pid: int) -> None:
        """Notes which process a worker is."""
        self._table[worker, _PID] = pid

    def busy(self, worker: int, index: int) -> None:
        """Notes that the worker begins with an image."""
        self._table[worker, _SINCE] = time.monotonic_ns()
        self._table[worker, _INDEX] = index

    def idle(self, worker: int) -> None:
        """Notes that the worker is done with its image."""
        self._table[worker, _INDEX] = _NOTHING

    def pids(self) -> list[int]:
        """Returns the process of each worker."""
        return [int(pid) for pid in self._table[:, _PID] if pid]

    def workers(self) -> list[Worker]:
        """Returns every worker."""
        found = []
        for number, (pid, index, since) in enumerate(self._table.tolist()):
            if pid:
                seconds = 0.0 if index == _NOTHING else (time.monotonic_ns() - since) / 1e9
                found.append(Worker(number, pid, _state_of(pid), None if index == _NOTHING else index, seconds))
        return found


_boards: "weakref.WeakSet[WorkerBoard]" = weakref.WeakSet()


def _remember(board: WorkerBoard) -> None:
    if not _boards:
        atexit.unregister(_end_workers)
        atexit.register(_end_workers, os.getpid())
    _boards.add(board)


def _end_workers(owner: int) -> None:
    """Ends the workers when their process ends. They ignore SIGTERM, for which multiprocessing would wait for ever."""
    if os.getpid() != owner:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Paddle's handler would take their end for a failure
    threading.excepthook = lambda failed: None  # Paddle's thread may be reading a batch that is removed under it
    pids = [pid for board in _boards for pid in board.pids()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    remove_batches(pids)


def remove_batches(pids: Iterable[int]) -> int:
    """Removes the batches that killed workers have left in /dev/shm; returns how many files that were."""
    removed = 0
    for pid in pids:
        for path in SHARED_MEMORY.glob(f"paddle_{pid}_*"):
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
    return removed


def describe_workers(pids: Iterable[int]) -> str:
    """Returns a text from which a later process of this machine can tell what these workers have left behind."""
    return json.dumps({"boot": _boot(), "workers": sorted(pids)}) + "\n"


def remove_leftovers(description: str) -> int:
    """Removes the batches of workers that `describe_workers` was about and that are dead; returns how many files.

    After a kill -9 nobody else does; some restarts later /dev/shm would be full. Only for workers of the same boot.
    """
    try:
        found = json.loads(description)
        boot, pids = found["boot"], [int(pid) for pid in found["workers"]]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # damaged: 1e999, a thousand brackets
        return 0
    if boot != _boot():
        return 0
    return remove_batches(pid for pid in pids if is_dead(pid))


def is_dead(pid: int) -> bool:
    """Returns whether no such process runs on this machine; one that was killed and not yet buried does not."""
    return _state_of(pid) in ("X", "Z")


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _state_of(pid: int) -> str:
    """Returns a process's state as Linux tells it; X for none, R where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        return "R"
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "X"
    return text.rpartition(")")[2].split()[0]
