"""Logging of a run: the terminal and `train.log` get the same lines, from rank 0 alone."""

import contextlib
import itertools
import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from util import storage
from util.libraries import tqdm

NAME = "run"


class _TimedFormatter(logging.Formatter):
    """`[04:32:41.592649] message`, microseconds always."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return timed(f"{level}{record.getMessage()}", record.created)


def timed(text: str, seconds: float) -> str:
    """Returns a line of the log; seconds: since 1970."""
    time = datetime.fromtimestamp(seconds).time().isoformat(timespec="microseconds")
    return f"[{time}] {text}"


class _AboveProgressBar(logging.Handler):
    """Writes to standard error without breaking a progress bar there."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a terminal or a pipe that was closed must not end a run
            tqdm.write(self.format(record), file=sys.stderr)


def start_logging(*, is_main: bool) -> logging.Logger:
    """Returns the run's logger; other ranks than the main one log errors only."""
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.INFO if is_main else logging.ERROR)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handler = _AboveProgressBar()
    handler.setFormatter(_TimedFormatter())
    logger.addHandler(handler)
    return logger


class _File(logging.FileHandler):
    """Says once that a line cannot be written (a full disk) and goes on: the terminal has it, too.

    Logging's own handlers print a traceback each time. What a run must not lose is not written here.
    """

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        error = sys.exception()
        if not isinstance(error, OSError):
            raise  # noqa: PLE0704  called while the exception is handled
        if not self._said:
            self._said = True
            tqdm.write(f"warning: {self.baseFilename}: lines are missing: {error.strerror}", file=sys.stderr)


def log_to_file(logger: logging.Logger, path: Path) -> None:
    """Also appends the log's lines to a file."""
    handler = _File(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_TimedFormatter())
    logger.addHandler(handler)


class EpochLog:
    """`log.txt`: one JSON object an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep_before(self, epoch: int, *, first: int | None) -> list[str]:
        """Drops the lines of `epoch` and later ones, and a torn last line: a resumed run writes them again.

        first: the epoch that the run began with; None: not known, then the first of the file. Returns what a crash
        cannot have left behind, since a line is synced before its checkpoint: damaged lines and repeated ones, which
        are left out, too, and epochs without a line.
        """
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        kept: dict[int, str] = {}
        wrong = []
        lines = text.split("\n")  # the last one is empty, or was not ended
        for number, line in enumerate(lines, start=1):
            found = _epoch_of(line)
            if found is None and number < len(lines):
                wrong.append(f"line {number} was damaged; it is left out")
            elif found in kept:
                wrong.append(f"line {number} repeats epoch {found}; it is left out")
            elif found is not None and found < epoch:
                kept[found] = line + "\n"
        data = "".join(kept.values()).encode()
        if data != text.encode():
            storage.retried(lambda: storage.write_over(self.path, data), self.path, size=len(data))
        begin = min([*kept, epoch if first is None else first])
        missing = [number for number in range(begin, epoch) if number not in kept]
        if missing:
            wrong.append(f"lines were lost, those of epoch {_spans(missing)}; what was trained is not")
        return wrong

    def append(self, values: dict[str, Any]) -> None:
        """Adds a line, in one write."""
        storage.append_line(self.path, json.dumps(values))


def _epoch_of(line: str) -> int | None:
    """Returns the epoch of a line of log.txt; None if it is damaged."""
    try:
        epoch = json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return epoch if isinstance(epoch, int) and epoch >= 0 else None


def _spans(numbers: list[int]) -> str:
    """Returns ascending numbers as text: `0, 3 to 5`."""
    spans = [
        [number for _, number in group]
        for _, group in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
