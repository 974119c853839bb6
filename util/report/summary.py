"""The figures of a run, and what about it needs attention, as text."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import numpy as np

from util.report.run import BAD_IMAGES, EPOCHS, EVENTS, LOG, Run, ends_of, failure, seconds_between, shown

NONE = "–"
MAX_NAMED = 10  # epochs in a warning


def best_epoch(run: Run, name: str) -> int | None:
    """Returns the row of `run.epochs` with the highest number of a column, the first of equals; None without one."""
    values = run.epochs.column(name)
    return int(np.nanargmax(np.where(np.isfinite(values), values, np.nan))) if np.isfinite(values).any() else None


def _best(run: Run, name: str) -> str:
    row = best_epoch(run, name)
    return NONE if row is None else f"{run.epochs.column(name)[row]:.2f} % in epoch {run.epochs.epochs[row]}"


def _last(run: Run, name: str, text: str) -> str:
    """Returns the number of the last epoch; `not finite` is a number's absence told, not an older number."""
    if not len(run.epochs.epochs) or name not in run.epochs.columns:
        return NONE
    value = run.epochs.column(name)[-1]
    return text.format(value) if math.isfinite(value) else "not finite"


def _progress(run: Run) -> str:
    planned = run.epochs_planned
    text = f"{run.epochs_done} of {planned}" if planned is not None else f"{run.epochs_done}"
    ahead = float(run.log.x[-1]) - run.epochs_done if len(run.log.x) else 0.0
    return f"{text}, then {100 * ahead:.0f} % of an epoch" if ahead > 0 else text


def mean_speed(run: Run) -> float:
    """Returns images/s over all epochs together, all processes; NaN if unknown."""
    return _over_time(run, "images_per_second")


def _over_time(run: Run, name: str) -> float:
    """Returns the mean of a column over the time of training; NaN if unknown."""
    values, seconds = run.epochs.column(name), run.epochs.column("seconds")
    known = np.isfinite(values) & np.isfinite(seconds) & (seconds > 0)
    return float((values[known] * seconds[known]).sum() / seconds[known].sum()) if known.any() else math.nan


def training_seconds(run: Run) -> float:
    """Returns the seconds of training in the epochs of the log; NaN if unknown."""
    seconds = run.epochs.column("seconds")
    return float(seconds[np.isfinite(seconds)].sum()) if np.isfinite(seconds).any() else math.nan


def total_seconds(run: Run) -> float:
    """Returns the seconds from the first start to the last event, pauses included; NaN without events."""
    return seconds_between(run.sessions[0].start, run.sessions[-1].last) if run.sessions else math.nan


def _total(run: Run) -> str:
    ended = not run.sessions or run.sessions[-1].end is not None
    return known_hours(total_seconds(run), ended=ended)


def _running(run: Run) -> str:
    seconds = sum(session.seconds for session in run.sessions) if run.sessions else math.nan
    return known_hours(seconds, ended=all(session.end is not None for session in run.sessions))


