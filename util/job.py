"""What `run.sh` becomes: starts one process or Paddle's launcher, passes signals on, starts anew what may pass.

Everything that it starts stays its descendant (util/processes.py), gets SIGTERM when it is itself killed, and is gone
when it ends. It does not touch a run's folder.
"""

import argparse
import contextlib
import io
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from util.errors import CANNOT_WRITE, INTERRUPTED, RESUMABLE
from util.notes import NOTES_VARIABLE, has_new_checkpoint, put_run_note, read_run_note
from util.outcome import STOPPED, Outcome, has_failed, judge
from util.processes import adopt_orphans, children, descendants, ends_with_parent, send

LOOK_SECONDS = 0.1
STOP_SECONDS = 120.0  # for saving, once asked to stop
GRACE_SECONDS = 10.0  # for the others when a process has failed, and for what a dead launcher left behind
AT_ONCE_SECONDS = 1.0  # after a second Ctrl-C
LONGEST_PAUSE = 300.0
LOG_READ = 1 << 16
LOG_SECONDS = 1.0  # for the end of the log, which the log folder has, too
_LAUNCHER = "import sys; sys.path.insert(0, sys.argv.pop(1)); from util.launcher import main; main()"


@dataclass(frozen=True)
class Job:
    """What to start: `script` with `arguments`; with options `launch`, if there are any, under Paddle's launcher."""

    script: str
    arguments: list[str]
    launch: list[str]
    tries: int
    pause: float

    @property
    def several(self) -> bool:
        return bool(self.launch)

    def command(self, notes: Path, arguments: Sequence[str]) -> list[str]:
        if not self.several:
            return [sys.executable, "-u", self.script, *arguments]
        root = str(Path(self.script).parent)
        launcher = [sys.executable, "-P", "-W", "ignore", "-c", _LAUNCHER, root, "--log_dir", str(notes)]
        return [*launcher, "--log_level", "CRITICAL", *self.launch, self.script, *arguments]


class Signals:
    """Which signal asked run.sh to stop, and whether Ctrl-C came again."""

    def __init__(self) -> None:
        self.first = 0
        self.at_once = False

    def listen(self) -> None:
        """Takes SIGTERM, SIGINT and SIGHUP; one that is ignored, as nohup does, stays ignored."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.first and number == signal.SIGINT:
            self.at_once = True
        self.first = self.first or number

    @property
    def to_pass_on(self) -> int:
        return signal.SIGINT if self.first == signal.SIGINT else signal.SIGTERM


class Attempt:
    """One start of the job, from its first process to its last."""

    run_note = b""  # what the run said about its folder, should the notes be removed meanwhile

    def __init__(self, job: Job, arguments: Sequence[str], notes: Path, signals: Signals) -> None:
        self._job, self._notes, self._signals = job, notes, signals
        self._asked: set[int] = set()  # processes that were sent the signal to stop
        self._told_at_once = False
        self._log = LogCopy(notes / "workerlog.0")
        output = subprocess.DEVNULL if job.several else None  # the launcher copies a log there, but not to its end
        self._process = subprocess.Popen(
            job.command(notes, arguments),
            env=os.environ | {NOTES_VARIABLE: str(notes), **({} if job.several else {"PADDLE_TRAINER_ID": "0"})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            start_new_session=True,  # Ctrl-C reaches run.sh alone, which passes it on
            preexec_fn=ends_with_parent(),
        )

    def wait(self) -> Outcome:
        """Returns how it ended, when nothing of it is left."""
        end_by, overdue = float("inf"), 0.0
        while self._process.poll() is None:
            end_by = min(end_by, time.monotonic() + self._seconds_left())
            if self._signals.first:
                self._ask_to_stop()
            if time.monotonic() > end_by:
                if self._signals.first and not has_failed(self._notes):
                    overdue = STOP_SECONDS
                self._kill_all()
            self._look()
            time.sleep(LOOK_SECONDS)
        self._wait_for_the_rest()
        self._look()
        self._log.close()
        if self._signals.at_once:
            return Outcome(INTERRUPTED, "error: interrupted; the processes were ended at once")
        code, asked = self._process.returncode, self._signals.first
        return judge(self._notes, code=code, several=self._job.several, asked=asked, overdue=overdue)

    def bring_back_run_note(self) -> None:
        """Writes the run's note again if it was removed, so that the next attempt knows what this one has done."""
        if self.run_note and not read_run_note(self._notes):
            with contextlib.suppress(OSError):
                make_folder(self._notes)
                put_run_note(self._notes, self.run_note)

    def _look(self) -> None:
        self._log.copy()
        self.run_note = self.run_note or read_run_note(self._notes)

    def _seconds_left(self) -> float:
        """Returns how long the processes may go on, from what is known now."""
        if self._signals.at_once:
            return AT_ONCE_SECONDS
        if self._job.several and has_failed(self._notes):
            return GRACE_SECONDS  # the launcher ends the others, but takes more than a second for each
        return STOP_SECONDS if self._signals.first else float("inf")

    def _ask_to_stop(self) -> None:
        """Passes the signal on, once to each process that trains.

        The launcher itself would kill its processes after 30 s, saved or not; when they end, it ends. It gets the
        signal while it has none yet.
        """
        if self._signals.at_once and not self._told_at_once:
            self._told_at_once = True
            self._asked.clear()
        targets = [self._process.pid]
        if self._job.several:
            targets = children().get(self._process.pid, targets)
        for pid in set(targets) - self._asked:
            self._asked.add(pid)
            send(pid, self._signals.to_pass_on)

    def _wait_for_the_rest(self) -> None:
        """Waits for processes whose parent ended before them, and kills those that take longer than that."""
        start = time.monotonic()
        while descendants(os.getpid()):
            if time.monotonic() - start > (AT_ONCE_SECONDS if self._signals.at_once else GRACE_SECONDS):
                self._kill_all()
            self._reap()
            self._look()
            time.sleep(LOOK_SECONDS)
        self._reap()

    def _kill_all(self) -> None:
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL)

    @staticmethod
    def _reap() -> None:
        """Lets go of adopted processes that have ended."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


class LogCopy:
    """Copies what a file gains to standard output, as far as that takes it; also when the file is removed meanwhile.

    Never waits: a pager that shows its first page, or a terminal after Ctrl-S, must not keep run.sh from its work. A
    closed one ends the copying alone: the log is in a file anyway.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self._pending = b""
        self._reader = select.poll()
        self._open = sys.stdout is not None
        if self._open:
            self._reader.register(sys.stdout.fileno(), select.POLLOUT)

    def copy(self) -> bool:
        """Copies what can be copied now; returns whether it was all there is."""
        while self._open:
            if not self._pending and not self._read():
                return True
            if not self._reader.poll(0):
                return False
            try:
                written = os.write(sys.stdout.fileno(), self._pending[: select.PIPE_BUF])
            except OSError:
                self._open = False
            else:
                self._pending = self._pending[written:]
        return True

    def _read(self) -> bool:
        try:
            self._file = self._file or io.FileIO(self._path)
            self._pending = self._file.read(LOG_READ) or b""
        except OSError:  # it is not there yet, or the disk failed: the job goes on
            return False
        return bool(self._pending)

    def close(self) -> None:
        """Copies the rest, for a second at most."""
        end = time.monotonic() + LOG_SECONDS
        while not self.copy() and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        if self._file is not None:
            self._file.close()


