"""Which pictures a report has: the curves of all runs in each, and what is marked in them."""

from collections.abc import Sequence

import numpy as np

from util.report.curves import Axis, Curve
from util.report.run import Run, ends_of, failure, shown
from util.report.summary import NONE, when
from util.report.svg import Mark, Picture


def epoch_curve(run: Run, number: int, column: str, name: str, *, style: str = "main", factor: float = 1.0) -> Curve:
    """Returns a column of log.txt over the epochs trained, with a gap where epochs are missing."""
    epochs, y = run.epochs.epochs, run.epochs.column(column) * factor
    missing = np.flatnonzero(np.diff(epochs) > 1) + 1
    x = np.insert(epochs + 1.0, missing, epochs[missing].astype(np.float64))
    bad = np.array(run.epochs.not_finite.get(column, ()), np.float64) + 1
    return Curve(number, name, x, np.insert(y, missing, np.nan), style, bad)


def line_curve(run: Run, number: int, column: str, name: str, *, style: str = "faint") -> Curve:
    """Returns a column of train.log over the epochs trained."""
    y = run.log.columns[column]
    return Curve(number, name, run.log.x, y, style, run.log.x[~np.isfinite(y)])


def mean_of_lines(run: Run, number: int, column: str) -> Curve:
    """Returns the mean over the finite lines of train.log in each epoch, over the epochs trained."""
    y = run.log.columns[column]
    epochs = np.ceil(run.log.x[np.isfinite(y)]).astype(np.int64)  # trained when the epoch is over
    x, place = np.unique(epochs, return_inverse=True)
    sums = np.bincount(place, weights=y[np.isfinite(y)], minlength=len(x))
    return Curve(number, "mean of the epoch's lines", x.astype(np.float64), sums / np.bincount(place, minlength=len(x)))


def _each(runs: Sequence[Run], column: str, name: str, *, factor: float = 1.0) -> list[Curve]:
    """Returns a column of each run, and that of its averaged weights dashed."""
    curves = []
    for i, run in enumerate(runs):
        curves.append(epoch_curve(run, i, column, name, factor=factor))
        curves.append(epoch_curve(run, i, f"{column}_ema", f"{name}, EMA", style="dashed", factor=factor))
    return curves


def pictures(runs: Sequence[Run]) -> list[Picture]:
    """Returns all pictures, also those without a number, which are not drawn."""
    losses, rates, steps = [], [], []
    for i, run in enumerate(runs):
        losses += [
            line_curve(run, i, "loss", "line of the log"),
            epoch_curve(run, i, "train_loss", "mean of the epoch"),
        ]
        has_lines = np.isfinite(run.log.columns["lr"]).any()
        rates.append(
            line_curve(run, i, "lr", "learning rate", style="main")
            if has_lines
            else epoch_curve(run, i, "train_lr", "learning rate")
        )
        steps += [line_curve(run, i, "seconds", "line of the log"), mean_of_lines(run, i, "seconds")]
    return [
        Picture("Loss in training", "loss", losses),
        Picture("Loss in evaluation", "loss", _each(runs, "test_loss", "evaluation")),
        Picture("Top-1 accuracy", "percent", _each(runs, "test_acc1", "top-1"), floor=0, ceiling=100),
        Picture("Top-5 accuracy", "percent", _each(runs, "test_acc5", "top-5"), floor=0, ceiling=100),
        Picture("Learning rate", "learning rate", rates, floor=0),
        Picture("Gradient norm", "mean norm of the epoch", _each(runs, "grad_norm", "gradient norm"), floor=0),
        Picture("Throughput", "images/s", _each(runs, "images_per_second", "images/s"), floor=0),
        Picture("Waiting for data", "percent of the time", _each(runs, "data_wait", "waiting", factor=100), floor=0),
        Picture("Time of an iteration", "seconds", steps, floor=0),
    ]


def common_axis(runs: Sequence[Run]) -> Axis:
    """Returns the axis of epochs for all pictures: from 0 to the furthest place that a run was at."""
    ends = [float(x[-1]) for run in runs for x in (run.epochs.epochs + 1, run.log.x) if len(x)]
    places = [place for run in runs for event in run.events if (place := event.place(run.log.iterations)) is not None]
    return Axis(0.0, max([*ends, *places, 0.0]) or 1.0)


def marks(runs: Sequence[Run]) -> list[Mark]:
    """Returns where runs were started again and where they failed; without events, where the log goes back."""
    found = []
    for i, run in enumerate(runs):
        for session in run.sessions[1:]:
            place = session.start.place(run.log.iterations)
            if place is not None:
                found.append(Mark(i, place, "restart", f"{run.name}: started again {when(session.start.time)}"))
        for end in ends_of(run.events):
            place = end.place(run.log.iterations)
            if end.kind == "fail" and place is not None:
                found.append(Mark(i, place, "fail", f"{run.name}: failed {when(end.time)}, {failure(end)}"))
        if not run.events:
            found += [Mark(i, x, "restart", f"{run.name}: the log goes back to here") for x in run.log.rewinds]
    return found


def differing(runs: Sequence[Run]) -> tuple[list[list[str]], list[list[str]]]:
    """Returns the settings that differ between runs, then all others: rows of name and a cell a run.

    A run without settings differs from none; its cells are dashes.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings or {})
    different: list[list[str]] = []
    same: list[list[str]] = []
    for name in names:
        cells = [
            NONE if run.settings is None else shown(run.settings[name]) if name in run.settings else "not there"
            for run in runs
        ]
        known = {cell for run, cell in zip(runs, cells, strict=True) if run.settings is not None}
        (different if len(known) > 1 else same).append([name, *cells])
    return different, same
