"""Results as a table, as JSON, and as a chart."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.comparison import Result
from util.tables import table_text


def print_results(results: Sequence[Result]) -> None:
    """Prints a line a comparison: medians, the ratio with its smallest and largest value, the bar."""
    lines = [["what", "ours", "peer", "theirs", "ratio", "of the pairs", "bar"]]
    for result in results:
        row, ratios = result.row(), result.ratios
        bar = "" if result.bar is None else f"{result.bar:g}{'' if result.ratio >= result.bar else ' missed'}"
        lines.append([
            str(row["name"]), f"{row['ours']:.4g}", result.peer_name, f"{row['peer']:.4g}", f"{result.ratio:.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}", bar,
        ])  # fmt: skip
    print(table_text(lines, "<><>>>>"))


def write_json(results: Sequence[Result], path: Path) -> None:
    """Writes the list of rows."""
    path.write_text(json.dumps([result.row() for result in results], indent=2) + "\n", encoding="utf-8")


def draw(results: Sequence[Result], path: Path, *, title: str) -> None:
    """Draws the ratios as bars, with each pair as a dot and what is aimed at as a mark. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9.0, 1.2 + 0.45 * len(results)), layout="constrained")
    for place, result in enumerate(results):
        good = result.bar is None or result.ratio >= result.bar
        axes.barh(place, result.ratio, height=0.6, color="#4477aa" if good else "#cc6677")
        axes.plot(result.ratios, [place] * len(result.ratios), ".", color="black", markersize=4)
        if result.bar is not None:
            axes.plot([result.bar] * 2, [place - 0.38, place + 0.38], color="black", linewidth=1.5)
        axes.annotate(f" {result.ratio:.2f}", (max(result.ratios), place), va="center")
    axes.set_yticks(
        range(len(results)), [f"{result.name}\nagainst {result.peer_name}" for result in results], fontsize=8
    )
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.set_xlabel("times as fast as the peer; a stroke is what is aimed at, a dot a pair")
    axes.set_title(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
