"""SIGTERM and SIGINT: noticed at once, obeyed between two updates."""

import contextlib
import os
import signal
import stat
import time
from types import FrameType

from util.errors import INTERRUPTED, TERMINATED

LONGEST_PATIENCE = 20.0  # seconds from the signal, however many batches are still to come: the launcher waits for 30


class StopRequest:
    """Whether somebody wants the run to stop.

    The handler only takes a note: what it interrupts may be an update, a collective operation or a save. SIGTERM may
    come any number of times (Paddle's launcher sends three); a second Ctrl-C ends the process at once, which harms
    nothing, since files are replaced whole. SIGHUP, of a terminal that was closed, counts as SIGTERM.
    """

    def __init__(self) -> None:
        self.signal = 0  # the first one that came; 0: none
        self._came = 0.0
        self._patience, self._waiting_since = 0.0, 0.0
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
            with contextlib.suppress(OSError):
                os.write(2, f"{signal.Signals(number).name}: saving after this update{again}\n".encode())
        if number == signal.SIGHUP:
            _let_go_of_terminal()

    def begin_waiting(self, *, patience: float) -> None:
        """Begins to wait for a batch; patience: seconds that it is awaited when the run is to stop."""
        self._patience, self._waiting_since = patience, time.monotonic()

    def check_waiting(self) -> None:
        """Raises StopWaiting when the batch should be awaited no longer."""
        if not self.signal:
            return
        now = time.monotonic()
        if now - max(self._came, self._waiting_since) >= self._patience or now - self._came >= LONGEST_PATIENCE:
            raise StopWaiting


def _let_go_of_terminal() -> None:
    """Sends what would go to a terminal that is gone to nowhere; writing to it would fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


class StopWaiting(Exception):  # noqa: N818  a way out of a loop
    """A batch is no longer awaited, because the run is to stop."""


def exit_code_of(number: int) -> int:
    """Returns the exit code of a run that a signal has stopped."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED
