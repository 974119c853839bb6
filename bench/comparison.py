"""Two sides, measured by turns, and what becomes of the figures."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

FEWER_IS_BETTER = ("s", "GB", "launches")


class Side(Protocol):
    """What is measured: each call of `measure` returns one figure."""

    def measure(self) -> float: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ours against a peer.

    unit: of the figures, `images/s`, or one of FEWER_IS_BETTER. bar: the ratio that is aimed at, or None for
    what is only reported. needs: a module of the peers' environment without which the comparison is left out.
    """

    name: str
    unit: str
    ours: Callable[[], Side]
    peer_name: str
    peer: Callable[[], Side]
    bar: float | None
    needs: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of a comparison, pair by pair. A ratio above 1 means that ours is better."""

    name: str
    unit: str
    peer_name: str
    bar: float | None
    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Returns each pair's ratio."""
        pairs = zip(self.ours, self.peer, strict=True)
        return [peer / ours if self.unit in FEWER_IS_BETTER else ours / peer for ours, peer in pairs]

    @property
    def ratio(self) -> float:
        """Returns the median of the pairs' ratios."""
        return statistics.median(self.ratios)

    def row(self) -> dict[str, str | float | None]:
        """Returns the result as an object of the JSON file; figures are medians."""
        return {
            "name": f"{self.name} ({self.unit})",
            "ours": statistics.median(self.ours),
            "peer_name": self.peer_name,
            "peer": statistics.median(self.peer),
            "ratio": self.ratio,
            "bar": self.bar,
        }


def compare(comparison: Comparison, *, pairs: int) -> Result:
    """Measures both sides by turns, A B A B: what disturbs the machine then disturbs both."""
    ours = comparison.ours()
    try:
        peer = comparison.peer()
        try:
            figures = [(ours.measure(), peer.measure()) for _ in range(pairs)]
        finally:
            peer.close()
    finally:
        ours.close()
    return Result(
        name=comparison.name,
        unit=comparison.unit,
        peer_name=comparison.peer_name,
        bar=comparison.bar,
        ours=tuple(pair[0] for pair in figures),
        peer=tuple(pair[1] for pair in figures),
    )
