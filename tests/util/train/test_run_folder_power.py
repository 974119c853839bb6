"""A power cut at any moment of a save loses no finished one, whatever the disk kept of what was not yet synced."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faulty_storage import FaultyStorage, states_after_power_loss
from tests.runs import open_run, recovered, save


@pytest.fixture(autouse=True)
def nothing_is_really_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    FaultyStorage().install(monkeypatch)


def power_cuts(path: Path, *, without: tuple[str, ...] = ()) -> Iterator[bool]:
    """Cuts the power after each operation; yields of each state of the disk whether the run can go on from it.

    The latest finished save must be there, or the one that was being made. without: operations that do nothing.
    """
    shutil.rmtree(path, ignore_errors=True)
    folder, patch, recorder = open_run(path), pytest.MonkeyPatch(), FaultyStorage()
    recorder.install(patch)
    ends = []
    for number in range(3):
        save(folder, number)
        ends.append(len(recorder.record))
    patch.undo()
    for length in range(len(recorder.record) + 1):
        finished = sum(end <= length for end in ends) - 1
        kept = [operation for operation in recorder.record[:length] if operation.kind not in without]
        for disk in {tuple(sorted(state.items())) for state in states_after_power_loss(kept)}:
            shutil.rmtree(path)
            path.mkdir()
            for name, data in disk:
                (path / name).write_bytes(data)
            try:
                yield recovered(path) in (finished, finished + 1)
            except (AssertionError, ValueError):
                yield False


def test_a_power_cut_after_any_operation_loses_no_finished_save(tmp_path: Path) -> None:
    results = list(power_cuts(tmp_path / "run"))
    print(f"{len(results)} states of the disk")
    assert len(results) > 150
    assert all(results)


@pytest.mark.parametrize("kind", ["sync", "sync_folder"])
def test_without_syncing_a_power_cut_would(kind: str, tmp_path: Path) -> None:
    """Negative control."""
    assert not all(power_cuts(tmp_path / "run", without=(kind,)))
