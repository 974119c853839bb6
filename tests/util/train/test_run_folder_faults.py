"""Nothing that happens while a checkpoint is saved loses one: kills, full disks, failing devices."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faulty_storage import FaultyStorage, Killed, fail_from, kill_at
from tests.runs import contents, open_run, recovered, save
from util import storage
from util.errors import SaveError
from util.train.progress import BEST, BEST_EMA, LATEST, PREVIOUS
from util.weights import container

ROOT = Path(__file__).parents[3]
NAMES = {f"{stem}.safetensors" for stem in (LATEST, PREVIOUS, BEST, BEST_EMA, "checkpoint-000000008")}
ENDS = (-1, 0, 1, 2)  # numbers of saves; -1: before the first


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture(autouse=True)
def working_storage(monkeypatch: pytest.MonkeyPatch) -> FaultyStorage:
    working = FaultyStorage()
    working.install(monkeypatch)
    return working


@dataclass(frozen=True)
class Whole:
    """The three saves, undisturbed: what the folder held after each, and which operations had been made."""

    after: list[dict[str, bytes]]
    ends: list[int]
    total: int


@pytest.fixture
def whole(tmp_path: Path, working_storage: FaultyStorage) -> Whole:
    folder = open_run(tmp_path / "whole")
    working_storage.record.clear()
    after, ends = [], []
    for number in range(3):
        save(folder, number)
        after.append(contents(folder.path))
        ends.append(len(working_storage.record))
    assert after[-1].keys() == NAMES
    return Whole(after, ends, ends[-1])


def without_links(source: Path, target: Path) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def finish(path: Path, number: int) -> dict[str, bytes]:
    """Makes the saves after `number`, and returns what the folder holds then."""
    folder = open_run(path)
    for later in range(number + 1, 3):
        save(folder, later)
    return contents(path)


def without_previous(files: dict[str, bytes]) -> dict[str, bytes]:
    """Returns what the end of a run has in common, however often it was killed: not which save was the one before."""
    return {name: data for name, data in files.items() if PREVIOUS not in name}


# --- kills


def saves_until_killed(path: Path, before: Callable[[int, str], None]) -> tuple[int, FaultyStorage]:
    """Makes the three saves, killed by `before`; returns the last one that was finished, and the operations."""
    done, patch = -1, pytest.MonkeyPatch()
    folder, faulty = open_run(path), FaultyStorage(before)
    try:
        faulty.install(patch)
        for number in range(3):
            save(folder, number)
            done = number
    except Killed:
        pass
    finally:
        patch.undo()
    return done, faulty


def kill_at_each_operation(path: Path, whole: Whole) -> list[int]:
    """Kills before each operation of the three saves in turn; returns those after which it did not go on well."""
    bad = []
    for number in range(whole.total + 1):
        shutil.rmtree(path, ignore_errors=True)
        done, _ = saves_until_killed(path, kill_at(number))
        try:
            found = recovered(path)
            assert found in (done, done + 1)
            end = finish(path, found)
        except (AssertionError, ValueError):
            bad.append(number)
            continue
        if without_previous(end) != without_previous(whole.after[-1]):
            bad.append(number)
    return bad


def test_killed_before_any_operation_it_continues_and_ends_the_same(tmp_path: Path, whole: Whole) -> None:
    print(f"{whole.total} operations")
    assert whole.total > 60
    assert kill_at_each_operation(tmp_path / "killed", whole) == []


def test_also_where_the_file_system_knows_no_second_names(
    tmp_path: Path, working_storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaultyStorage, "_link", lambda self, *names: without_links(*names))
    working_storage.install(monkeypatch)
    folder = open_run(tmp_path / "whole")
    working_storage.record.clear()
    for number in range(3):
        save(folder, number)
    undisturbed = Whole([contents(folder.path)], [], len(working_storage.record))
    assert undisturbed.after[-1].keys() == NAMES
    assert kill_at_each_operation(tmp_path / "killed", undisturbed) == []


def test_written_in_its_place_a_checkpoint_would_be_lost(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the enumeration sees it when a file is not written beside its place."""

    def in_its_place(path: Path, write: Callable[[Path], None], *, size: int, previous: Path | None) -> None:
        if path.exists():
            storage.unlink(path)
        write(path)

    monkeypatch.setattr(container, "_write_in_place", in_its_place)
    assert kill_at_each_operation(tmp_path / "killed", whole) != []


def test_killed_while_it_recovers_it_recovers_the_next_time(tmp_path: Path, whole: Whole) -> None:
    path, number = tmp_path / "run", 0
    while True:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name, data in whole.after[-1].items():
            (path / name).write_bytes(
                data if name in ("checkpoint-best.safetensors", f"{PREVIOUS}.safetensors") else b""
            )
        (path / ".tmp-checkpoint-latest.safetensors-1").write_bytes(b"torn")
        patch, was_killed = pytest.MonkeyPatch(), False
        FaultyStorage(kill_at(number)).install(patch)
        try:
            recovered(path)
        except Killed:
            was_killed = True
        finally:
            patch.undo()
        if not was_killed:
            break
        assert recovered(path) == 1, number
        assert without_previous(finish(path, 1)).items() >= without_previous(whole.after[-1]).items(), number
        number += 1
    assert number > 10


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_real_kill(part: float, tmp_path: Path, whole: Whole) -> None:
    driver = str(ROOT / "tests" / "save_until_killed.py")
    command = [sys.executable, driver, str(tmp_path / "killed"), str(int(part * whole.total))]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(tmp_path / "killed") != whole.after[-1]
    found = recovered(tmp_path / "killed")
    assert found in ENDS
    end = finish(tmp_path / "killed", found)
    assert without_previous(end) == without_previous(whole.after[-1])


