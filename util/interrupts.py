"""Signals that end a job between two results, never within one."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from util.errors import INTERRUPTED, Stopped
from util.stop import exit_code_of


class Interrupts:
    """Turns SIGTERM, SIGHUP and Ctrl-C into `Stopped`, at once or after what must not be torn.

    words: what to say besides the signal, asked when it comes. A second Ctrl-C ends the process at once.
    """

    def __init__(self, words: Callable[[], str]) -> None:
        self._words = words
        self._came = 0
        self._is_held = False

    def listen(self) -> None:
        """Installs the handlers; a signal that is ignored, as nohup makes it, stays so. Call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lets a signal wait until the block is done."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._came:
            self._stop()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            if number == signal.SIGINT:
                os._exit(INTERRUPTED)
            return
        self._came = number
        if not self._is_held:
            self._stop()

    def _stop(self) -> None:
        name = signal.Signals(self._came).name
        raise Stopped(f"stopped by {name}: {self._words()}", exit_code=exit_code_of(self._came))
