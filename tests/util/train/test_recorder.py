"""What a run finds in its folder when it begins to record: damaged small files are named, and do not end it."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.runs import open_run
from util.distributed import World
from util.options import RunOptions
from util.stop import StopRequest
from util.train import recorder
from util.train.events import EventLog
from util.train.progress import Progress
from util.train.recorder import RunRecorder
from util.train.run import RunStart
from util.weights.container import Container


class Wandb:
    """Stands in for a run at Weights & Biases: goes on under the id that it is given, or a new one."""

    def __init__(self, *, project: str | None, name: str, config: dict[str, Any], folder: str, run_id: str | None):
        self.run_id = run_id or "new"


def record(
    path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> tuple[RunRecorder, list[str]]:
    """Returns the recorder of a run that goes on at `progress`, and what it warns of."""
    monkeypatch.setattr(recorder, "WandbRun", Wandb)
    folder = open_run(path)
    container = Container({}, {}) if progress.update else None
    start = RunStart(folder, {}, {}, container, EventLog(folder, rank=0))
    state: Any = SimpleNamespace(progress=progress, ema=None, nbytes=lambda: 0)
    found = RunRecorder(
        start, state, options=RunOptions(log_wandb=True), stop=StopRequest(), worker_pids=lambda: [],
        world=World(rank=0, size=1), log=logging.getLogger("test"),
    )  # fmt: skip
    return found, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("damaged", [b"\xff\xfe\x00", b"a/b c\n", b"", b"a\nb\n", b"x" * 4096])
@pytest.mark.parametrize("saved", [None, "abc123"])
def test_a_damaged_id_is_named_and_replaced(
    damaged: bytes, saved: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/wandb-id.txt").write_bytes(damaged)
    _, [warning] = record(tmp_path / "run", Progress(wandb_id=saved), monkeypatch, caplog)
    instead = "a new one begins" if saved is None else "the checkpoint's, abc123, goes on"
    assert warning.endswith(f"run/wandb-id.txt: is damaged, and names no run at Weights & Biases; {instead}")
    assert (tmp_path / "run/wandb-id.txt").read_text() == f"{saved or 'new'}\n"


@pytest.mark.parametrize(("known", "saved", "expected"), [
    ("first", "abc123", "first"), (None, "abc123", "abc123"), (None, None, "new"), ("my run-1.b", None, "my run-1.b"),
])  # fmt: skip
def test_the_folder_s_id_goes_before_the_checkpoint_s(
    known: str | None, saved: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "run").mkdir()
    if known is not None:
        (tmp_path / "run/wandb-id.txt").write_text(f"{known}\n")
    found, warnings = record(tmp_path / "run", Progress(wandb_id=saved), monkeypatch, caplog)
    assert (found.state.progress.wandb_id, warnings) == (expected, [])


def test_lines_that_were_lost_from_the_log_are_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found, warnings = record(tmp_path / "run", Progress(), monkeypatch, caplog)
    found.events.add("save")
    found.epoch_log.append({"epoch": 1})
    assert warnings == []
    _, warnings = record(tmp_path / "run", Progress(epoch=3, update=6), monkeypatch, caplog)
    assert warnings == [f"{tmp_path}/run/log.txt: lines were lost, those of epoch 0, 2; what was trained is not"]


def test_a_run_that_begins_from_another_folder_s_checkpoint_misses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # killed before its first save
        _, warnings = record(tmp_path / "run", Progress(epoch=3, update=6), monkeypatch, caplog)
        assert warnings == []
