"""A run's folder as the report shows it. Only small text files are read, no checkpoint."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from util.errors import DataError, MissingInputError, ResumableError
from util.files import kind_of
from util.libraries import yaml
from util.report.log_lines import (
    MAX_EPOCH,
    EpochTable,
    TrainLog,
    number,
    read_epochs,
    read_json_lines,
    read_train_log,
    whole_lines,
)

LOG, EPOCHS, EVENTS, BAD_IMAGES, ARGS = "train.log", "log.txt", "events.jsonl", "bad_images.tsv", "args.yaml"
MAX_BAD_IMAGES = 500  # listed; all are counted
MAX_ARGS_BYTES = 50_000  # ten times what train.py writes; a parser in Python takes its time
MAX_NUMBER = 100  # characters of a whole number; Python refuses to print what is much longer
ENDS = ("stop", "finish", "fail")
RESUMABLE = ResumableError.exit_code


@dataclass(frozen=True)
class Event:
    """A line of events.jsonl."""

    kind: str
    time: datetime | None
    values: dict[str, Any]

    def place(self, iterations: int | None) -> float | None:
        """Returns how many epochs were trained then; None if the event does not say."""
        epoch, iteration = (number(self.values.get(name)) for name in ("epoch", "iteration"))
        if not 0 <= epoch < MAX_EPOCH:
            return None
        return epoch + (iteration / iterations if iterations and 0 <= iteration <= iterations else 0.0)


@dataclass(frozen=True)
class Session:
    """From one start to what followed it."""

    start: Event
    last: Event  # the start itself if nothing followed
    end: Event | None  # None: killed, or running

    @property
    def seconds(self) -> float:
        """What is known to have passed, until the last event; NaN if an event has no time."""
        return seconds_between(self.start, self.last)


def seconds_between(first: Event, last: Event) -> float:
    """Returns the seconds from one event to another, never less than 0; NaN if one has no time."""
    if first.time is None or last.time is None:
        return np.nan
    return max(0.0, (last.time - first.time).total_seconds())


@dataclass(frozen=True)
class Run:
    """All that is known about one run."""

    name: str
    folder: Path
    epochs: EpochTable
    log: TrainLog
    events: list[Event]
    sessions: list[Session]
    bad_images: list[tuple[str, str]]  # path, reason; the first MAX_BAD_IMAGES
    num_bad_images: int
    settings: dict[str, Any] | None  # None: no args.yaml that can be read
    files: frozenset[str]  # which of its files there are
    faults: list[str]  # what of the files could not be read

    @property
    def epochs_done(self) -> int:
        """Epochs that were trained and evaluated."""
        return int(self.epochs.epochs[-1]) + 1 if len(self.epochs.epochs) else 0

    @property
    def epochs_planned(self) -> int | None:
        """Epochs that the settings ask for, with those of the cooldown."""
        values = [(self.settings or {}).get(name) for name in ("epochs", "cooldown_epochs")]
        if not isinstance(values[0], int):
            return None
        return values[0] + (values[1] if isinstance(values[1], int) else 0)

    @property
    def restarts(self) -> int | None:
        """Starts after the first one; None without events."""
        return max(0, len(self.sessions) - 1) if self.sessions else None

    def state(self) -> tuple[str, str]:
        """Returns `good`, `bad` or `open`, and how the run stands in a few words."""
        ends = ends_of(self.events)
        end = self.sessions[-1].end if self.sessions else ends[-1] if ends else None
        left = self.epochs_planned is not None and self.epochs_done < self.epochs_planned
        if end is None and not self.sessions:
            if self.log.finished:
                return "good", "finished"
            if left or self.epochs_planned is None:
                return "open", f"not finished as far as the logs say; no start in {EVENTS} tells why"
            return "good", "all epochs are done"
        if end is None:
            return "open", "running or killed: its newest start has no end"
        if end.kind == "finish":
            return "good", "finished"
        if end.kind == "stop":
            return "open", f"stopped by {shown(end.values.get('signal'))}, to be continued"
        return "bad", f"failed: {failure(end)}"


def failure(event: Event) -> str:
    """Returns exit code and reason of a `fail`."""
    code, reason = event.values.get("exit_code"), event.values.get("reason")
    return f"exit code {shown(code)}: {shown(reason) if reason is not None else 'no reason given'}"


def shown(value: Any) -> str:
    """Returns a value of a JSON or YAML file as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value)) or "none"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def read_run(folder: Path, name: str) -> Run:
    """Reads a run's folder. A missing one is a MissingInputError, one that holds no run a DataError."""
    kind = kind_of(folder)
    if kind == "nothing":
        raise MissingInputError(
            f"{folder}: no such folder; name the folder of a run, such as output/train/cvt_13_224x224"
        )
    if kind != "folder":
        raise DataError(f"{folder}: is not a folder; name the folder of a run, such as output/train/cvt_13_224x224")
    files = frozenset(n for n in (LOG, EPOCHS, EVENTS, BAD_IMAGES, ARGS) if kind_of(folder / n) != "nothing")
    if not files & {LOG, EPOCHS, EVENTS}:
        raise DataError(f"{folder}: is no run, it has neither {EPOCHS} nor {LOG} nor {EVENTS}{_runs_inside(folder)}")
    epochs, log = read_epochs(folder / EPOCHS), read_train_log(folder / LOG)
    objects, damaged = read_json_lines(folder / EVENTS)
    events = [Event(str(o["event"]), _time(o.get("time")), o) for o in objects if isinstance(o.get("event"), str)]
    bad_images, num_bad_images = _read_bad_images(folder / BAD_IMAGES)
    settings, fault = _read_settings(folder / ARGS)
    counts = ((EPOCHS, epochs.damaged), (LOG, log.damaged), (EVENTS, damaged + len(objects) - len(events)))
    faults = [
        f"{file}: {count} damaged {'line' if count == 1 else 'lines'} left out" for file, count in counts if count
    ]
    return Run(
        name=name,
        folder=folder,
        epochs=epochs,
        log=log,
        events=events,
        sessions=sessions_of(events),
        bad_images=bad_images,
        num_bad_images=num_bad_images,
        settings=settings,
        files=files,
        faults=faults + ([fault] if fault else []),
    )


