"""How an attempt of a job ended: the one exit code and the one reason that `run.sh` reports.

When one process of several fails, the others break down after it, and the launcher reports whichever it sees. So what
each has left behind (util/notes.py) is compared.
"""

import signal
from dataclasses import dataclass, replace
from pathlib import Path

from util.errors import INTERNAL, INTERRUPTED, RESUMABLE, TERMINATED
from util.notes import Ended, read_errors, read_exits

_HINTS = {int(signal.SIGKILL): " (out of memory?)", int(signal.SIGBUS): " (is /dev/shm full?)"}
STOPPED = (INTERRUPTED, TERMINATED)
_AT_ONCE = 1.0  # seconds within which others break down after a process was killed; the launcher's own kills come later


@dataclass(frozen=True)
class Outcome:
    """code: what run.sh exits with; reason: for a person, mostly a line, empty for a success; said: it was printed."""

    code: int
    reason: str = ""
    said: bool = False


def judge(notes: Path, *, code: int, several: bool, asked: int, overdue: float = 0.0) -> Outcome:
    """Returns the outcome of an attempt.

    notes: its folder. code: of the launcher, or of the only process; negative for a signal.
    several: whether there was a launcher. asked: the signal that run.sh was sent and passed on, or 0.
    overdue: the seconds that the processes had for saving, if run.sh killed those that needed more; else 0.
    """
    errors, exits = read_errors(notes), read_exits(notes)
    if not several:
        exits = [Ended(0, code, 0.0)] if code < 0 else []
    if overdue:
        found = _judge_overdue(errors, overdue)
    else:
        found = _judge_stopped(errors, exits, asked, code) if asked else _judge_failed(errors, exits, code)
    return found if several else replace(found, said=0 in errors)


def _judge_failed(errors: dict[int, Ended], exits: list[Ended], code: int) -> Outcome:
    silent = [ended for ended in exits if ended.code and ended.rank not in errors]
    first = _first(errors)
    if first is not None and first.code in STOPPED:  # some processes were stopped, perhaps because of one that was not
        first = _first({rank: ended for rank, ended in errors.items() if ended.code not in STOPPED}) or first
    if silent and (first is None or _is_cause(silent[0], first)):
        return _describe_silent(silent[0])
    if code < 0 and (first is None or first.code in (*STOPPED, RESUMABLE)):
        return Outcome(RESUMABLE, f"error: the launcher was killed by signal {-code}; its processes were ended")
    if first is not None:
        return Outcome(first.code, first.words)
    return Outcome(code)


def _judge_overdue(errors: dict[int, Ended], seconds: float) -> Outcome:
    """The outcome when run.sh has killed what did not end: nothing is known to be saved, but a reason told counts."""
    own = _first({rank: ended for rank, ended in errors.items() if ended.code not in (*STOPPED, RESUMABLE)})
    if own is not None:
        return Outcome(own.code, own.words)
    late = f"error: not all processes ended within {seconds:g} s of the signal, and were killed; the last save counts"
    return Outcome(RESUMABLE, late)


def _judge_stopped(errors: dict[int, Ended], exits: list[Ended], asked: int, code: int) -> Outcome:
    """The outcome when run.sh was asked to stop: a process that could not save says so, and that counts."""
    if code == 0:  # it had ended before it heard of the signal
        return Outcome(0)
    stopped = Outcome(INTERRUPTED if asked == signal.SIGINT else TERMINATED, "")
    own = _first({rank: ended for rank, ended in errors.items() if ended.code not in (*STOPPED, RESUMABLE)})
    if own is not None:
        return Outcome(own.code, own.words)
    said = [ended.words for ended in errors.values() if ended.code in STOPPED]
    if said:
        return Outcome(stopped.code, said[0])
    passed_on = signal.SIGINT if asked == signal.SIGINT else signal.SIGTERM
    if any(ended.code == -passed_on for ended in exits):  # it did not listen yet, so there was nothing to save yet
        return stopped
    lost = _first(errors)
    if lost is not None:
        return Outcome(lost.code, lost.words)
    silent = [ended for ended in exits if ended.code == -signal.SIGKILL]
    if silent:
        return _describe_silent(silent[0])
    if code > 0 and code not in STOPPED and not exits:  # one process alone, which could not even say what is wrong
        return Outcome(code)
    return stopped


def _first(errors: dict[int, Ended]) -> Ended | None:
    return min(errors.values(), key=lambda ended: ended.second, default=None)


def _is_cause(silent: Ended, first: Ended) -> bool:
    """Whether a process that ended without a word is why the first that has spoken failed."""
    if silent.code == -signal.SIGTERM or silent.second > first.second + _AT_ONCE:  # as the launcher ends others
        return False
    return silent.code == -signal.SIGKILL or first.code in (INTERNAL, RESUMABLE, *STOPPED)


def _describe_silent(ended: Ended) -> Outcome:
    if ended.code > 0:
        return Outcome(
            ended.code, f"error: process {ended.rank} ended with {ended.code}; its log says more, if anything"
        )
    hint = _HINTS.get(-ended.code, "")
    words = f"error: process {ended.rank} was killed by signal {-ended.code}{hint}; what is saved is not harmed"
    return Outcome(RESUMABLE, words)


def has_failed(notes: Path) -> bool:
    """Returns whether a process under the launcher has ended with anything but 0."""
    return any(ended.code for ended in read_exits(notes))
