"""Which checkpoint a run continues from, what happens to damaged ones, who may write to the folder, and its space."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.runs import INTERVAL, PROGRESS, contents, newest_of, open_run, state_of, tensors_of
from util import storage
from util.errors import OutputError, SaveError, WeightsError
from util.train.progress import BEST, BEST_EMA, LATEST, PREVIOUS, Progress
from util.train.run_folder import RunFolder
from util.weights import container
from util.weights.container import read_container, write_container

ROOT = Path(__file__).parents[3]
LOG = logging.getLogger("test")


def write_state(path: Path, progress: dict[str, Any]) -> None:
    write_container(path, tensors_of(0), {**state_of(0), "progress": progress})


# --- which one is the newest


def test_the_latest_is_the_newest_and_besides_the_best_the_only_one_that_is_read(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    def record(path: Path) -> container.Container:
        hashed.append(path.stem)
        return read_container(path)

    monkeypatch.setattr("util.train.run_folder.read_container", record)
    assert newest_of(folder) == (LATEST, 8)
    assert hashed == [LATEST, BEST_EMA, BEST]  # and neither previous nor the numbered one


def test_a_new_folder_has_none(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run")
    assert folder.newest(LOG) is None
    (folder.path / "log.txt").write_text("{}\n")  # killed in its very first save
    assert folder.newest(LOG) is None


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ([LATEST], ("checkpoint-000000008", 8)),
        ([LATEST, "checkpoint-000000008"], ("checkpoint-best-ema", 8)),
        ([LATEST, "checkpoint-000000008", "checkpoint-best-ema"], (PREVIOUS, 6)),
        ([LATEST, "checkpoint-000000008", "checkpoint-best-ema", PREVIOUS], (BEST, 4)),
    ],
)
def test_lost_ones_are_replaced_by_the_next_that_is_furthest(
    lost: list[str], expected: tuple[str, int], folder: RunFolder
) -> None:
    for stem in lost:
        folder.file(stem).unlink()
    assert newest_of(folder) == expected


def test_within_an_update_the_iteration_and_then_the_end_of_training_count(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run")
    for stem, iteration, trained in (("checkpoint-000000004", 2, False), (PREVIOUS, 3, True), (LATEST, 3, False)):
        write_state(folder.file(stem), asdict(Progress(epoch=1, update=4, iteration=iteration, trained=trained)))
    assert newest_of(folder)[0] == PREVIOUS
    folder.file(PREVIOUS).unlink()
    assert newest_of(folder)[0] == LATEST


def test_states_from_before_saving_within_an_epoch_are_at_its_beginning(tmp_path: Path) -> None:
    old = asdict(Progress(epoch=2, update=4, best_acc1=1.0, best_update=4))
    for field in ("iteration", "trained", "sums"):
        del old[field]
    folder = open_run(tmp_path / "run")
    write_state(folder.file(LATEST), old)
    write_state(folder.file(BEST), old)
    assert newest_of(folder) == (LATEST, 4)
    before = contents(folder.path)
    folder.complete(folder.file(LATEST), Progress(**old), 0)
    assert contents(folder.path) == before
    write_state(folder.file(PREVIOUS), asdict(Progress(epoch=2, iteration=1, update=4)))
    assert newest_of(folder) == (PREVIOUS, 4)


def test_complete_brings_latest_back_from_previous(folder: RunFolder) -> None:
    kept = folder.file(PREVIOUS).read_bytes()
    for stem in (LATEST, "checkpoint-000000008", "checkpoint-best-ema"):
        folder.file(stem).unlink()
    found = folder.newest(LOG)
    assert found is not None
    folder.complete(found[0], PROGRESS[1], INTERVAL)
    assert folder.file(LATEST).read_bytes() == folder.file(PREVIOUS).read_bytes() == kept
    assert newest_of(folder) == (LATEST, 6)


def test_another_models_file_is_returned_for_the_caller_to_compare_its_settings(folder: RunFolder) -> None:
    state = {**state_of(2), "settings": {"seed": 7}, "progress": asdict(Progress(epoch=9, update=90))}
    write_container(folder.file(LATEST), {"model/other": np.ones(2, np.float32)}, state)
    found = folder.newest(LOG)
    assert found is not None
    assert found[1].state["settings"] == {"seed": 7}


def test_weights_alone_are_not_continued_and_stay(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run")
    write_container(folder.file(LATEST), tensors_of(0), {"model": {"name": "x"}})
    before = contents(folder.path)
    with pytest.raises(WeightsError, match=r"latest\.safetensors: cannot be continued: .* --pretrained"):
        folder.newest(LOG)
    assert contents(folder.path) == before
    write_state(folder.file(PREVIOUS), asdict(PROGRESS[1]))
    assert newest_of(folder) == (PREVIOUS, 6)


# --- saving


def test_each_save_keeps_the_one_before_and_prunes_numbered_ones(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run")
    for number in range(5):
        progress = asdict(Progress(epoch=number, update=number))
        stems = [LATEST, f"checkpoint-{number:09d}"]
        folder.save(tensors_of(number), {"progress": progress}, stems=stems, keep=2)
        if number:
            assert read_container(folder.file(PREVIOUS)).state["progress"]["update"] == number - 1
    assert [path.stem for path in folder.numbered()] == ["checkpoint-000000003", "checkpoint-000000004"]
    assert len({path.stat().st_ino for path in folder.path.glob("checkpoint-*")}) == 4  # files of their own


# --- who may write


def test_a_second_run_is_kept_out_and_told_by_whom(folder: RunFolder) -> None:
    code = "import sys; from util.train.run_folder import RunFolder; RunFolder(*sys.argv[1:]).create()"
    command = [sys.executable, "-c", code, str(folder.path.parent), folder.path.name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    line = done.stderr.strip().splitlines()[-1]
    assert f"another run is training here (pid {os.getpid()} on {os.uname().nodename}); wait for it" in line


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "nowhere"])
def test_a_lock_that_is_no_file_is_named_and_removing_it_helps(tmp_path: Path, kind: str) -> None:
    folder, lock = RunFolder(str(tmp_path), "run"), tmp_path / "run/.lock"
    folder.path.mkdir()
    if kind == "fifo":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to("/dev/null" if kind == "device" else "gone")
    with pytest.raises(OutputError, match=r"/run/\.lock: is no regular file; .*: remove it$"):
        folder.create()
    assert not folder.is_open
    if kind == "folder":
        lock.rmdir()
    else:
        lock.unlink()
    folder.create()
    assert folder.is_open


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lock_that_is_removed_while_the_folder_stays_is_called_that(
    tmp_path: Path, rank: int, replaced: bool
) -> None:
    folder = open_run(tmp_path / "run")
    if rank > 0:
        folder = RunFolder(str(tmp_path), "run")
        folder.join()
    folder.check_held()
    (folder.path / ".lock").unlink()
    if replaced:
        open_run(tmp_path / "run")
    with pytest.raises(
        SaveError, match=r"run/\.lock: it was removed or replaced while this run was training"
    ) as caught:
        folder.write_text("args.yaml", "")
    assert "Move it back" not in str(caught.value)
    assert not (folder.path / "args.yaml").exists()


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "further")
    places = [(str(tmp_path / "file"), "run"), (str(tmp_path), "file"), (str(tmp_path), "nowhere"),
              (str(tmp_path), "x" * 300), ("/proc", "run")]  # fmt: skip
    for output, experiment in places:
        with pytest.raises(OutputError, match=r": cannot be written: .*; choose another --output") as caught:
            RunFolder(output, experiment).create()
        assert str(Path(output) / experiment) in str(caught.value)
    assert caught.value.exit_code == 73

    def refuse(path: Path) -> int:  # the lock is there and can be opened, but no file can be made
        raise PermissionError(13, os.strerror(13))

    open_run(tmp_path / "run")
    monkeypatch.setattr(storage, "create", refuse)
    with pytest.raises(OutputError, match=r"run: cannot be written: Permission denied"):
        open_run(tmp_path / "run")


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".tmp-checkpoint-latest.safetensors-1", ".tmp-args.yaml-77", f".tmp-probe-{os.getpid()}"):
        (tmp_path / "run" / name).write_bytes(b"torn")
    folder = open_run(tmp_path / "run")
    assert contents(folder.path) == {}


# --- space


def test_space_counts_what_is_free_and_what_its_own_checkpoints_hold(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = sum(path.stat().st_size for path in folder.path.glob("*.safetensors"))
    usage = SimpleNamespace(free=12_000_000)
    monkeypatch.setattr("util.train.run_folder.shutil.disk_usage", lambda path: usage)
    folder.check_space((12_000_000 + own) // 3, copies=3)
    with pytest.raises(OutputError) as caught:
        folder.check_space(320_100_000, copies=3)
    assert caught.value.exit_code == 73
    message = str(caught.value)
    assert message.startswith(
        "needs 960.3 MB for its checkpoints (3 of 320.1 MB), 12.0 MB are free at "
        f"{folder.path} besides {own / 1e6:.1f} MB of its own checkpoints; "
    )
    with pytest.raises(OutputError, match="needs 12"):
        folder.check_space(12_000_000 + own + 1, copies=1)


# --- small files


def test_lines_are_added_whole_and_a_torn_one_is_ended(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run")
    folder.append_line("events.jsonl", json.dumps({"event": "start", "name": "ä"}, ensure_ascii=False))
    with open(folder.path / "events.jsonl", "ab") as file:
        file.write(b'{"event": "sa')
    folder.append_line("events.jsonl", '{"event": "stop"}')
    folder.append_line("events.jsonl", os.fsdecode(b"a\xff.jpg"))
    lines = (folder.path / "events.jsonl").read_bytes().split(b"\n")
    assert lines == [
        '{"event": "start", "name": "ä"}'.encode(),
        b'{"event": "sa',
        b'{"event": "stop"}',
        b"a\xff.jpg",
        b"",
    ]


def test_small_files_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_run(tmp_path / "run")
    folder.write_text("args.yaml", "name: ä\n")

    def fail(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    for operation in ("write", "sync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(storage, operation, fail)
            with pytest.raises(SaveError, match=r"args\.yaml: not written: No space left"):
                folder.write_text("args.yaml", "name: other\n")
        assert contents(folder.path) == {"args.yaml": "name: ä\n".encode()}


@pytest.mark.parametrize("write", [RunFolder.write_text, RunFolder.append_line])
@pytest.mark.parametrize("rank", [0, 1])
def test_nothing_is_written_by_any_process_into_a_folder_that_another_run_has_taken(
    tmp_path: Path, rank: int, write: Callable[[RunFolder, str, str], None]
) -> None:
    folder = open_run(tmp_path / "run")
    if rank > 0:
        folder = RunFolder(str(tmp_path), "run")
        folder.join()
    write(folder, ".workers-1", "a")
    folder.path.rename(tmp_path / "moved")
    stranger = RunFolder(str(tmp_path), "run")
    stranger.create()
    with pytest.raises(SaveError, match="it was moved or removed while this run was training"):
        write(folder, ".workers-1", "b")
    assert {path.name for path in folder.path.iterdir()} == {".lock"}
    write(RunFolder(str(tmp_path), "run"), ".workers-1", "b")  # the control: of one that never knew the folder
    assert (folder.path / ".workers-1").read_text().strip() == "b"


def test_a_process_that_cannot_see_the_folder_of_the_main_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be read: No such file or directory; all nodes must have the same"):
        RunFolder(str(tmp_path), "run").join()