def _runs_inside(folder: Path) -> str:
    """Returns advice if the folders in this one are runs."""
    try:
        inside = sorted(path.parent for path in folder.glob(f"*/{EPOCHS}"))
    except OSError as error:
        raise MissingInputError(f"{folder}: cannot be read: {error.strerror}") from None
    return f"; name one or several of those in it, such as {inside[0]}" if inside else ""


def sessions_of(events: Sequence[Event]) -> list[Session]:
    """Divides events at each `start`; those before the first one, of a file that lost its beginning, belong to none."""
    starts = [i for i, event in enumerate(events) if event.kind == "start"]
    sessions = []
    for begin, after in itertools.pairwise([*starts, len(events)]):
        part = events[begin:after]
        ends = ends_of(part)
        sessions.append(Session(part[0], part[-1], ends[-1] if ends else None))
    return sessions


def ends_of(events: Sequence[Event]) -> list[Event]:
    """Returns one event for each time that a run ended.

    Several processes may each say how they ended. The first failure that is not 75, which may only follow from
    another's, is the reason; else what was said first. A process that ends again belongs to a later end.
    """
    groups: list[dict[str, Event]] = []  # by process
    for event in events:
        if event.kind == "start":
            groups.append({})
        if event.kind not in ENDS:
            continue
        process = str(event.values.get("rank", 0))
        if not groups or process in groups[-1]:
            groups.append({})
        groups[-1][process] = event
    return [_reason_of(list(group.values())) for group in groups if group]


def _reason_of(ends: Sequence[Event]) -> Event:
    return next((end for end in ends if end.kind == "fail" and end.values.get("exit_code") != RESUMABLE), ends[0])


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


_ESCAPES = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


def unescape(text: str) -> str:
    """Returns what a field of bad_images.tsv stands for."""
    return re.sub(r"\\[\\tnr]", lambda match: _ESCAPES[match[0]], text)


def _read_bad_images(path: Path) -> tuple[list[tuple[str, str]], int]:
    """Returns the first rejected files with their reasons, and the number of all."""
    listed: list[tuple[str, str]] = []
    count = 0
    for line in whole_lines(path):
        if not line:
            continue
        count += 1
        if len(listed) < MAX_BAD_IMAGES:
            name, _, reason = line.decode("utf-8", "backslashreplace").partition("\t")
            listed.append((unescape(name), unescape(reason) or "no reason given"))
    return listed, count


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > MAX_NUMBER:
        raise ValueError(f"a number of {len(text):,} characters in line {node.start_mark.line + 1}, left out")
    return loader.construct_yaml_int(node)


class _SettingsLoader(yaml.SafeLoader):
    """Takes whole numbers that can be shown."""

    yaml_constructors: ClassVar = {**yaml.SafeLoader.yaml_constructors, "tag:yaml.org,2002:int": _whole_number}


def _read_settings(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Returns the settings in args.yaml, or None and what is wrong with them."""
    lines, size = [], 0
    for line in whole_lines(path):
        lines.append(line)
        size += len(line) + 1
        if size > MAX_ARGS_BYTES:
            return None, f"{ARGS}: larger than {MAX_ARGS_BYTES:,} bytes, left out"
    if not lines:
        return None, ""
    try:
        text = b"\n".join(lines).decode("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            return None, f"{ARGS}: holds aliases, left out"
        values = yaml.load(text, Loader=_SettingsLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, LookupError, AttributeError) as error:
        return None, f"{ARGS}: {' '.join(str(error).split())}"
    if not isinstance(values, dict):
        return None, f"{ARGS}: no settings in it"
    return {str(name): value for name, value in values.items()}, ""