# --- full disks and failing devices


def save_failing(path: Path, number: int, code: int, *, times: int) -> tuple[SaveError | None, bool]:
    """Makes two saves, and the third with failures from operation `number` on; returns how that ended.

    Also whether there was a failure at all, which there is none of when `number` is past the end.
    """
    shutil.rmtree(path, ignore_errors=True)
    folder, patch, failed = open_run(path), pytest.MonkeyPatch(), []
    save(folder, 0)
    save(folder, 1)
    fail = fail_from(number, code, times=times)

    def before(current: int, kind: str) -> None:
        try:
            fail(current, kind)
        except OSError:
            failed.append(current)
            raise

    FaultyStorage(before).install(patch)
    try:
        save(folder, 2)
    except SaveError as error:
        return error, bool(failed)
    finally:
        patch.undo()
    return None, bool(failed)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_lasting_failure_anywhere_leaves_older_checkpoints_byte_equal(
    code: int, tmp_path: Path, whole: Whole
) -> None:
    before, new = whole.after[1], whole.after[2]["checkpoint-latest.safetensors"]
    old, saved, number = before["checkpoint-latest.safetensors"], 0, 0
    while True:
        error, was_reached = save_failing(tmp_path / "run", number, code, times=1_000_000)
        if not was_reached:
            break
        assert error is not None, number
        assert error.exit_code == 74
        assert os.strerror(code) in str(error)
        after = contents(tmp_path / "run")
        assert not [name for name in after if name.startswith(".tmp-")], number
        if after["checkpoint-latest.safetensors"] == old:
            assert after == before, number
        else:  # it was in its place; what failed is a copy of it
            saved += 1
            assert all(after[name] in (before[name], new, old) for name in before), number
        assert recovered(tmp_path / "run") in (1, 2)
        number += 1
    assert number > 20
    assert 0 < saved < number


def test_without_second_names_a_failed_renaming_is_undone(
    tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, patch, replaced = open_run(tmp_path / "run"), pytest.MonkeyPatch(), []
    save(folder, 0)
    save(folder, 1)
    rename = storage.replace

    def fail_after_first(source: Path, target: Path) -> None:
        replaced.append(target.name)
        if target.name == "checkpoint-latest.safetensors" and source.name.startswith(".tmp-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    with patch.context() as context:
        context.setattr(storage, "link", without_links)
        context.setattr(storage, "replace", fail_after_first)
        with pytest.raises(SaveError):
            save(folder, 2)
    assert replaced[0] == "checkpoint-previous.safetensors"
    assert contents(folder.path)["checkpoint-latest.safetensors"] == whole.after[1]["checkpoint-latest.safetensors"]


def test_a_passing_failure_anywhere_is_waited_for(
    tmp_path: Path, whole: Whole, caplog: pytest.LogCaptureFixture
) -> None:
    number = 0
    while True:
        caplog.clear()
        error, was_reached = save_failing(tmp_path / "run", number, errno.ENOSPC, times=3)
        if not was_reached:
            break
        assert error is None
        assert contents(tmp_path / "run") == whole.after[2], number
        warnings = [record for record in caplog.records if record.name == "run.storage"]
        assert len(warnings) == 3, number
        assert "not saved yet: No space left on device; it needs 0.0 MB" in warnings[0].getMessage()
        number += 1
    assert number > 20


def test_a_device_that_stores_something_else_is_noticed_before_the_old_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flip(descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, bytes([data[0] ^ 1]) + bytes(data[1:]))

    folder = open_run(tmp_path / "run")
    save(folder, 0)
    before = contents(folder.path)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", flip)
        with pytest.raises(SaveError, match=r"latest\.safetensors: not saved: what was read back is not what was wr"):
            save(folder, 1)
        assert contents(folder.path) == before
        patch.setattr(container, "_verify", lambda *arguments: None)  # negative control: reading back is what sees it
        save(folder, 1)
    assert recovered(folder.path) == 0


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 1 MB where the system lets us make one, otherwise under a limit to a file's size."""
    driver = [sys.executable, str(ROOT / "tests" / "fill_disk.py"), str(tmp_path)]
    mount = f'mount -t tmpfs -o size=1m none "{tmp_path}"'
    can_mount = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode == 0
    command = (
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *driver] if can_mount else [*driver, "limit"]
    )
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    reason = "No space left on device" if can_mount else "File too large"
    error, free, untouched, left, again = done.stdout.splitlines()
    assert f"checkpoint-latest.safetensors: not saved: {reason}; it needs 2.0 MB, " in error
    assert error.endswith("MB are free; earlier checkpoints are untouched")
    if can_mount:
        assert "0.9 MB are free" in error
        assert "needs 4.0 MB for its checkpoints (2 of 2.0 MB), 0.9 MB are free at" in free
    assert (untouched, left, again) == ("True", "[]", "3")
