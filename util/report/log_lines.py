"""The lines of `train.log` and `log.txt` as arrays. Where a run went back to a checkpoint, what it did anew counts."""

import bisect
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import DataError, MissingInputError
from util.files import kind_of

HUGE, TINY = 1e300, 1e-300  # beyond these a number counts as infinite or as 0: a picture could not scale it
MAX_EPOCH = 10**7
MAX_ITERATION = 10**9  # of an epoch
MAX_WARNINGS = 20  # different ones
MAX_LINE = 1 << 20  # bytes

_ITERATION = re.compile(
    rb"\[(\d\d:\d\d:\d\d)[.\d]*\] Epoch: \[(\d+)\]  \[ *(\d+)/(\d+)\]  [^][]*?"
    rb"lr: (N)  loss: (N) \((N)\)  time: (N)  data: (N)(?:  .*)?$".replace(b"N", rb"[-+.\de]+|-?nan|-?inf")
)
_TIME = re.compile(rb"\[(\d\d:\d\d:\d\d)")
_EVALUATED = re.compile(rb"top-1 .* on (\d+) images")
_WARNING = re.compile(rb"\[\d\d:\d\d:\d\d[.\d]*\] (?:warning|error): (.*)")

LINE_FIELDS = ("lr", "loss", "epoch_loss", "seconds", "wait")


def number(text: Any) -> float:
    """Returns a number as a float; NaN for what is none, infinite for what is too large for a picture."""
    if isinstance(text, bool):
        return np.nan
    try:
        value = float(text)
    except OverflowError:
        return np.inf
    except (TypeError, ValueError):
        return np.nan
    if abs(value) > HUGE:
        return float(np.copysign(np.inf, value))
    return 0.0 if abs(value) < TINY else value


def whole_lines(path: Path) -> Iterator[bytes]:
    """Yields a file's lines without their ends; nothing if there is no file.

    A last line without its end is left out: it is being written, or was torn by a kill, and a number in it may lack
    digits. What is no regular file is a DataError, what cannot be read a MissingInputError.
    """
    kind = kind_of(path)
    if kind == "nothing":
        return
    if kind != "file":
        raise DataError(f"{path}: is not a regular file; remove it, it is none of a run's")
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                if line.endswith(b"\n"):
                    yield line[:-1].rstrip(b"\r")
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None


@dataclass
class TrainLog:
    """What `train.log` says."""

    x: np.ndarray  # float64 (N,): epochs trained when a line was written, 2.5 in the middle of the third
    columns: dict[str, np.ndarray]  # of LINE_FIELDS, each float64 (N,); times in seconds
    iterations: int | None  # of an epoch
    rewinds: list[float]  # epochs trained at the first line of each repetition
    superseded: int  # lines that a repetition replaced
    images: int | None  # in the last evaluation
    last_time: str | None  # of the last line, by the clock of the machine
    finished: bool
    damaged: int = 0  # lines of an iteration that could not be read
    warnings: Counter[str] = field(default_factory=Counter)  # and how often


def read_train_log(path: Path) -> TrainLog:
    """Returns the lines of a run's iterations by place, and what else of `train.log` the report needs."""
    places, totals, numbers = array("q"), array("q"), array("d")  # a tuple a line would take half a GB for 1e6 lines
    found = TrainLog(np.empty(0), {}, None, [], 0, None, None, False)
    for line in whole_lines(path):
        match = _ITERATION.match(line)
        if match is None:
            _read_other_line(line, found)
            continue
        time, epoch, iteration, total, *values = match.groups()
        place, length = int(epoch[:8]) * MAX_ITERATION + int(iteration[:9]), max(int(total[:9]), 1)
        if places and place <= places[-1]:
            kept = bisect.bisect_left(places, place)
            found.superseded += len(places) - kept
            found.rewinds.append(place // MAX_ITERATION + place % MAX_ITERATION / length)
            del places[kept:], totals[kept:], numbers[kept * len(LINE_FIELDS) :]
        places.append(place)
        totals.append(length)
        numbers.extend(map(number, values))
        found.last_time = time.decode()
        found.finished = False
    epochs, iterations = np.divmod(np.array(places, np.int64), MAX_ITERATION)
    found.x = epochs + (iterations + 1) / np.array(totals, np.int64)
    table = np.array(numbers, np.float64).reshape(-1, len(LINE_FIELDS))
    found.columns = dict(zip(LINE_FIELDS, table.T, strict=True))
    found.iterations = totals[-1] if totals else None
    return found


def _read_other_line(line: bytes, found: TrainLog) -> None:
    """Takes the number of evaluated images, warnings and the end of the run from a line about something else."""
    found.damaged += b"] Epoch: [" in line and b"lr: " in line
    if time := _TIME.match(line):
        found.last_time = time[1].decode()
    if warning := _WARNING.match(line):
        text = warning[1].decode("utf-8", "backslashreplace")
        if text in found.warnings or len(found.warnings) < MAX_WARNINGS:
            found.warnings[text] += 1
    elif evaluated := _EVALUATED.search(line):
        found.images = int(evaluated[1][:15])
    elif b"] finished; " in line:
        found.finished = True


@dataclass
class EpochTable:
    """What `log.txt` says: a column a name, NaN where an epoch lacks it."""

    epochs: np.ndarray  # int64 (E,), increasing
    columns: dict[str, np.ndarray]  # each float64 (E,)
    not_finite: dict[str, list[int]]  # by name, the epochs whose line has something else than a finite number
    damaged: int  # lines that could not be read

    def column(self, name: str) -> np.ndarray:
        """Returns a column, float64 (E,); all NaN if no epoch has it."""
        return self.columns.get(name, np.full(len(self.epochs), np.nan))


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the objects of a file of JSON lines, and how many lines are none."""
    objects, damaged = [], 0
    for line in whole_lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            objects.append(value)
        elif line.strip():
            damaged += 1
    return objects, damaged


def read_epochs(path: Path) -> EpochTable:
    """Returns the epochs of `log.txt`. One that comes again replaces itself and those after it."""
    objects, damaged = read_json_lines(path)
    rows: list[dict[str, Any]] = []
    for row in objects:
        epoch = row.get("epoch")
        if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < MAX_EPOCH:
            damaged += 1
            continue
        while rows and rows[-1]["epoch"] >= epoch:
            rows.pop()
        rows.append(row)
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "epoch"]
    columns = {name: np.array([number(row.get(name)) for row in rows], np.float64) for name in names}
    not_finite = {
        name: [
            row["epoch"]
            for row, value in zip(rows, columns[name], strict=True)
            if name in row and not abs(value) < np.inf
        ]
        for name in names
    }
    return EpochTable(
        epochs=np.array([row["epoch"] for row in rows], np.int64),
        columns=columns,
        not_finite={name: epochs for name, epochs in not_finite.items() if epochs},
        damaged=damaged,
    )
