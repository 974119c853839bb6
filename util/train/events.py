"""events.jsonl: when a run was started, stopped, ended or failed, a JSON object a line."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import paddle

from util.control import LostPeerError
from util.errors import INTERNAL, INTERRUPTED, SaveError, Stopped
from util.log import timed
from util.train.progress import Progress
from util.train.run_folder import RunFolder

FILE, LOG_FILE = "events.jsonl", "train.log"


class EventLog:
    """What happened to a run, for people and for `python -m util.report`.

    progress: where the run is, as far as it is known; whoever trains it puts his own here.
    """

    def __init__(self, folder: RunFolder, *, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.progress = Progress()

    def add_start(self, *, resumed: bool, processes: int) -> None:
        """Adds the start of a run, or of its continuation, and what it runs on."""
        self.add(
            "start",
            resumed=resumed,
            processes=processes,
            device=paddle.device.get_device(),
            host=os.uname().nodename,
            pid=os.getpid(),
            paddle=paddle.__version__,
        )

    def add(self, event: str, **details: str | int | bool) -> None:
        """Adds an event: start, stop, finish or fail, with where the run is."""
        self.append(self.line(event, **details))

    def append(self, line: str, *, patient: bool = True) -> None:
        """Adds what `line` has returned; patient: trying again if that fails."""
        self.folder.append_line(FILE, line, patient=patient)

    def line(self, event: str, **details: str | int | bool) -> str:
        """Returns an event of this moment: one of the above, or save, which is added when the checkpoint is there."""
        progress = self.progress
        place = {"epoch": progress.epoch, "iteration": progress.iteration, "update": progress.update}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps({"time": now, "event": event, **place, **details}, ensure_ascii=False)

    def has_failed(self) -> bool:
        """Whether a process has failed since the last start; the save that was being written then may follow it."""
        for event in map(_parsed, reversed(self._lines())):
            if event.get("event") in ("start", "fail"):
                return event["event"] == "fail"
        return False

    def first_epoch(self) -> int | None:
        """Returns the epoch that this folder's run began with: that of the last start before anything was saved.

        None if that cannot be read.
        """
        found = None
        for event in map(_parsed, self._lines()):
            if event.get("event") == "save":
                break
            if event.get("event") == "start":
                found = event.get("epoch")
        return found if isinstance(found, int) and found >= 0 else None

    def _lines(self) -> list[str]:
        try:
            text = (self.folder.path / FILE).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [line for line in text.split("\n") if line]

    @contextlib.contextmanager
    def recording_failure(self) -> Iterator[None]:
        """Adds what ends the run, to train.log too, once its folder is open; what is being written then still is."""
        try:
            yield
        except Stopped:
            raise
        except BaseException as error:
            if self.folder.is_open:
                self._add_failure(error)
            raise

    def _add_failure(self, error: BaseException) -> None:
        """Every process says what went wrong with it; the main one not, that it lost another which has said so."""
        if isinstance(error, LostPeerError) and (self.rank > 0 or self.has_failed()):
            return
        code = getattr(error, "exit_code", INTERRUPTED if isinstance(error, KeyboardInterrupt) else INTERNAL)
        reason = str(error) or repr(error)
        line = self.line("fail", rank=self.rank, exit_code=code, reason=reason)
        who = f"process {self.rank}: " if self.rank > 0 else ""
        said = timed(f"error: {who}{' '.join(reason.splitlines())}", time.time())
        # the disk may be full, the folder another run's by now; the error itself is what counts
        for name, text in ((FILE, line), (LOG_FILE, said)):
            with contextlib.suppress(OSError, SaveError):
                self.folder.append_line(name, text, patient=False)


def _parsed(line: str) -> dict[str, Any]:
    """Returns a line's object; an empty one for what is damaged."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
