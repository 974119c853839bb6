"""Draws the demo's report: curves of the training, confusion matrix, and held-out pictures with the model's answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

SIZE = (1600, 1000)  # width, height in pixels
GRID = (4, 12)  # rows, columns of pictures
DPI = 100

BLUE, RED, INK, GREY, LINE = "#2563a8", "#c62828", "#1c2430", "#5b6572", "#d5dae0"

EpochLine = Mapping[str, float]  # a line of log.txt


@dataclass(frozen=True)
class Answer:
    """A held-out picture and the class that the model gives it."""

    pixels: np.ndarray  # uint8 (H, W)
    truth: int
    predicted: int
    score: float  # probability of `predicted`, in [0, 1]

    @property
    def wrong(self) -> bool:
        return self.predicted != self.truth


def confusion_matrix(answers: Sequence[Answer], num_classes: int) -> np.ndarray:
    """Returns how many pictures of each true class (row) got each class (column): int64 (K, K)."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, ([a.truth for a in answers], [a.predicted for a in answers]), 1)
    return counts


def in_order_of_interest(answers: Sequence[Answer]) -> list[Answer]:
    """Returns the wrong answers, the surest first, then the right ones, the least sure first."""
    return sorted(answers, key=lambda a: (not a.wrong, -a.score if a.wrong else a.score))


def draw_report(
    epochs: Sequence[EpochLine],
    answers: Sequence[Answer],
    class_names: Sequence[str],
    *,
    title: str,
    subtitle: str,
) -> Figure:
    """Returns the report as a figure of SIZE pixels.

    epochs: the lines of log.txt. class_names: short, such as the digits themselves; they name rows and columns.
    """
    figure = Figure(figsize=(SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, facecolor="white")
    figure.text(0.04, 0.953, title, fontsize=20, fontweight="bold", color=INK)
    figure.text(0.04, 0.922, subtitle, fontsize=12.5, color=GREY)
    top = figure.add_gridspec(1, 3, left=0.04, right=0.975, top=0.855, bottom=0.625, wspace=0.16)
    _draw_loss(figure.add_subplot(top[0]), epochs)
    _draw_top1(figure.add_subplot(top[1]), epochs)
    _draw_learning_rate(figure.add_subplot(top[2]), epochs)
    bottom = figure.add_gridspec(1, 2, left=0.04, right=0.975, top=0.51, bottom=0.06, width_ratios=(1, 2), wspace=0.08)
    _draw_confusion(figure.add_subplot(bottom[0]), confusion_matrix(answers, len(class_names)), class_names)
    _draw_pictures(figure.add_subplot(bottom[1]), answers, class_names)
    return figure


def save_report(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG."""
    figure.savefig(path, dpi=DPI, format="png")


def _head(axes: Any, title: str, note: str) -> None:
    """Puts a panel's title, and a line that explains it, above its left edge."""
    axes.annotate(title, (0, 1), (0, 23), xycoords="axes fraction", textcoords="offset points",
                  fontsize=13, fontweight="bold", color=INK)  # fmt: skip
    axes.annotate(note, (0, 1), (0, 8), xycoords="axes fraction", textcoords="offset points",
                  fontsize=10.5, color=GREY)  # fmt: skip


def _style_curves(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=GREY, labelsize=10.5, length=0)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.03, y=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch", fontsize=10.5, color=GREY)


def _curve(axes: Any, epochs: Sequence[EpochLine], values: Sequence[float], colour: str, label: str = "") -> None:
    """Draws a value by epoch; epochs count from 1."""
    numbers = [int(line["epoch"]) + 1 for line in epochs]
    axes.plot(numbers, values, color=colour, linewidth=2, marker="o", markersize=4, label=label, clip_on=False)


def _draw_loss(axes: Any, epochs: Sequence[EpochLine]) -> None:
    _curve(axes, epochs, [line["train_loss"] for line in epochs], BLUE, "training")
    _curve(axes, epochs, [line["test_loss"] for line in epochs], RED, "held out")
    axes.legend(frameon=False, fontsize=10.5, labelcolor=INK, loc="upper right")
    _style_curves(axes)
    _head(axes, "Loss", "training: of augmented pictures, smoothed labels")


def _draw_top1(axes: Any, epochs: Sequence[EpochLine]) -> None:
    _curve(axes, epochs, [line["test_acc1"] for line in epochs], RED)
    _style_curves(axes)
    last = epochs[-1]
    axes.text(0.97, 0.1, f"{last['test_acc1']:.2f} % in the last epoch", transform=axes.transAxes, ha="right",
              fontsize=12, fontweight="bold", color=RED, bbox={"facecolor": "white", "edgecolor": "none"})  # fmt: skip
    _head(axes, "Top-1", "percent of the held-out pictures; the last epoch counts")


def _draw_learning_rate(axes: Any, epochs: Sequence[EpochLine]) -> None:
    _curve(axes, epochs, [1000 * line["train_lr"] for line in epochs], BLUE)
    _style_curves(axes)
    axes.set_ylim(bottom=0)
    _head(axes, "Learning rate", "in thousandths, at the end of each epoch")


def _draw_confusion(axes: Any, counts: np.ndarray, class_names: Sequence[str]) -> None:
    """Right answers in blue, wrong ones in red; deeper with the count, each colour on its own scale."""
    size = len(class_names)
    right = np.eye(size, dtype=bool)
    colours = np.ones((size, size, 3))
    for part, colour, least in ((right, (37, 99, 168), 0.15), (~right, (198, 40, 40), 0.35)):
        depth = np.where(counts > 0, least + (0.85 - least) * counts / max(1, counts[part].max()), 0.0)[..., None]
        colours = np.where(part[..., None], 1 - depth * (1 - np.array(colour) / 255), colours)
    axes.imshow(colours)
    for row, column in zip(*np.nonzero(counts), strict=True):
        dark = colours[row, column].mean() < 0.62
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=11.5,
                  color="white" if dark else INK)  # fmt: skip
    axes.set_xticks(range(size), class_names)
    axes.set_yticks(range(size), class_names)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=LINE, linewidth=0.8)
    axes.tick_params(which="both", length=0, labelsize=11.5, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_anchor("W")
    axes.set_xlabel("predicted", fontsize=10.5, color=GREY)
    axes.set_ylabel("true", fontsize=10.5, color=GREY)
    _head(axes, "Confusion matrix", "held-out pictures; blue right, red wrong")


def _draw_pictures(axes: Any, answers: Sequence[Answer], class_names: Sequence[str]) -> None:
    """Draws the first pictures in order of interest on a grid of cells 1 wide and 1.38 high."""
    rows, columns = GRID
    height, side = 1.38, 0.8
    for place, answer in enumerate(in_order_of_interest(answers)[: rows * columns]):
        x, y = place % columns, place // columns * height
        axes.imshow(answer.pixels, cmap="gray", vmin=0, vmax=255, extent=(x, x + side, y + side, y))
        caption = f"{class_names[answer.predicted]}   {answer.score:.2f}"
        if answer.wrong:
            axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=RED, linewidth=3.5))
            caption += f"\ntrue: {class_names[answer.truth]}"
        axes.text(x + side / 2, y + side + 0.06, caption, ha="center", va="top", fontsize=11, linespacing=1.1,
                  color=RED if answer.wrong else INK, fontweight="bold" if answer.wrong else "normal")  # fmt: skip
    axes.set_xlim(-0.02, columns - 1 + side + 0.02)
    axes.set_ylim(rows * height, -0.02)
    axes.set_aspect("equal")
    axes.set_anchor("NW")
    axes.axis("off")
    _head(axes, "Held-out pictures: predicted class and score", _explain_pictures(answers))


def _explain_pictures(answers: Sequence[Answer]) -> str:
    wrong, places = sum(a.wrong for a in answers), GRID[0] * GRID[1]
    right = len(answers) - wrong
    if wrong == 0:
        return f"all {right} are right; the least sure first"
    if wrong >= places:
        return f"in red the {places} surest of {wrong} wrong answers; {right} are right"
    return f"in red all {wrong} wrong answers, the surest first; then the least sure of {right} right ones"