def hours(seconds: float) -> str:
    """Returns a length of time: 12.34 h, below an hour 12.3 min, below a minute 1.2 s."""
    if not math.isfinite(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def known_hours(seconds: float, *, ended: bool) -> str:
    """Returns a length of time; that until the last event of what has no end is only a lower bound, and says so."""
    text = hours(seconds)
    return text if ended or text == NONE else f"at least {text}"


def when(time: datetime | None) -> str:
    """Returns a time to the second, with its zone."""
    return NONE if time is None else time.isoformat(sep=" ", timespec="seconds")


def _count(run: Run, kind: str) -> str:
    return str(sum(event.kind == kind for event in run.events)) if run.events else NONE


def _saves(run: Run) -> str:
    return _count(run, "save") if any(event.kind == "save" for event in run.events) else NONE


def _machine(run: Run) -> str:
    if not run.sessions:
        return NONE
    values = run.sessions[-1].start.values
    processes = f"{shown(values.get('processes'))} x {shown(values.get('device'))} on {shown(values.get('host'))}"
    return f"{processes}, Paddle {shown(values.get('paddle'))}"


def _number(value: float, text: str) -> str:
    return text.format(value) if math.isfinite(value) else NONE


def _sum(run: Run, name: str) -> str:
    values = run.epochs.column(name)
    return f"{np.nansum(values):,.0f}" if np.isfinite(values).any() else NONE


def _rejected(run: Run) -> str:
    return f"{run.num_bad_images:,}" if BAD_IMAGES in run.files or run.events else NONE


# name -> the figure; a row without any is left out
FIGURES: dict[str, Callable[[Run], str]] = {
    "state": lambda run: run.state()[1],
    "epochs done": _progress,
    "best top-1": lambda run: _best(run, "test_acc1"),
    "best top-1 of the average (EMA)": lambda run: _best(run, "test_acc1_ema"),
    "last top-1": lambda run: _last(run, "test_acc1", "{:.2f} %"),
    "last top-5": lambda run: _last(run, "test_acc5", "{:.2f} %"),
    "last top-1 of the average (EMA)": lambda run: _last(run, "test_acc1_ema", "{:.2f} %"),
    "images evaluated": lambda run: NONE if run.log.images is None else f"{run.log.images:,}",
    "last loss in training": lambda run: _last(run, "train_loss", "{:.4f}"),
    "last loss in evaluation": lambda run: _last(run, "test_loss", "{:.4f}"),
    "images/s in training": lambda run: _number(mean_speed(run), "{:,.1f}"),
    "waiting for data": lambda run: _number(100 * _over_time(run, "data_wait"), "{:.1f} %"),
    "time of training, full epochs": lambda run: hours(training_seconds(run)),
    "time with restarts, first start to last event": _total,
    "of which running": _running,
    "restarts": lambda run: NONE if run.restarts is None else str(run.restarts),
    "failures": lambda run: str(sum(end.kind == "fail" for end in ends_of(run.events))) if run.events else NONE,
    "saves": _saves,
    "updates skipped": lambda run: _sum(run, "skipped_updates"),
    "rejected files": _rejected,
    "newest start": _machine,
}


def summary(runs: Sequence[Run]) -> list[list[str]]:
    """Returns a row a figure, its name first, then a cell a run."""
    rows = [[name, *(figure(run) for run in runs)] for name, figure in FIGURES.items()]
    return [row for row in rows if set(row[1:]) != {NONE}]


def history(run: Run) -> list[list[str]]:
    """Returns a row a session: when it began, how, where, how long it ran, how it ended."""
    rows = []
    for i, session in enumerate(run.sessions):
        values = session.start.values
        how = "continued" if values.get("resumed") else "new"
        begin = f"epoch {shown(values.get('epoch'))}, iteration {shown(values.get('iteration'))}"
        newest = i == len(run.sessions) - 1
        saves = run.events[run.events.index(session.start) : run.events.index(session.last) + 1]
        rows.append(
            [
                when(session.start.time),
                f"{how} at {begin}",
                f"{shown(values.get('host'))}, process {shown(values.get('pid'))}",
                known_hours(session.seconds, ended=session.end is not None),
                NONE if _saves(run) == NONE else str(sum(event.kind == "save" for event in saves)),
                _ending(run, i, newest=newest),
            ]
        )
    return rows


def _ending(run: Run, number: int, *, newest: bool) -> str:
    session = run.sessions[number]
    if session.end is None:
        last = f"; last event {when(session.last.time)}" if session.last is not session.start else ""
        line = f"; last line of {LOG} at {run.log.last_time}" if newest and run.log.last_time else ""
        return ("running or killed" if newest else "killed: no end was written") + last + line
    if session.end.kind == "finish":
        return "finished"
    if session.end.kind == "stop":
        return f"stopped by {shown(session.end.values.get('signal'))}"
    return f"failed, {failure(session.end)}"


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _named(epochs: Sequence[int]) -> str:
    """Returns `epoch 3`, `epochs 3, 4, 5 and 7 more`."""
    text = ", ".join(map(str, epochs[:MAX_NAMED]))
    more = f" and {len(epochs) - MAX_NAMED:,} more" if len(epochs) > MAX_NAMED else ""
    return f"epoch{'s' if len(epochs) > 1 else ''} {text}{more}"


def warnings_of(run: Run) -> list[str]:
    """Returns what about a run needs attention, the worst first."""
    found = [f"{name} is not finite in {_named(epochs)} ({EPOCHS})" for name, epochs in run.epochs.not_finite.items()]
    found += _log_warnings(run)
    gaps = (
        sorted(set(range(int(run.epochs.epochs[0]), run.epochs_done)) - set(run.epochs.epochs.tolist()))
        if len(run.epochs.epochs)
        else []
    )
    if gaps:
        found.append(f"{EPOCHS} lacks {_named(gaps)}; the curves have gaps there")
    for suffix in ("", "_ema"):
        row, claimed = best_epoch(run, f"test_acc1{suffix}"), run.epochs.column(f"best_acc1{suffix}")
        if row is not None and claimed[-1] > run.epochs.column(f"test_acc1{suffix}")[row] + 1e-6:
            found.append(f"best_acc1{suffix} is {claimed[-1]:.2f}, but no epoch of {EPOCHS} reached it")
    killed = sum(session.end is None for session in run.sessions[:-1])
    if killed:
        found.append(f"{killed} of {len(run.sessions)} starts ended without a word: killed, or the machine went down")
    if run.num_bad_images:
        found.append(f"{_counted(run.num_bad_images, 'file')} could not be read as an image, listed below")
    if EVENTS not in run.files:
        found.append(f"there is no {EVENTS}: restarts and failures are not known")
    found += run.faults
    return found + [f"{LOG} says: {text}" + (f" ({n} times)" if n > 1 else "") for text, n in run.log.warnings.items()]


def _log_warnings(run: Run) -> list[str]:
    found = []
    for name in ("loss", "lr"):
        bad = np.flatnonzero(~np.isfinite(run.log.columns[name]))
        if len(bad):
            place = f"{run.log.x[bad[0]]:.2f} epochs"
            found.append(f"{name} is not finite in {_counted(len(bad), 'line')} of {LOG}, first after {place}")
    skipped = run.epochs.column("skipped_updates")
    epochs = run.epochs.epochs[skipped > 0].tolist()
    if epochs:
        total = np.nansum(skipped)
        found.append(
            f"{_counted(int(total), 'update')} skipped, with gradients that were not finite, in {_named(epochs)}"
        )
    return found


def made_at(time: datetime) -> str:
    """Returns when the report was made."""
    return when(time - timedelta(microseconds=time.microsecond))
