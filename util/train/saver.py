"""When a run is saved, and writing it while training goes on."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from util.options import RunOptions

LOOK_SECONDS = 5.0  # between two looks at the losses, for which the device is waited for


@dataclass(frozen=True)
class Due:
    """What is to be done between two updates: look whether losses are finite; save, and perhaps end the run."""

    look: bool
    save: bool


class SaveClock:
    """Whether it is time to save, by updates and by minutes since the last save."""

    def __init__(self, options: RunOptions, *, update: int) -> None:
        self.every_updates = options.save_updates
        self.every_seconds = 60 * options.save_minutes
        self.saved(update)
        self._looked = time.monotonic()

    def is_time_to_look(self) -> bool:
        """Whether the last look at the losses is long ago; if so, this is one."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return True

    def saved(self, update: int) -> None:
        """Takes note of a save."""
        self._update, self._time = update, time.monotonic()

    def is_due(self, update: int) -> bool:
        """Whether to save after that many updates. Processes may differ about the minutes: ask the main one."""
        if update == self._update:
            return False
        by_updates = self.every_updates > 0 and update % self.every_updates == 0
        return by_updates or 0 < self.every_seconds <= time.monotonic() - self._time


def checkpoint_files(options: RunOptions, *, averaged: bool) -> int:
    """Returns how many checkpoint files a run has at most: latest, previous, the one being written, the best, numbered.

    averaged: whether there is a best one of averaged weights, too.
    """
    return 4 + averaged + (options.checkpoint_hist if options.checkpoint_interval else 0)


class Writer:
    """Does one piece of writing at a time, in a thread. What goes wrong in it is raised here, at the next call."""

    def __init__(self, *, background: bool) -> None:
        self.background = background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def do(self, write: Callable[[], None]) -> None:
        """Waits for the piece before, then begins with this one; without `background`, waits for it, too."""
        self.wait()
        # not a daemon: a process that ends waits for it
        self._thread = threading.Thread(target=self._run, args=(write,), name="checkpoint")
        self._thread.start()
        if not self.background:
            self.wait()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # handed to the thread that waits, which raises it
            self._error = error

    def check(self) -> None:
        """Raises what went wrong, without waiting."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until all is written."""
        if self._thread is not None:
            while self._thread.is_alive():  # so that a second Ctrl-C is heard
                self._thread.join(timeout=0.2)
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
