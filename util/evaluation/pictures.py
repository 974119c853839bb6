"""Draws an evaluation: confusion matrix, reliability diagram, accuracy by class. Needs matplotlib."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import MaxNLocator

from util.evaluation.statistics import Calibration, ClassStatistics

DPI = 120
MAX_CLASSES = 40  # a confusion matrix of more shows the most confused ones
SHOWN_CLASSES = 30
WORST_CLASSES = 25
NAME_LENGTH = 26  # characters of a class name
BINS = 20  # of top-1 by class

# Chinese, Japanese and Korean names, on Linux, Windows and macOS.
MORE_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei", "PingFang SC")

BLUE, RED, INK, GREY, LINE = "#2563a8", "#c62828", "#1c2430", "#5b6572", "#d5dae0"
TEXT, LINE_HEIGHT = 9.5, 14  # points


def short_name(name: str) -> str:
    """Returns a class name as it is drawn: the first of several, cut to `NAME_LENGTH`, without what matplotlib reads.

    Control characters, and bytes of a folder's name that are not UTF-8, become what can be drawn.
    """
    text = " ".join(name.partition(",")[0].encode("utf-8", "backslashreplace").decode().split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    text = text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"
    return text.replace("$", r"\$")  # two of them would be mathematics


def fonts() -> list[str]:
    """Returns matplotlib's own font, and those installed here that know the characters that it does not."""
    installed = set(get_font_names())
    return ["DejaVu Sans", *(font for font in MORE_FONTS if font in installed)]


def save_picture(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, cut to what is drawn. A character that no font knows is drawn as a box."""
    with rc_context({"font.sans-serif": fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=DPI, format="png", bbox_inches="tight", pad_inches=0.3)


def _head(axes: Any, title: str, *notes: str) -> None:
    """Puts a panel's title, and lines that explain it, above its left edge."""
    for line, note in enumerate(reversed(notes)):
        axes.annotate(note, (0, 1), (0, 9 + LINE_HEIGHT * line), xycoords="axes fraction", textcoords="offset points",
                      fontsize=TEXT, color=GREY)  # fmt: skip
    axes.annotate(title, (0, 1), (0, 11 + LINE_HEIGHT * len(notes)), xycoords="axes fraction",
                  textcoords="offset points", fontsize=13, fontweight="bold", color=INK)  # fmt: skip


def _style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=GREY, labelsize=TEXT, length=0)


def _lines(axes: Any) -> None:
    """Draws a line at each value of the y axis."""
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def most_confused(pairs: np.ndarray, limit: int) -> np.ndarray:
    """Returns up to `limit` classes, sorted int64: those of the pairs with the most mistakes, both ways together.

    pairs: int64 (P, 3) of true, predicted, images.
    """
    mistakes = pairs[pairs[:, 0] != pairs[:, 1]]
    both = np.sort(mistakes[:, :2], axis=1)
    unordered, place = np.unique(both, axis=0, return_inverse=True)
    counts = np.bincount(place.reshape(-1), weights=mistakes[:, 2], minlength=len(unordered))
    chosen: set[int] = set()
    for row in np.argsort(-counts, kind="stable"):
        wider = chosen | set(unordered[row].tolist())
        if len(wider) > limit:
            break
        chosen = wider
    return np.array(sorted(chosen), np.int64)


def draw_confusion(pairs: np.ndarray, class_ids: np.ndarray, class_names: Sequence[str], *, subtitle: str) -> Figure:
    """Returns the confusion matrix; of more than `MAX_CLASSES` classes, that of the most confused ones.

    pairs: int64 (P, 3) of true, predicted, images. class_ids: all classes, sorted int64.
    """
    num_classes, notes = len(class_ids), [subtitle, "blue right, red wrong"]
    if num_classes > MAX_CLASSES:
        shown = most_confused(pairs, SHOWN_CLASSES)
        if not len(shown):
            shown = class_ids[:SHOWN_CLASSES]
        notes.insert(1, f"the {len(shown)} of {num_classes:,} classes with the most mistakes between two of them")
        class_ids = shown
    inside = np.isin(pairs[:, :2], class_ids).all(axis=1)
    counts = np.zeros((len(class_ids), len(class_ids)), np.int64)
    rows, columns = (np.searchsorted(class_ids, pairs[inside, i]) for i in (0, 1))
    counts[rows, columns] = pairs[inside, 2]
    side = max(2.4, min(0.9, max(0.36, 5.5 / len(class_ids))) * len(class_ids))  # inches
    figure = Figure(figsize=(side + 2.2, side + 2.2), facecolor="white")
    left, bottom = 2.0 / (side + 2.2), 1.5 / (side + 2.2)
    axes = figure.add_axes((left, bottom, side / (side + 2.2), side / (side + 2.2)))
    _draw_counts(axes, counts, [short_name(class_names[i]) for i in class_ids])
    _head(axes, "Confusion matrix", *notes)
    return figure


