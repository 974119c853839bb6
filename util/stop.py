"""SIGTERM and SIGINT: noticed at once, obeyed between two updates."""

import os
import signal
import time
from types import FrameType

from util.errors import INTERRUPTED

TERMINATED = 143


class StopRequest:
    """Whether somebody wants the run to stop.

    The handler only takes a note: what it interrupts may be an update, a collective operation or a save. SIGTERM may
    come any number of times (Paddle's launcher sends three); a second Ctrl-C ends the process at once, which harms
    nothing, since files are replaced whole. SIGHUP, of a terminal that was closed, counts as SIGTERM.
    """

    def __init__(self) -> None:
        self.signal = 0  # the first one that came; 0: none
        self.patience = 0.0  # seconds that a batch is awaited once it came
        self._came = 0.0
        self._interrupts = 0

    def listen(self) -> None:
        """Installs the handlers. A signal that is ignored, as nohup makes it, stays so."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            os._exit(INTERRUPTED)
        if not self.signal:
            self.signal, self._came = number, time.monotonic()
            again = "; once more ends it at once" if number == signal.SIGINT else ""
            os.write(2, f"{signal.Signals(number).name}: saving after this update{again}\n".encode())

    def check_waiting(self) -> None:
        """Raises StopWaiting when a batch should be awaited no longer."""
        if self.signal and time.monotonic() - self._came >= self.patience:
            raise StopWaiting


class StopWaiting(Exception):  # noqa: N818  a way out of a loop
    """A batch is no longer awaited, because the run is to stop."""


def exit_code_of(number: int) -> int:
    """Returns the exit code of a run that a signal has stopped."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED
