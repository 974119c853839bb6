"""Pictures of curves as SVG text, complete without a script.

Each picture tells its own scales (data-x, data-y: low and high end; data-log), each curve its run and name, so that a
script, or a test, can turn a path's points back into numbers.
"""

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from util.report.curves import Axis, Curve, axis_for, number_text, thin

WIDTH, HEIGHT = 640, 290
LEFT, RIGHT, TOP, BOTTOM = 66, 30, 12, 42  # margins around the plot
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
LABEL_WIDTH, LABEL_HEIGHT = 16, 12
MAX_CROSSES = 50  # a run and curve
COLORS = 8  # of runs; page_style.py has them

# They change the direction or the order of the text around them.
_DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}


def escape(value: object) -> str:
    """Returns text for HTML, in attributes too. What cannot stand there, or would reorder it, is written as \\x1b."""
    text = "".join(_plain(c) for c in str(value))
    return html.escape(text, quote=True)


def _plain(c: str) -> str:
    bad = unicodedata.category(c) in ("Cc", "Cs", "Co") or ord(c) in _DIRECTIONS or ord(c) & 0xFFFE == 0xFFFE
    return c.encode("unicode_escape", "backslashreplace").decode() if bad else c


@dataclass(frozen=True)
class Mark:
    """A vertical line: a place where something happened to a run."""

    run: int
    x: float
    kind: str  # restart or fail
    text: str


@dataclass(frozen=True)
class Picture:
    """What one picture shows. Curves without a single number are left out."""

    title: str
    unit: str  # of y
    curves: Sequence[Curve]
    floor: float | None = None
    ceiling: float | None = None


def draw(picture: Picture, *, names: Sequence[str], x_axis: Axis, marks: Sequence[Mark]) -> str:
    """Returns the picture as an SVG element, or nothing if it has no number to show.

    names: of all runs; their numbers stand at the curves' ends if there are several. x_axis: in epochs, the same for
    all pictures of a page. marks: restarts and failures of all runs.
    """
    curves = [curve for curve in picture.curves if len(curve.finite)]
    if not curves:
        return ""
    values = np.concatenate([curve.finite for curve in curves])
    y_axis = axis_for(values, floor=picture.floor, ceiling=picture.ceiling)
    order = sorted(curves, key=lambda curve: curve.style != "faint")  # the faint ones below
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(picture.title)}" '
        f'data-x="{x_axis.low!r} {x_axis.high!r}" data-y="{y_axis.low!r} {y_axis.high!r}" '
        f'data-log="{int(y_axis.logarithmic)}">',
        _axes(x_axis, y_axis, picture.unit),
        *(_mark(mark, x_axis) for mark in marks),
        *(_path(curve, x_axis, y_axis, names) for curve in order),
        *(_crosses(curve, x_axis) for curve in curves),
        _labels(curves, x_axis, y_axis) if len(names) > 1 else "",
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _left(x_axis: Axis, x: np.ndarray) -> np.ndarray:
    """Returns places from the left, in the picture's units."""
    return LEFT + PLOT_WIDTH * x_axis.place(x)


def _top(y_axis: Axis, y: np.ndarray) -> np.ndarray:
    """Returns places from the top."""
    return TOP + PLOT_HEIGHT * (1 - y_axis.place(y))


def _axes(x_axis: Axis, y_axis: Axis, unit: str) -> str:
    parts = []
    y_ticks, x_ticks = y_axis.ticks(), x_axis.ticks()
    for value, top in zip(y_ticks, _top(y_axis, np.array(y_ticks)), strict=True):
        parts.append(f'<path class="grid" d="M{LEFT},{top:.1f} h{PLOT_WIDTH}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{number_text(value)}</text>')
    for value, left in zip(x_ticks, _left(x_axis, np.array(x_ticks)), strict=True):
        parts.append(f'<path class="tick" d="M{left:.1f},{HEIGHT - BOTTOM} v4"/>')
        parts.append(
            f'<text x="{left:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number_text(value)}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT},{HEIGHT - BOTTOM} h{PLOT_WIDTH}"/>')
    middle = LEFT + PLOT_WIDTH / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">epochs trained</text>')
    name = f"{unit}, logarithmic" if y_axis.logarithmic else unit
    middle = TOP + PLOT_HEIGHT / 2
    parts.append(f'<text transform="translate(13,{middle:.0f}) rotate(-90)" text-anchor="middle">{escape(name)}</text>')
    return "\n".join(parts)


def _mark(mark: Mark, x_axis: Axis) -> str:
    if not x_axis.low <= mark.x <= x_axis.high:
        return ""
    left = _left(x_axis, np.array([mark.x]))[0]
    return (
        f'<path class="{mark.kind} run{mark.run % COLORS}" data-run="{mark.run}" data-at="{mark.x!r}" '
        f'd="M{left:.1f},{TOP} v{PLOT_HEIGHT}"><title>{escape(mark.text)}</title></path>'
    )


def _path(curve: Curve, x_axis: Axis, y_axis: Axis, names: Sequence[str]) -> str:
    x, y = thin(curve.x, curve.y)
    finite = np.isfinite(y)
    left, top = _left(x_axis, x), np.full(len(y), np.nan)
    top[finite] = _top(y_axis, y[finite])
    pieces: list[list[str]] = [[]]
    for i in range(len(x)):
        if finite[i]:
            pieces[-1].append(f"{left[i]:.2f},{top[i]:.2f}")
        elif pieces[-1]:
            pieces.append([])
    # a number between two gaps is a dot: a line of no length with round ends
    d = "".join(f"M{' '.join(piece)}{'h0' if len(piece) == 1 else ''}" for piece in pieces if piece)
    title = f"{names[curve.run]}: {curve.name}" if len(names) > 1 else curve.name
    return (
        f'<path class="curve {curve.style} run{curve.run % COLORS}" data-run="{curve.run}" '
        f'data-name="{escape(curve.name)}" d="{d}"><title>{escape(title)}</title></path>'
    )


def _crosses(curve: Curve, x_axis: Axis) -> str:
    """Returns crosses at the bottom, where a number was logged that is not finite."""
    places = curve.not_finite[:MAX_CROSSES]
    if not len(places):
        return ""
    bottom = HEIGHT - BOTTOM - 6
    d = "".join(f"M{left - 4:.1f},{bottom - 4} l8,8 m-8,0 l8,-8" for left in _left(x_axis, places))
    return (
        f'<path class="cross run{curve.run % COLORS}" data-run="{curve.run}" d="{d}"><title>not finite</title></path>'
    )


def _labels(curves: Sequence[Curve], x_axis: Axis, y_axis: Axis) -> str:
    """Returns the runs' numbers at the ends of their main curves, moved apart where they would overlap."""
    ends = []
    for curve in curves:
        if curve.style == "main":
            last = np.flatnonzero(np.isfinite(curve.y))[-1:]
            ends.append((float(_top(y_axis, curve.y[last])[0]), float(_left(x_axis, curve.x[last])[0]), curve.run))
    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    for top, left, run in sorted(ends):
        for other_top, other_left in taken:
            if abs(left - other_left) < LABEL_WIDTH:
                top = max(top, other_top + LABEL_HEIGHT)
        taken.append((top, left))
        parts.append(f'<text class="end run{run % COLORS}" x="{left + 5:.1f}" y="{top + 4:.1f}">{run + 1}</text>')
    return "\n".join(parts)