def say(text: str) -> None:
    """Writes a line to standard error, if there is one to write to."""
    try:
        os.write(2, f"{text}\n".encode(errors="replace"))
    except OSError:
        return


def next_arguments(arguments: Sequence[str], notes: Path) -> list[str]:
    """Returns the arguments of the next attempt: what the one before has done is not done again.

    Without `--restart` once the earlier run was moved aside; without `--resume FILE` once there is a checkpoint that
    goes further than FILE. The next attempt then continues from the newest checkpoint, as it does by default.
    """
    progress = has_new_checkpoint(notes)
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--restart" and progress is not None:
            continue
        if progress and (word == "--resume" or word.startswith("--resume=")):
            if word == "--resume":
                next(words, None)
            continue
        kept.append(word)
    return kept


def make_folder(notes: Path) -> None:
    """Makes the folder of an attempt, also if the one it is in was removed while the job ran, as cleaners of /tmp do.

    Nobody else can read it.
    """
    if not notes.parent.is_dir():
        notes.parent.mkdir(mode=0o700, parents=True)
    notes.mkdir(exist_ok=True)


def make_notes(folder: Path, attempt: int) -> Path:
    """Returns the new folder of an attempt; on a full disk it takes the place of the one before."""
    notes = folder / f"attempt_{attempt}"
    try:
        make_folder(notes)
    except OSError:
        shutil.rmtree(folder / f"attempt_{attempt - 1}", ignore_errors=True)
        make_folder(notes)
    return notes


def run(job: Job, signals: Signals, folder: Path) -> Outcome:
    """Starts the job, again if it failed for a passing reason, and returns how the last attempt ended."""
    arguments, pause = job.arguments, min(job.pause, LONGEST_PAUSE)
    outcome = Outcome(CANNOT_WRITE)
    for attempt in range(1, job.tries + 1):
        try:
            notes = make_notes(folder, attempt)
        except OSError as error:
            lost = f"{folder}: no folder for the logs: {error.strerror}; TMPDIR names another place"
            return replace(outcome, reason="\n".join([*filter(None, [outcome.reason]), f"error: {lost}"]), said=False)
        started = Attempt(job, arguments, notes, signals)
        outcome = started.wait()
        if outcome.code != RESUMABLE or attempt == job.tries or signals.first:
            break
        started.bring_back_run_note()
        arguments = next_arguments(arguments, notes)
        reason = outcome.reason.removeprefix("error: ") or f"exit code {outcome.code}"
        say(f"attempt {attempt + 1} of {job.tries} in {pause:g} s: {reason}")
        end = time.monotonic() + pause
        while time.monotonic() < end and not signals.first:
            time.sleep(LOOK_SECONDS)
        if signals.first:
            return Outcome(128 + signals.to_pass_on, "error: stopped before the next attempt")
        pause = min(2 * pause, LONGEST_PAUSE)
    return outcome


def parse(argv: Sequence[str]) -> Job:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, required=True)
    parser.add_argument("--pause", type=float, required=True)
    parser.add_argument("--launch", action="append", default=[])
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    found = parser.parse_args(argv)
    return Job(found.script, found.arguments, found.launch, found.tries, found.pause)


def main(argv: Sequence[str]) -> None:
    """Runs a job and exits with its code."""
    signals = Signals()
    signals.listen()
    adopt_orphans()
    job = parse(argv)
    try:
        folder = Path(tempfile.mkdtemp(prefix="launch."))  # mode 0700
    except OSError as error:
        say(f"error: {tempfile.gettempdir()}: no folder for the logs: {error.strerror}; TMPDIR names another place")
        sys.exit(CANNOT_WRITE)
    if job.several:
        say(f"logs of all processes: {folder}")
    outcome = run(job, signals, folder)
    keep = job.several and outcome.code not in (0, *STOPPED)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    if outcome.reason and not outcome.said:
        say(outcome.reason)
    if keep and folder.is_dir():
        say(f"logs of all processes are kept: {folder}")
    elif keep:
        say(f"logs of all processes are lost: {folder} was removed while the job ran")
    sys.exit(outcome.code)
