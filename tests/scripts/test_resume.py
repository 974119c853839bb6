"""A run that is started again continues; nothing is lost, repeated or changed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scripts import same_run
from tests.scripts.run import ROOT, last_error, run
from tests.trees import write_tree
from util.weights.container import read_container

RANDOM = (*same_run.RANDOM, "--update_freq", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("resume")
    write_tree(place / "data")
    return place


def train(folder: Path, experiment: str, epochs: int, *more: str, code: int = 0) -> Any:
    return run(
        "train.py", "data", *RANDOM, "--epochs", str(epochs), "--experiment", experiment, *more, cwd=folder, code=code
    )


def lines(folder: Path, experiment: str) -> list[dict[str, Any]]:
    return same_run.log_lines(folder / "output/train" / experiment)


def without_best(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where the file of the best checkpoint is not, it does not count."""
    return [{name: value for name, value in line.items() if not name.startswith("best_")} for line in found]


def stop_after(folder: Path, experiment: str, whole: str, epochs: int) -> None:
    """Makes the folder of a run that was stopped after some epochs, from a whole run's numbered checkpoint."""
    source, target = (folder / "output/train" / name for name in (whole, experiment))
    shutil.copytree(source, target)
    for path in target.glob("checkpoint-*"):
        path.unlink()
    shutil.copy(source / f"checkpoint-{2 * epochs:09d}.safetensors", target / "checkpoint-latest.safetensors")


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    train(folder, "whole", 3, "--checkpoint_interval", "1", "--checkpoint_hist", "9")
    return "whole"


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_stopped_and_resumed_equals_uninterrupted(folder: Path, whole: str, workers: str) -> None:
    experiment = f"stopped{workers}"
    stop_after(folder, experiment, whole, 1)
    done = train(folder, experiment, 3, "--num_workers", workers)
    assert "found epoch 1, update 2" in done.stderr
    assert lines(folder, experiment) == lines(folder, whole)
    for name in ("latest", "best", "best-ema"):
        path = Path("output/train") / experiment / f"checkpoint-{name}.safetensors"
        mine = folder / path
        if not mine.exists():  # the best epoch was before the stop
            continue
        a, b = read_container(mine), read_container(folder / "output/train" / whole / mine.name)
        assert a.tensors.keys() == b.tensors.keys()
        assert any(name.startswith("optim/moment1") for name in a.tensors)
        assert any(name.startswith("ema/") for name in a.tensors)
        for tensor in a.tensors:
            np.testing.assert_array_equal(a.tensors[tensor], b.tensors[tensor], err_msg=tensor)
        assert a.state == b.state


@pytest.mark.slow  # test_kills.py has the short form
def test_killed_in_the_middle_of_an_epoch_and_started_again_equals_uninterrupted(folder: Path, whole: str) -> None:
    target = folder / "output/train/killed"
    for _ in range(2):  # the second kill hits a run that was itself continued
        process = start(folder, "killed", 3)
        wait_for(lambda: (target / "train.log").exists() and "Epoch: [" in newest_line(target), process)
        time.sleep(0.05)
        process.kill()
        process.wait()
    done = train(folder, "killed", 3)
    assert "finished" in done.stderr
    assert lines(folder, "killed") == lines(folder, whole)
    a, b = (
        read_container(folder / "output/train" / name / "checkpoint-latest.safetensors") for name in ("killed", whole)
    )
    assert a.state == b.state
    for tensor in a.tensors:
        np.testing.assert_array_equal(a.tensors[tensor], b.tensors[tensor], err_msg=tensor)
    assert not list(target.glob(".tmp-*"))


@pytest.mark.slow
def test_killed_between_two_checkpoints_of_a_save_loses_neither(folder: Path, whole: str) -> None:
    """The crash comes in the second epoch's save, before one of the copies of `latest`."""
    code = (
        "import os, signal, sys; from util.train import run_folder as c; copy, seen = c.copy_container, []\n"
        "def crash(*a):\n    seen.append(a) or (len(seen) == 4 and os.kill(os.getpid(), signal.SIGKILL)); copy(*a)\n"
        "c.copy_container = crash; import train; train.main(sys.argv[1:])"
    )
    every = ["--checkpoint_interval", "1", "--checkpoint_hist", "9"]
    arguments = [*RANDOM, "--epochs", "3", "--experiment", "torn", *every]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "data", *arguments]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, env=environment)
    assert done.returncode == -signal.SIGKILL
    train(folder, "torn", 3, *every)
    torn, uninterrupted = folder / "output/train/torn", folder / "output/train/whole"
    assert {p.name for p in torn.glob("checkpoint-*")} == {p.name for p in uninterrupted.glob("checkpoint-*")}
    for path in torn.glob("checkpoint-*"):
        a, b = read_container(path), read_container(uninterrupted / path.name)
        assert a.state == b.state, path.name
        for tensor in a.tensors:
            np.testing.assert_array_equal(a.tensors[tensor], b.tensors[tensor], err_msg=tensor)


def test_killed_in_the_very_first_save_starts_again(folder: Path, whole: str) -> None:
    target = folder / "output/train/first"
    target.mkdir(parents=True)
    (target / "log.txt").write_text((folder / "output/train/whole/log.txt").read_text().splitlines()[0] + "\n")
    (target / ".tmp-checkpoint-latest.safetensors-1").write_bytes(b"torn")
    train(folder, "first", 3)
    assert lines(folder, "first") == lines(folder, whole)
    assert not list(target.glob(".tmp-*"))


