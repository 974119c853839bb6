"""Curves and their axes: which points are drawn, and where the ticks are."""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

MAX_POINTS = 2000


@dataclass(frozen=True)
class Curve:
    """One line of a picture. A y that is not finite is a gap."""

    run: int
    name: str  # what it is, besides the run
    x: np.ndarray  # float64 (N,), increasing
    y: np.ndarray  # float64 (N,)
    style: str = "main"  # main, dashed or faint
    not_finite: np.ndarray = field(default_factory=lambda: np.empty(0))  # the x where NaN or infinity was logged

    @property
    def finite(self) -> np.ndarray:
        """The y that are numbers, float64."""
        return self.y[np.isfinite(self.y)]


def thin(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most `limit` of the points, float64 (N,) each: all if they are few enough.

    Otherwise, of each of limit / 3 parts of equal length, the lowest, the highest and a gap, if there are any; so
    neither an extreme nor a NaN is lost. The first and the last point stay.
    """
    if len(x) <= limit:
        return x, y
    finite = np.isfinite(y)
    low, high = np.where(finite, y, np.inf), np.where(finite, y, -np.inf)
    edges = np.linspace(0, len(x), max(1, (limit - 2) // 3) + 1).astype(np.int64)
    kept = [0, len(x) - 1]
    for begin, end in itertools.pairwise(edges):
        kept += [begin + int(low[begin:end].argmin()), begin + int(high[begin:end].argmax())]
        if not finite[begin:end].all():
            kept.append(begin + int(finite[begin:end].argmin()))
    places = np.unique(kept)
    return x[places], y[places]


def ticks(low: float, high: float, *, count: int = 7) -> list[float]:
    """Returns round numbers from low to high, about `count`, a step of 1, 2 or 5 times a power of 10 apart."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.99)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of 10 from low to high, both positive; where they are fewer than 3, also twice and five times."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(found) < 3:
        found = [f * 10.0**power for power in powers for f in (1, 2, 5) if low <= f * 10.0**power <= high]
    return found[:: max(1, len(found) // 8)]


@dataclass(frozen=True)
class Axis:
    """From numbers to places on one side of a picture."""

    low: float
    high: float
    logarithmic: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Returns where values are, float64 of the same shape: 0 at the low end, 1 at the high one."""
        if self.logarithmic:
            return (np.log10(values) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (values - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Returns the numbers to write beside it."""
        return log_ticks(self.low, self.high) if self.logarithmic else ticks(self.low, self.high)


def axis_for(values: np.ndarray, *, floor: float | None = None, ceiling: float | None = None) -> Axis:
    """Returns an axis on which all values fit, float64 (N,), N > 0, finite.

    floor, ceiling: where the room that is left below and above must end. Positive values of which the largest is a
    hundred times the median get a logarithmic axis: one spike would make all others a straight line.
    """
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 100 * float(np.median(values)):
        return Axis(low / 1.2, high * 1.2, logarithmic=True)
    room = (high - low) * 0.05 if high - low > 1e-9 * max(abs(low), abs(high)) else abs(high) * 0.05 or 0.5
    below = low - room if floor is None or low < floor else max(low - room, floor)
    above = high + room if ceiling is None or high > ceiling else min(high + room, ceiling)
    return Axis(below, above)


def number_text(value: float) -> str:
    """Returns a tick as text: 0.001, 12.5, 3,000, 2e-05, 4.1e7."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 1e-4 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return f"{value:.3g}"
