"""No weights file can run code, exhaust memory or time: every one in tests/hostile_files.py ends in one clear error.

All are read by one child process (read_hostile.py), whose audit hook sees each process, socket, import, compilation
and opened file.
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
MAX_SECONDS = 2.0
GOOD = good_files()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the child saw, by the name of the case; those of cut and changed files have a slash in it."""
    folder = tmp_path_factory.mktemp("hostile")
    names = {}
    for name, content in all_files():
        names[str(len(names))] = name
        (folder / f"{len(names) - 1}.hostile").write_bytes(content)
    for i, content in enumerate(GOOD.values()):
        (folder / f"{i}.warm").write_bytes(content)
    (folder / "CONTROL").write_bytes(REFUSED["os.system, protocol 2"]())
    run = subprocess.run(
        [sys.executable, "-m", "tests.util.weights.read_hostile", str(folder)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    found = {names.get(line["name"], line["name"]): line for line in lines}
    for i, name in names.items():
        found[name]["size"] = (folder / f"{i}.hostile").stat().st_size
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


@pytest.mark.parametrize("name", GOOD)
def test_a_file_that_was_cut_or_changed_ends_in_an_error_or_is_read(
    results: dict[str, dict[str, Any]], name: str
) -> None:
    """A changed bit within numbers cannot be noticed where the format has no checksum; PyTorch's archives have."""
    found = {case: result for case, result in results.items() if case.startswith(f"{name}/")}
    cut = {case: result["code"] for case, result in found.items() if "cut at" in case}
    flipped = {case: result["code"] for case, result in found.items() if "changed" in case}
    assert (len(cut) > 50, len(flipped) > 120) == (True, True)
    for result in found.values():
        assert_harmless(result)
    assert set(flipped.values()) <= {0, 65, 77}
    assert {65} <= set(cut.values()) <= {65, 77} or (name == "mindspore" and set(cut.values()) == {0, 65})


def test_the_harness_sees_what_pythons_own_unpickler_does(results: dict[str, dict[str, Any]]) -> None:
    """The control is one of the refused files: unpickled by Python it starts a program, which leaves a file."""
    events = " ".join(results["control"]["events"])
    assert "pickle.find_class" in events
    assert "os.system (b'touch canary',)" in events
    assert (results["before"]["canary"], results["control"]["canary"]) == (False, True)