def test_restart_from_a_checkpoint_of_the_folder_itself(folder: Path, whole: str) -> None:
    stop_after(folder, "self", whole, 1)
    checkpoint = folder / "output/train/self/checkpoint-latest.safetensors"  # absolute; --output is relative
    train(folder, "self", 3, "--restart", "--resume", str(checkpoint))
    assert [line["epoch"] for line in lines(folder, "self")] == [1, 2]
    assert lines(folder, "self") == lines(folder, whole)[1:]


def start(folder: Path, experiment: str, epochs: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "data",
        *RANDOM,
        "--epochs",
        str(epochs),
        "--experiment",
        experiment,
    ]
    return subprocess.Popen([*command, "--log_interval", "1"], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
                            stderr=subprocess.DEVNULL)  # fmt: skip


def newest_line(run_folder: Path) -> str:
    return (run_folder / "train.log").read_text().rstrip().rpartition("\n")[2]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_another_data_set_or_other_first_weights_are_refused(folder: Path, whole: str) -> None:
    stop_after(folder, "other", whole, 1)
    write_tree(folder / "other", num_classes=3, train=8)
    (folder / "other/train/n01440764").rename(folder / "other/train/n01440000")
    arguments = (*RANDOM, "--epochs", "3", "--experiment", "other", "--pretrained", "x.safetensors")
    (folder / "other/val/n01440764").rename(folder / "other/val/n01440000")
    error = last_error(run("train.py", "other", *arguments, cwd=folder, code=78))
    assert "pretrained None -> x.safetensors" in error
    assert "training files 24 (" in error


def test_a_lost_latest_is_replaced_by_the_best(folder: Path, whole: str) -> None:
    stop_after(folder, "best", whole, 1)
    target = folder / "output/train/best"
    (target / "checkpoint-latest.safetensors").rename(target / "checkpoint-best.safetensors")
    assert "epoch 1, update 2" in train(folder, "best", 3).stderr
    assert lines(folder, "best") == lines(folder, whole)


def test_another_seed_gives_another_run(folder: Path, whole: str) -> None:
    train(folder, "seed", 1, "--seed", "7")
    assert lines(folder, "seed")[0]["train_loss"] != lines(folder, whole)[0]["train_loss"]


def test_a_finished_run_says_so(folder: Path, whole: str) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in (folder / "output/train/whole").glob("checkpoint*"))
    assert "this run is finished" in train(folder, whole, 3).stderr
    after = sorted((p.name, p.stat().st_mtime_ns) for p in (folder / "output/train/whole").glob("checkpoint*"))
    assert before == after


def test_changed_settings_are_listed_and_refused(folder: Path, whole: str) -> None:
    stop_after(folder, "changed", whole, 1)
    error = last_error(train(folder, "changed", 4, "--lr", "5e-4", code=78))
    assert "epochs 3 -> 4; lr 0.001 -> 0.0005" in error
    assert "--restart" in error


def test_restart_moves_the_old_run_aside(folder: Path, whole: str) -> None:
    stop_after(folder, "again", whole, 1)
    done = train(folder, "again", 1, "--restart")
    assert "moved the earlier run to output/train/again.1" in done.stderr
    assert (folder / "output/train/again.1/checkpoint-latest.safetensors").exists()
    assert [line["epoch"] for line in lines(folder, "again")] == [0]


def test_a_damaged_checkpoint_is_kept_and_the_one_before_used(folder: Path, whole: str) -> None:
    stop_after(folder, "damaged", whole, 2)
    source, target = folder / "output/train/whole", folder / "output/train/damaged"
    shutil.copy(source / "checkpoint-000000002.safetensors", target)
    latest = target / "checkpoint-latest.safetensors"
    data = bytearray(latest.read_bytes())
    data[len(data) // 2] ^= 1
    latest.write_bytes(data)
    done = train(folder, "damaged", 3)
    assert "kept as checkpoint-latest.safetensors.damaged" in done.stderr
    assert "found epoch 1, update 2" in done.stderr
    assert lines(folder, "damaged") == lines(folder, whole)


def test_lost_lines_of_the_log_are_named_and_the_run_goes_on(folder: Path, whole: str) -> None:
    stop_after(folder, "lines", whole, 2)
    log = folder / "output/train/lines/log.txt"
    _, second, _ = log.read_text().splitlines()
    log.write_text(second)  # whole, but for its end
    done = train(folder, "lines", 3)
    assert done.stderr.count("lines were lost") == 1
    assert "log.txt: lines were lost, those of epoch 0; what was trained is not" in done.stderr
    assert without_best(lines(folder, "lines")) == without_best(lines(folder, whole)[1:])


def test_never_from_nothing_where_there_was_a_run(folder: Path, whole: str) -> None:
    stop_after(folder, "lost", whole, 1)
    (folder / "output/train/lost/checkpoint-latest.safetensors").write_bytes(b"gone")
    error = last_error(train(folder, "lost", 3, code=66))
    assert "no usable checkpoint" in error
    assert "--restart" in error


def test_resuming_a_named_checkpoint(folder: Path, whole: str) -> None:
    second = "output/train/whole/checkpoint-000000004.safetensors"
    train(folder, "named", 3, "--resume", second)
    assert [line["epoch"] for line in lines(folder, "named")] == [2]
    assert without_best(lines(folder, "named")) == without_best(lines(folder, whole)[2:])
    error = last_error(train(folder, whole, 3, "--resume", second, code=78))
    assert "holds a run up to update 6" in error


def test_start_epoch_starts_counter_and_schedule(folder: Path) -> None:
    done = train(folder, "later", 4, "--start_epoch", "3")
    assert "Epoch: [3]  [0/6]" in done.stderr
    assert [line["epoch"] for line in lines(folder, "later")] == [3]
    expected = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + np.cos(np.pi * 3.5 / 4))
    assert lines(folder, "later")[0]["train_lr"] == pytest.approx(expected)
