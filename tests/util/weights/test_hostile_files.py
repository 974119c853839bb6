"""No weights file can run code, exhaust memory or time: every hostile file ends in one clear error.

tests/hostile_pickles.py and tests/hostile_files.py build them. All are read by one child process (read_hostile.py),
whose audit hook sees each process, socket, import, compilation and opened file.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile_files import DAMAGED, REFUSED, cuts, flips, good_files

ROOT = Path(__file__).parents[3]
MAX_SECONDS = 2.0  # of processor time; a file that waited for ever would run into the child's timeout
GOOD = good_files()
CONTROLS = ["os.system, protocol 2", "an extension code, opcode 130", "an array of pickles"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the child saw, by the name of the case; those of cut and changed files have a slash in it."""
    folder = tmp_path_factory.mktemp("hostile")
    names: dict[str, str] = {}
    for name, content in all_files():
        names[str(len(names))] = name
        (folder / f"{len(names) - 1}.hostile").write_bytes(content)
    for i, content in enumerate(GOOD.values()):
        (folder / f"{i}.warm").write_bytes(content)
    for i, name in enumerate(CONTROLS):
        (folder / f"control {i}.control").write_bytes(REFUSED[name]())
    run = subprocess.run(
        [sys.executable, "-m", "tests.util.weights.read_hostile", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    found = {names.get(line["name"], line["name"]): line for line in lines}
    for stem, name in names.items():
        found[name]["size"] = (folder / f"{stem}.hostile").stat().st_size
    return found


def all_files() -> Iterable[tuple[str, bytes]]:
    for cases in (REFUSED, DAMAGED):
        yield from ((name, build()) for name, build in cases.items())
    for name, content in GOOD.items():
        yield from ((f"{name}/{how}", changed) for how, changed in (*cuts(content, 60), *flips(content, 150)))


def assert_harmless(result: dict[str, Any]) -> None:
    assert result["events"] == []
    assert result["seconds"] < MAX_SECONDS * result["slowness"], result
    assert result["growth"] < 2 * result["size"] + (100 << 20), result
    assert result["message"].count("\n") == 0
    assert len(result["message"]) < 800


@pytest.mark.parametrize("name", REFUSED)
def test_what_asks_for_more_than_data_is_refused(results: dict[str, dict[str, Any]], name: str) -> None:
    assert_harmless(results[name])
    assert results[name]["code"] == 77, results[name]
    assert "refused" in results[name]["message"]


@pytest.mark.parametrize("name", DAMAGED)
def test_what_lies_is_damaged(results: dict[str, dict[str, Any]], name: str) -> None:
    assert_harmless(results[name])
    assert results[name]["code"] == 65, results[name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("two million steps", "more than 400000 steps"),
        ("LONG1 of 255 bytes", "an integer of 255 bytes, expected at most 9"),
        ("a deep tuple as a key", "a key of type tuple"),
        ("tuples of a long list, again and again", "makes a tuple of something else than one"),
        ("a call with a list", "a call of something that is no function"),
        ("10 MB in one array, named 1000 times", "its tensors claim 10010000000 bytes"),
        ("10^12 elements with stride 0", "does not lie within the 4 elements stored"),
        ("entries that lie on each other", "claim 80000000 bytes"),
        ("60,000 entries", "more than 50000 entries"),
        ("a compressed archive of 50 MB of zeros", "compressed or encrypted"),
        ("an entry without a checksum", "has no checksum"),
        ("an entry above its folder", "the name of a place outside"),
        ("an entry at the root", "the name of a place outside"),
        ("an entry of Windows", "the name of a place outside"),
        ("100,000 values", "more than 50000 values"),
        ("a value twice", "holds 'first' twice"),
        ("a million dims", "more than 32 dims"),
        ("a header of 6 MB", "its header claims 6000002 bytes"),
    ],
)
def test_limits_are_what_stops_what_would_grow(results: dict[str, dict[str, Any]], name: str, text: str) -> None:
    """Not something else that comes later, when the memory or the time is gone."""
    assert text in results[name]["message"]


@pytest.mark.parametrize("name", GOOD)
def test_a_file_that_was_cut_or_changed_ends_in_an_error_or_is_read(
    results: dict[str, dict[str, Any]], name: str
) -> None:
    """A changed bit within numbers cannot be noticed where the format has no checksum; PyTorch's archives have."""
    found = {case: result for case, result in results.items() if case.startswith(f"{name}/")}
    cut = {case: result["code"] for case, result in found.items() if "cut at" in case}
    flipped = {case: result["code"] for case, result in found.items() if "changed" in case}
    assert len(cut) > 50
    assert len(flipped) > 80
    for result in found.values():
        assert_harmless(result)
    assert set(flipped.values()) <= {0, 65, 77}
    assert {65} <= set(cut.values()) <= {65, 77} or (name == "mindspore" and set(cut.values()) == {0, 65})


@pytest.mark.parametrize("number", range(len(CONTROLS)))
def test_the_harness_sees_what_pythons_own_unpickler_does(results: dict[str, dict[str, Any]], number: int) -> None:
    """The controls are among the refused files: unpickled by Python they start a program, which leaves a file."""
    control = results[f"control {number}"]
    assert "os.system (b'touch canary',)" in control["events"]
    assert (results["before"]["canary"], control["canary"]) == (False, True)
