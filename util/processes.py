"""Processes that end with their parent, and who is whose child. Linux only, as the rest of `run.sh`.

A process that is killed cannot tell its children, and a process whose launcher is gone would train on, unseen, with its
GPU. So each asks the kernel to be told (prctl(2), PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from util.errors import RESUMABLE

_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_LOOK_SECONDS = 0.5

LAUNCHER_VARIABLE = "RUN_LAUNCHER"  # its process id: what a rank's parent must be


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def follow_parent(*, seconds: float = 10.0) -> None:
    """Lets this process end when its parent, the launcher, dies: SIGTERM first, so that it can save, a hard end later.

    seconds: how long the process may take after SIGTERM; then a thread ends it with exit code 75. That thread needs no
    help from the main thread, which may wait for ever in a collective operation.
    Call it once, in the main thread; until SIGTERM has a handler, it ends the process. A parent that died before the
    call is noticed by its number, which run.sh's launcher leaves in an environment variable; under another launcher the
    parent of this moment counts, whatever it is (in a container the launcher itself may be process 1).
    """
    parent = int(os.environ.get(LAUNCHER_VARIABLE, os.getppid()))
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    threading.Thread(target=_end_after, args=(parent, seconds), name="follow_parent", daemon=True).start()
    if os.getppid() != parent:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


def _end_after(parent: int, seconds: float) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    time.sleep(seconds)
    os.write(
        2,
        f"error: the launcher (process {parent}) is gone, and this process did not end within {seconds:g} s\n".encode(),
    )
    os._exit(RESUMABLE)


def die_with_parent() -> None:
    """Lets this process be killed when its parent dies."""
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def ends_with_parent() -> Callable[[], None]:
    """Returns what a child of this process runs between fork and exec, to get SIGTERM when this process dies.

    For `subprocess.Popen(preexec_fn=...)`, from a process without other threads.
    """
    parent = os.getpid()

    def prepare() -> None:
        _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(RESUMABLE)

    return prepare


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent dies, so that none gets lost."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def children() -> dict[int, list[int]]:
    """Returns every process's living children, by process id; zombies are not among them."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = stat[stat.rindex(b")") + 2 :].split(maxsplit=2)[:2]  # the name before it may hold anything
        if state not in (b"Z", b"X"):
            found.setdefault(int(parent), []).append(int(entry))
    return found


def descendants(pid: int) -> list[int]:
    """Returns the living children of a process, their children, and so on."""
    tree = children()
    found, pending = [], [pid]
    while pending:
        below = tree.get(pending.pop(), [])
        found += below
        pending += below
    return found


def send(pid: int, number: int) -> None:
    """Sends a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
