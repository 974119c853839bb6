"""events.jsonl: when a run was started, stopped, ended or failed, a JSON object a line."""

import json
import os
from datetime import UTC, datetime

import paddle

from util.train.progress import Progress
from util.train.run_folder import RunFolder

FILE = "events.jsonl"


class EventLog:
    """What happened to a run, for people and for `python -m util.report`."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def add_start(self, progress: Progress, *, resumed: bool, processes: int) -> None:
        """Adds the start of a run, or of its continuation, and what it runs on."""
        self.add(
            "start",
            progress,
            resumed=resumed,
            processes=processes,
            device=paddle.device.get_device(),
            host=os.uname().nodename,
            pid=os.getpid(),
            paddle=paddle.__version__,
        )

    def add(self, event: str, progress: Progress, **details: str | int | bool) -> None:
        """Adds an event: start, stop, finish or fail, with where the run is."""
        self.append(self.line(event, progress, **details))

    def append(self, line: str, *, patient: bool = True) -> None:
        """Adds what `line` has returned; patient: trying again if that fails."""
        self.folder.append_line(FILE, line, patient=patient)

    def last_event(self) -> str:
        """Returns what happened last, as far as it can be read."""
        try:
            lines = (self.folder.path / FILE).read_text(encoding="utf-8", errors="replace").split("\n")
            return str(json.loads(lines[-2])["event"])
        except (OSError, ValueError, IndexError, KeyError, TypeError):
            return ""

    def line(self, event: str, progress: Progress, **details: str | int | bool) -> str:
        """Returns an event of this moment: one of the above, or save, which is added when the checkpoint is there."""
        place = {"epoch": progress.epoch, "iteration": progress.iteration, "update": progress.update}
        time = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps({"time": time, "event": event, **place, **details}, ensure_ascii=False)
