"""Measures this project against its peers, pair by pair, on this machine.

    python -m bench pipeline|train|infer|startup|scan [--json FILE]

The peers have an environment of their own, in which Paddle need not be:

    python3 -m venv .venv-peers && .venv-peers/bin/pip install -r bench/requirements-peers.txt

A comparison whose peer is not installed is left out, with a word. Each pair is measured by turns; what is told is the
median. Bars are drawn into output/bench, after every comparison anew. Nothing else should run meanwhile. On two cores
`startup` and `pipeline` take two minutes, `scan` three, `train` six and `infer` fifteen.
"""

import argparse
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from bench import comparisons
from bench.comparison import Comparison, Result, compare
from bench.machine import describe, versions
from bench.report import draw, print_results, write_json
from bench.side import ROOT, SideError
from util.errors import MissingInputError, OutputError, UsageError, run_script

KINDS = {
    "pipeline": comparisons.pipeline,
    "train": comparisons.train,
    "infer": comparisons.infer,
    "startup": comparisons.startup,
    "scan": comparisons.scan,
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there")
    parser.add_argument(
        "--charts", metavar="FOLDER", type=Path, default=ROOT / "output/bench",
        help="draw <what>.png there (default output/bench); needs matplotlib",
    )  # fmt: skip
    parser.add_argument(
        "--only",
        metavar="TEXT",
        default="",
        help="comparisons of whose `name against peer` this regular expression finds a part",
    )
    parser.add_argument("--pairs", type=int, default=5, help="of measurements, at least 1")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    parser.add_argument(
        "--peers",
        metavar="PYTHON",
        default=str(ROOT / ".venv-peers/bin/python"),
        help="interpreter of the peers' environment (default .venv-peers/bin/python)",
    )
    return parser.parse_args(argv)


def choose(what: str, only: str, *, peers: str, threads: int) -> list[Comparison]:
    """Returns the comparisons of a kind of whose `name against peer` the regular expression `only` finds a part."""
    given = KINDS[what](peers, threads=threads)
    names = [f"{comparison.name} against {comparison.peer_name}" for comparison in given]
    try:
        chosen = [comparison for comparison, name in zip(given, names, strict=True) if re.search(only, name)]
    except re.error as error:
        raise UsageError(f"--only {only!r} is no regular expression: {error}") from None
    if not chosen:
        raise UsageError("--only finds none of these: " + "; ".join(names))
    return chosen


class Outputs:
    """Where results are stored: a list of rows, and a chart where matplotlib is installed."""

    def __init__(self, what: str, json_file: Path | None, charts: Path) -> None:
        self._json_file, self._title = json_file, f"python -m bench {what}"
        self._chart: Path | None = charts / f"{what}.png"
        if importlib.util.find_spec("matplotlib") is None:
            print("no chart: matplotlib is not installed")
            self._chart = None
        for path in (self._json_file, self._chart):
            if path is not None:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise OutputError(f"{path}: cannot be written: {error.strerror}") from None

    def store(self, results: Sequence[Result]) -> None:
        """Writes what has been measured so far in the place of what was there."""
        try:
            if self._json_file is not None:
                write_json(results, self._json_file)
            if self._chart is not None:
                draw(results, self._chart, title=self._title)
        except OSError as error:
            raise OutputError(f"{error.filename}: cannot be written: {error.strerror}") from None


def measure(given: Sequence[Comparison], *, installed: dict[str, str], pairs: int, outputs: Outputs) -> list[Result]:
    """Measures one comparison after another; says which are left out, and why."""
    results = []
    for comparison in given:
        if comparison.needs is not None and comparison.needs not in installed:
            print(f"left out: {comparison.name} against {comparison.peer_name}: {comparison.needs} is not installed")
            continue
        try:
            results.append(compare(comparison, pairs=pairs))
        except SideError as error:
            print(f"left out: {comparison.name} against {comparison.peer_name}: {error}")
            continue
        print_results(results[-1:])
        outputs.store(results)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    if arguments.pairs < 1 or arguments.threads < 1:
        raise UsageError("--pairs and --threads are at least 1")
    given = choose(arguments.what, arguments.only, peers=arguments.peers, threads=arguments.threads)
    outputs = Outputs(arguments.what, arguments.json, arguments.charts)
    peers = arguments.peers if Path(arguments.peers).exists() else None
    if peers is None:
        print(f"no peers: {arguments.peers} is not there; python -m bench --help says how to install them")
    print(describe(peers, threads=arguments.threads), flush=True)
    installed = {} if peers is None else versions(peers, comparisons.PEER_PACKAGES)
    results = measure(given, installed=installed, pairs=arguments.pairs, outputs=outputs)
    if not results:
        raise MissingInputError("nothing was measured, for the reasons above")
    if len(results) > 1:
        print()
        print_results(results)


if __name__ == "__main__":
    run_script(main)