def _draw_counts(axes: Any, counts: np.ndarray, names: Sequence[str]) -> None:
    """Right answers in blue, wrong ones in red; deeper with the count, each colour on its own scale."""
    size = len(names)
    right = np.eye(size, dtype=bool)
    colours = np.ones((size, size, 3))
    for part, colour, least in ((right, (37, 99, 168), 0.15), (~right, (198, 40, 40), 0.35)):
        most = max(1, counts[part].max(initial=0))
        depth = np.where(counts > 0, least + (0.85 - least) * counts / most, 0.0)[..., None]
        colours = np.where(part[..., None], 1 - depth * (1 - np.array(colour) / 255), colours)
    axes.imshow(colours)
    size_of_text = 11.0 if size <= 12 else 7.5
    for row, column in zip(*np.nonzero(counts), strict=True):
        dark = colours[row, column].mean() < 0.62
        axes.text(column, row, _short_count(int(counts[row, column])), ha="center", va="center", fontsize=size_of_text,
                  color="white" if dark else INK)  # fmt: skip
    upright = max(map(len, names)) > 3
    axes.set_xticks(range(size), names, rotation=90 if upright else 0)
    axes.set_yticks(range(size), names)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=LINE, linewidth=0.8)
    axes.tick_params(which="both", length=0, labelsize=TEXT, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", fontsize=TEXT, color=GREY)
    axes.set_ylabel("true", fontsize=TEXT, color=GREY)


def _short_count(count: int) -> str:
    """Four characters at most: 9999, 12k, 3M."""
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 999_500 else f"{count / 1e6:.0f}M"


def draw_calibration(found: Calibration, *, subtitle: str) -> Figure:
    """Returns the reliability diagram over the histogram of confidences."""
    figure = Figure(figsize=(6.6, 8.2), facecolor="white")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1), gridspec_kw={"hspace": 0.5})
    width, lows = np.diff(found.edges), found.edges[:-1]
    full = found.images > 0
    accuracy, confidence = found.accuracy[full], found.confidence[full]
    above.bar(lows[full], accuracy, width[full], align="edge", color=BLUE, alpha=0.75, edgecolor="white",
              label="accuracy")  # fmt: skip
    above.bar(lows[full], confidence - accuracy, width[full], bottom=accuracy, align="edge", facecolor="none",
              edgecolor=RED, hatch="///", linewidth=0.8, label="distance to confidence")  # fmt: skip
    above.plot((0, 100), (0, 100), color=GREY, linewidth=1, linestyle="--", label="accuracy = confidence")
    above.set_xlim(0, 100)
    above.set_ylim(0, 100)
    above.set_ylabel("accuracy in percent", fontsize=TEXT, color=GREY)
    above.legend(frameon=False, fontsize=TEXT, labelcolor=INK, loc="upper left", bbox_to_anchor=(-0.02, -0.01), ncols=3)
    _style(above)
    _lines(above)
    _head(above, f"Calibration: expected calibration error {found.ece:.2f} %", subtitle)
    below.bar(lows, 100 * found.images / found.images.sum(), width, align="edge", color=BLUE, alpha=0.75,
              edgecolor="white")  # fmt: skip
    below.set_ylabel("images in percent", fontsize=TEXT, color=GREY)
    below.set_xlabel("confidence (score of the best class) in percent", fontsize=TEXT, color=GREY)
    _style(below)
    _lines(below)
    _head(below, "Confidences", f"{len(lows)} bins of equal width; the error is the mean distance over images")
    return figure


def draw_per_class(statistics: ClassStatistics, class_names: Sequence[str], *, subtitle: str) -> Figure:
    """Returns how top-1 is distributed over the classes, and the classes with the lowest."""
    tested = np.flatnonzero(statistics.images > 0)
    worst = tested[np.argsort(statistics.top1[tested], kind="stable")][:WORST_CLASSES]
    high = 0.27 * len(worst) + 0.3  # inches
    total = high + 5.2
    figure = Figure(figsize=(9.6, total), facecolor="white")
    above = figure.add_axes((0.24, 1 - 3.1 / total, 0.7, 2.3 / total))
    below = figure.add_axes((0.24, 0.7 / total, 0.7, high / total))
    above.hist(statistics.top1[tested], bins=np.linspace(0, 100, BINS + 1).tolist(), color=BLUE, alpha=0.75,
               edgecolor="white")  # fmt: skip
    above.set_xlim(0, 100)
    above.set_xlabel("top-1 of the class in percent", fontsize=TEXT, color=GREY)
    above.set_ylabel("classes", fontsize=TEXT, color=GREY)
    above.yaxis.set_major_locator(MaxNLocator(integer=True))
    _style(above)
    _lines(above)
    _head(above, f"Top-1 of {len(tested):,} classes", subtitle)
    _draw_worst(below, statistics, worst, class_names)
    title = "The lowest" if len(worst) < len(tested) else "Every class, the lowest first"
    _head(below, title, "top-1, and after the arrow the wrong class that its images got most often")
    return figure


def _draw_worst(axes: Any, statistics: ClassStatistics, rows: np.ndarray, class_names: Sequence[str]) -> None:
    top1 = statistics.top1[rows]
    axes.barh(range(len(rows)), top1, color=BLUE, alpha=0.75, height=0.72)
    axes.set_yticks(range(len(rows)), [short_name(class_names[statistics.class_ids[i]]) for i in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    for place, i in enumerate(rows):
        text, other = f"{statistics.top1[i]:.1f} %", int(statistics.confused_with[i])
        if other >= 0:
            many = f"{statistics.confused_images[i]:,} of {statistics.images[i]:,}"
            text += f"  → {short_name(class_names[other])} ({many})"
        inside = statistics.top1[i] > 50
        axes.text(statistics.top1[i] + (-1 if inside else 1), place, text, ha="right" if inside else "left",
                  va="center", fontsize=TEXT - 1, color="white" if inside else INK)  # fmt: skip
    _style(axes)
    axes.tick_params(axis="y", colors=INK)
