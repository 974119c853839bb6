"""The tables of an evaluation, and its pictures where matplotlib is installed.

per_class.csv    each class: images, top-1, top-5, the class it is confused with
confusion.csv    the confusion matrix without its zeros
calibration.csv  confidence and accuracy in 15 bins
summary.json     the figures that eval.py prints, and what they are about
confusion.png, calibration.png, per_class.png

Everything is in percent.
"""

import contextlib
import csv
import importlib.util
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import SaveError
from util.evaluation.results import ImageResults
from util.evaluation.statistics import (
    Calibration,
    ClassStatistics,
    calibration,
    class_statistics,
    confusion_pairs,
)
from util.whole_files import write_text, write_whole

PICTURES = ("confusion.png", "calibration.png", "per_class.png")
DECIMALS = 4


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table as CSV. None and NaN are empty fields, floats have 4 decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_field(value) for value in row] for row in rows)
    return text.getvalue()


def markdown_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table as Markdown, fields as in `csv_text`."""
    lines = [list(head), ["---"] * len(head)]
    lines += [[_field(value).replace("|", "\\|").replace("\n", " ") for value in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _field(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    return f"{value:.{DECIMALS}f}" if isinstance(value, float | np.floating) else str(value)


def per_class_table(statistics: ClassStatistics, class_names: Sequence[str]) -> str:
    """Returns per_class.csv."""
    head = ("class_id", "name", "images", "top1", "top5", "confused_with", "confused_with_name", "confused_images")
    rows = []
    for i, number in enumerate(statistics.class_ids):
        other = int(statistics.confused_with[i])
        confused = (other, class_names[other], statistics.confused_images[i]) if other >= 0 else (None, None, None)
        row = (number, class_names[number], statistics.images[i], statistics.top1[i], statistics.top5[i])
        rows.append((*row, *confused))
    return csv_text(head, rows)


def confusion_table(pairs: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns confusion.csv. pairs: int64 (P, 3) of true, predicted, images."""
    head = ("true", "predicted", "count", "true_name", "predicted_name")
    return csv_text(head, ((*pair, class_names[pair[0]], class_names[pair[1]]) for pair in pairs.tolist()))


def calibration_table(found: Calibration) -> str:
    """Returns calibration.csv."""
    rows = zip(found.edges[:-1], found.edges[1:], found.images, found.confidence, found.accuracy, strict=True)
    return csv_text(("above", "up_to", "images", "confidence", "accuracy"), rows)


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_report(
    folder: Path,
    results: ImageResults,
    *,
    class_ids: np.ndarray,
    class_names: Sequence[str],
    summary: Mapping[str, Any],
    pictures: bool,
) -> None:
    """Writes the report into an existing folder; pictures that were there and are not drawn anew are removed.

    results: with the model's classes, which `class_names` names. class_ids: the classes that the model could choose.
    summary: what summary.json holds; its `model` and `top1` also stand in the pictures. pictures: whether to draw.
    What cannot be written is a SaveError that names it; the rest is.
    """
    statistics, pairs, found = class_statistics(results, class_ids), confusion_pairs(results), calibration(results)
    parts: dict[str, Callable[[Path], None]] = {
        "per_class.csv": partial(write_text, text=per_class_table(statistics, class_names)),
        "confusion.csv": partial(write_text, text=confusion_table(pairs, class_names)),
        "calibration.csv": partial(write_text, text=calibration_table(found)),
        "summary.json": partial(write_text, text=json.dumps(summary, indent=2) + "\n"),
    }
    if not pictures:
        for name in PICTURES:
            (folder / name).unlink(missing_ok=True)
        _write_parts(folder, parts)
        return
    from util.evaluation.pictures import draw_calibration, draw_confusion, draw_per_class, save_picture

    subtitle = f"{summary['model']}, {len(results):,} images, top-1 {summary['top1']:.2f} %"
    figures = (
        draw_confusion(pairs, class_ids, class_names, subtitle=subtitle),
        draw_calibration(found, subtitle=subtitle),
        draw_per_class(statistics, class_names, subtitle=subtitle),
    )
    for name, figure in zip(PICTURES, figures, strict=True):
        parts[name] = partial(write_whole, write=partial(save_picture, figure))
    _write_parts(folder, parts)


def _write_parts(folder: Path, parts: Mapping[str, Callable[[Path], None]]) -> None:
    """Writes all files that can be written; a SaveError names the others, of which no earlier one is left."""
    missing, reason = [], ""
    for name, write in parts.items():
        try:
            write(folder / name)
        except SaveError as error:
            missing.append(name)
            reason = str(error)
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)  # of another model: it would look like this one's
    if missing:
        raise SaveError(f"{folder}: the report lacks {', '.join(missing)}: {reason}")


def write_comparison(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes checkpoints.csv and checkpoints.md into an existing folder: a row a checkpoint, in the order given.

    Rows may lack columns: a checkpoint that could not be evaluated has `error` instead, the last column.
    """
    head = sorted(dict.fromkeys(name for row in rows for name in row), key=lambda name: name == "error")
    table = [[row.get(name) for name in head] for row in rows]
    write_text(folder / "checkpoints.csv", csv_text(head, table))
    write_text(folder / "checkpoints.md", markdown_text(head, table))
