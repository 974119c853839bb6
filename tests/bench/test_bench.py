"""What becomes of the figures of two sides, and which comparisons are made. The sides here are lists of figures."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import KINDS, Outputs, choose, main, measure
from bench.comparison import Comparison, Result, Side, compare
from bench.side import Served, SideError
from util.errors import OutputError, UsageError


class Figures:
    """A side that gives one figure after the other, and notes the order."""

    def __init__(self, name: str, figures: list[float], order: list[str]) -> None:
        self._name, self._figures, self._order = name, iter(figures), order

    def measure(self) -> float:
        self._order.append(self._name)
        return next(self._figures)

    def close(self) -> None:
        self._order.append(f"{self._name} closed")


def comparison(
    ours: list[float], peer: list[float], order: list[str], *, unit: str = "images/s", bar: float | None = None
) -> Comparison:
    def side(name: str, figures: list[float]) -> Callable[[], Side]:
        return lambda: Figures(name, figures, order)

    return Comparison(
        name="loading", unit=unit, ours=side("A", ours), peer_name="them", peer=side("B", peer), bar=bar,
        needs="numpy" if unit == "s" else None,
    )  # fmt: skip


def test_sides_are_measured_by_turns_and_closed() -> None:
    order: list[str] = []
    result = compare(comparison([1, 2, 3], [4, 5, 6], order), pairs=3)
    assert order == ["A", "B", "A", "B", "A", "B", "B closed", "A closed"]
    assert (result.ours, result.peer) == ((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(("unit", "expected"), [("images/s", [2.0, 3.0, 0.5]), ("s", [0.5, 1 / 3, 2.0])])
def test_a_ratio_above_one_is_ours_whatever_the_unit(unit: str, expected: list[float]) -> None:
    result = compare(comparison([2, 3, 1], [1, 1, 2], [], unit=unit), pairs=3)
    assert result.ratios == pytest.approx(expected)
    assert result.ratio == pytest.approx(sorted(expected)[1]), "the median of the ratios, not a ratio of medians"
    assert compare(comparison([2, 3, 1], [1, 1, 2], [], unit="GB"), pairs=3).ratio == pytest.approx(0.5)


def test_rows_and_the_chart_are_stored_after_every_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    outputs = Outputs("scan", tmp_path / "json/rows.json", tmp_path / "charts")
    given = [comparison([2.0], [1.0], [], bar=3.0), comparison([2.0], [1.0], [], unit="s")]
    results = measure(given, installed={}, pairs=1, outputs=outputs)
    assert len(results) == 1
    printed = capsys.readouterr().out
    assert "left out: loading against them: numpy is not installed" in printed
    assert "3 missed" in printed
    assert json.loads((tmp_path / "json/rows.json").read_text()) == [
        {"name": "loading (images/s)", "ours": 2.0, "peer_name": "them", "peer": 1.0, "ratio": 2.0, "bar": 3.0}
    ]
    assert (tmp_path / "charts/scan.png").read_bytes().startswith(b"\x89PNG")
    assert len(measure(given, installed={"numpy": "2"}, pairs=1, outputs=outputs)) == 2


def test_a_side_that_ends_or_talks_is_an_error(tmp_path: Path) -> None:
    for code in ("import sys; sys.exit(3)", "print('hello')"):
        (tmp_path / "side.py").write_text(code)
        with pytest.raises(SideError, match=r"ended with 3|said 'hello' instead of a figure"):
            Served(sys.executable, str(tmp_path / "side.py"), ())


@pytest.mark.parametrize("what", KINDS)
def test_all_comparisons_have_names_of_their_own_and_are_found_by_them(what: str) -> None:
    given = choose(what, "", peers="python", threads=2)
    names = [(one.name, one.peer_name, one.unit) for one in given]
    assert len(set(names)) == len(names) > 1
    [found] = choose(what, f"^{given[0].name} against {given[0].peer_name}$".replace("(", "."), peers="", threads=2)
    assert found.name == given[0].name


@pytest.mark.parametrize(("only", "message"), [("zzz", "finds none of these: "), ("(", "is no regular expression")])
def test_what_finds_nothing_is_refused(only: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose("scan", only, peers="", threads=2)


def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        Outputs("scan", Path("/dev/null/rows.json"), tmp_path)
    outputs = Outputs("scan", tmp_path, tmp_path / "charts")
    result = Result(name="x", unit="s", peer_name="y", bar=None, ours=(1.0,), peer=(1.0,))
    with pytest.raises(OutputError, match="Is a directory"):
        outputs.store([result])


def test_without_peers_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from util.errors import MissingInputError

    arguments = ["train", "--only", "compiled", "--peers", str(tmp_path / "none"), "--charts", str(tmp_path)]
    with pytest.raises(MissingInputError, match="nothing was measured"):
        main(arguments)
    assert f"no peers: {tmp_path / 'none'} is not there" in capsys.readouterr().out


def test_the_command_prints_one_line_for_a_wrong_number() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "scan", "--pairs", "0"], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "error: --pairs and --threads are at least 1\n")
