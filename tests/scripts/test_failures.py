"""What goes wrong in a run is named, ends every process soon, and touches no checkpoint."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.scripts.background import SLOWED, SLOWNESS, Background, wait_until
from tests.scripts.run import ROOT, last_error, port, run
from tests.scripts.same_run import RANDOM, digest, log_lines
from tests.trees import write_picture, write_tree
from util.data import check
from util.data.index import index_path
from util.errors import DataError
from util.weights.container import read_container

ARGUMENTS = ("data", *RANDOM, "--epochs", "2", "--log_interval", "1", "--save_updates", "1")


def last_failure(place: Path) -> dict[str, object]:
    """The save that was being written when the run failed may follow its failure."""
    events = [json.loads(line) for line in (place / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "fail"][-1]


def test_a_nan_ends_the_run_with_its_cause_and_touches_no_checkpoint(folder: Path) -> None:
    command: list[str | Path] = ["nan on 0", folder / "alone.marker", *ARGUMENTS, "--experiment", "alone"]
    place = folder / "output/train/alone"
    with Background(*command, cwd=folder, script=SLOWED) as job:
        assert job.process.wait(180) == 76, job.stderr
        error = job.stderr.splitlines()[-1]
    assert error.startswith("error: the loss is nan at epoch 0, iteration 3, update 3 (learning rate ")
    assert error.count("data/train/n0144") == 4  # the micro-batch's images
    assert last_failure(place)["exit_code"] == 76
    assert "found epoch 0, update 3" in run("train.py", *ARGUMENTS, "--experiment", "alone", cwd=folder).stderr


def test_without_a_nan_the_same_run_ends_well(folder: Path) -> None:
    command: list[str | Path] = ["nan on 7", folder / "well.marker", *ARGUMENTS, "--experiment", "well"]
    with Background(*command, cwd=folder, script=SLOWED) as job:
        assert job.process.wait(180) == 0, job.stderr


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_nan_on_one_of_two_processes_ends_both(folder: Path, tmp_path: Path, rank: int) -> None:
    """run.sh of a project whose train.py is the slowed one."""
    name = f"pair{rank}"
    (tmp_path / "util").symlink_to(ROOT / "util")
    for link in ("run.sh", "models", "demo"):
        (tmp_path / link).symlink_to(ROOT / link)
    (tmp_path / "train.py").write_text(
        f"import runpy, sys\nsys.argv[1:1] = ['nan on {rank}', '{folder / name}.marker']\n"
        f"runpy.run_path('{SLOWED}', run_name='__main__')\n"
    )
    command: list[str | Path] = ["-g", "2", "-p", port(), *ARGUMENTS, "--batch_size", "2", "--experiment", name]
    with Background(*command, cwd=folder, script=tmp_path / "run.sh") as job:
        wait_until((folder / f"{name}.marker").exists, "the NaN")
        begun = time.monotonic()
        assert job.process.wait(180) == 76, job.stderr
        assert time.monotonic() - begun < 10 * SLOWNESS
        assert job.look() == set()
        errors = [line for line in job.stderr.splitlines() if line.startswith("error: ")]
    assert f"the loss is nan on process {rank} at epoch 0, iteration 3" in errors[-1]
    assert errors[-1].count("data/train/n0144") == 2


def test_a_worker_that_hangs_is_named_with_its_file(folder: Path) -> None:
    command: list[str | Path] = [
        "data",
        folder / "hung.marker",
        *ARGUMENTS,
        "--num_workers",
        "2",
        "--data_timeout",
        "3",
    ]
    with Background(*command, "--experiment", "hung", cwd=folder, script=SLOWED) as job:
        wait_until((folder / "hung.marker").exists, "stuck")
        begun = time.monotonic()
        assert job.process.wait(180) == 75, job.stderr
        assert time.monotonic() - begun < (3 + 7) * SLOWNESS
        assert job.look() == set()
        error = job.stderr.splitlines()[-1]
    assert "(--data_timeout 3): data worker " in error
    assert re.search(r"hangs for \d+ s, which was at data/train/n01440764/n01440764 5\.JPEG", error)
    assert last_failure(folder / "output/train/hung")["exit_code"] == 75


@pytest.mark.slow
def test_without_the_limit_it_would_be_waited_for(folder: Path) -> None:
    """The control: what Paddle's loader does by itself, as with a limit that is never reached."""
    command: list[str | Path] = ["data", folder / "deaf.marker", *ARGUMENTS, "--num_workers", "2"]
    with Background(*command, "--data_timeout", "3600", "--experiment", "deaf", cwd=folder, script=SLOWED) as job:
        wait_until((folder / "deaf.marker").exists, "stuck")
        with pytest.raises(subprocess.TimeoutExpired):
            job.process.wait((3 + 7) * SLOWNESS)


@pytest.mark.parametrize(("number", "word"), [(signal.SIGSTOP, "is stopped"), (signal.SIGKILL, "was killed")])
def test_a_worker_that_is_stopped_or_killed_is_named(folder: Path, number: signal.Signals, word: str) -> None:
    """The worker is in the middle of an image, at which it hangs here until the signal comes."""
    name = number.name
    marker, short = folder / f"{name}.marker", ("--num_workers", "2", "--data_timeout", "3")
    command: list[str | Path] = ["data", marker, *ARGUMENTS, *short]
    with Background(*command, "--experiment", name, cwd=folder, script=SLOWED) as job:
        wait_until(marker.exists, "stuck")
        wait_until(lambda: bool(marker.read_text()), "its process")
        pid = int(marker.read_text())
        os.kill(pid, number)
        assert job.process.wait(180) == 75, job.stderr
        assert job.look() == set()
        error = job.stderr.splitlines()[-1]
    assert word in error
    assert f"(process {pid})" in error
    assert "data/train/n01440764/n01440764 5.JPEG" in error


def test_batches_that_killed_workers_left_in_shared_memory_are_removed(folder: Path) -> None:
    command: list[str | Path] = ["step", folder / "shm.marker", *ARGUMENTS, "--num_workers", "2", "--experiment", "shm"]
    record = folder / "output/train/shm/.workers-0"
    with Background(*command, cwd=folder, script=SLOWED) as job:
        wait_until((folder / "shm.marker").exists, "training")
        wait_until(record.exists, "its workers on record")
        workers = json.loads(record.read_text())["workers"]
        left = lambda: [p for pid in workers for p in Path("/dev/shm").glob(f"paddle_{pid}_*")]  # noqa: E731
        wait_until(lambda: bool(left()), "batches in shared memory")
        job.process.kill()
        job.wait_gone(45)
    assert left()
    run("train.py", *ARGUMENTS, "--experiment", "shm", cwd=folder)
    assert not left()


# Images that cannot be read


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("thousand")
    for label in range(2):
        for i in range(500):
            write_picture(place / f"data/train/class{label}/{i:03d}.jpg", seed=500 * label + i, size=(8, 8))
        write_picture(place / f"data/val/class{label}/0.jpg", seed=label, size=(8, 8))
    return place


SMALL = (
    "--model", "cvt_nano_32x32", "--batch_size", "50", "--epochs", "1", "--warmup_epochs", "0", "--num_workers", "2",
    "--input_size", "16",
)  # fmt: skip


@pytest.mark.parametrize(("bad", "code"), [(1, 0), (5, 65), (50, 65), pytest.param(1000, 65, marks=pytest.mark.slow)])
def test_one_of_a_thousand_images_may_be_unreadable_and_no_more(thousand: Path, bad: int, code: int) -> None:
    files = sorted((thousand / "data/train").glob("*/*.jpg"))
    broken = files[:: len(files) // bad]
    whole = {path: path.read_bytes() for path in broken}
    for path in broken:
        path.write_bytes(whole[path][:-40])
    try:
        done = run("train.py", "data", *SMALL, "--experiment", f"bad{bad}", cwd=thousand, code=code)
    finally:
        for path, data in whole.items():
            path.write_bytes(data)
    lines = (thousand / f"output/train/bad{bad}/bad_images.tsv").read_text().splitlines()
    listed = [line.split("\t")[0] for line in lines]
    assert len(set(listed)) == len(listed)
    assert set(listed) <= {str(path.relative_to(thousand)) for path in broken}
    if code == 0:
        assert listed == [str(broken[0].relative_to(thousand))]
        assert done.stderr.count("another image stands in for it") == 1
    else:
        error = last_error(done)
        assert "--bad_images 0.001 of 1000 allows 1: " in error
        assert error.count("cannot be decoded") <= 20


@pytest.mark.slow
def test_more_are_allowed_by_name_and_a_resumed_run_is_still_exact(folder: Path, thousand: Path) -> None:
    """The images that stand in for others are the same ones after a stop in the middle of the epoch."""
    broken = sorted((thousand / "data/train").glob("*/*.jpg"))[::100]
    whole = {path: path.read_bytes() for path in broken}
    for path in broken:
        path.write_bytes(b"")
    allowed = ("data", *SMALL, "--bad_images", "0.01", "--log_interval", "1")
    try:
        run("train.py", *allowed, "--experiment", "allowed", cwd=thousand)
        with Background(
            "step", thousand / "s.marker", *allowed, "--experiment", "again", cwd=thousand, script=SLOWED
        ) as job:
            wait_until((thousand / "s.marker").exists, "training")
            job.process.send_signal(signal.SIGTERM)
            assert job.process.wait(90) == 143, job.stderr
        run("train.py", *allowed, "--experiment", "again", "--num_workers", "0", cwd=thousand)
    finally:
        for path, data in whole.items():
            path.write_bytes(data)
    first, second = (thousand / "output/train" / name for name in ("allowed", "again"))
    assert log_lines(first) == log_lines(second)
    assert digest(first / "checkpoint-latest.safetensors") == digest(second / "checkpoint-latest.safetensors")


def test_an_evaluation_image_that_the_index_knows_as_unreadable_ends_the_run_before_it_trains(folder: Path) -> None:
    write_tree(folder / "known", num_classes=2)
    broken = folder / "known/val/n01440765/val 1 2.JPEG"
    broken.write_bytes(b"")
    arguments = ["known", *ARGUMENTS[1:], "--epochs", "1", "--experiment", "known"]
    with pytest.raises(DataError):
        check.main([str(folder / "known"), "--split", "val"])
    done = run("train.py", *arguments, cwd=folder, code=65)
    assert "1 of 8 evaluation images are unreadable by the index: known/val/n01440765/val 1 2.JPEG; repair or " in (
        last_error(done)
    )
    assert "Epoch: [" not in done.stderr
    index_path(folder / "known", "val").unlink()
    done = run("train.py", *arguments, cwd=folder, code=65)  # the control: it is found by reading it
    assert "Epoch: [0]  [3/4]" in done.stderr


# Weights & Biases


def test_wandb_goes_on_with_the_same_run_even_when_killed_before_the_first_checkpoint(folder: Path) -> None:
    command = [*ARGUMENTS, "--log_wandb", "--wandb_project", "p", "--experiment", "wandb", "--save_updates", "0"]
    place = folder / "output/train/wandb"
    marker = folder / "wandb.marker"
    with Background("step", marker, *command, cwd=folder, script=SLOWED, WANDB_MODE="offline") as job:
        wait_until(marker.exists, "training")
        job.process.kill()
        job.wait_gone(45)
    assert not list(place.glob("checkpoint-*"))
    run_id = (place / "wandb-id.txt").read_text().strip()
    run("train.py", *command, cwd=folder)
    assert read_container(place / "checkpoint-latest.safetensors").state["progress"]["wandb_id"] == run_id
    assert {path.name.rpartition("-")[2] for path in (place / "wandb").glob("offline-run-*")} == {run_id}
    assert len(list((place / "wandb").glob("offline-run-*"))) == 2


# What is done to the run's folder


def test_a_folder_that_another_run_has_taken_is_left_alone(folder: Path) -> None:
    """The folder is moved away while the run trains, and another run begins there.

    What the first would write next is which processes load its evaluation's data.
    """
    place = folder / "output/train/taken"
    first = [*ARGUMENTS, "--save_updates", "0", "--num_workers", "1", "--experiment", "taken"]
    with Background("step", folder / "taken.marker", *first, cwd=folder, script=SLOWED) as job:
        wait_until((folder / "taken.marker").exists, "training")
        job.process.send_signal(signal.SIGSTOP)
        place.rename(folder / "output/train/old")
        run("train.py", *first, "--seed", "7", cwd=folder)
        written = {path.name: path.read_bytes() for path in place.iterdir()}
        job.process.send_signal(signal.SIGCONT)
        assert job.process.wait(180) == 74, job.stderr
        assert "error: output/train/taken: it was moved or removed while this run was training" in job.stderr
    assert ".workers-0" in written
    assert {path.name: path.read_bytes() for path in place.iterdir()} == written


def test_a_damaged_line_of_the_log_is_named(folder: Path) -> None:
    run("train.py", *ARGUMENTS, "--experiment", "line", cwd=folder)
    place = folder / "output/train/line"
    log = place / "log.txt"
    first, _ = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"\xff" + first + b"[" * 100_000 + b"\ntorn")
    for path in (place / "checkpoint-latest.safetensors", *place.glob("checkpoint-best*")):
        path.unlink()  # so that it goes on from the one before the end
    done = run("train.py", *ARGUMENTS, "--experiment", "line", cwd=folder)
    assert "log.txt: line 1 was damaged; it is left out" in done.stderr
    assert "log.txt: line 2 was damaged; it is left out" in done.stderr
    assert "line 3" not in done.stderr


def test_what_fails_before_the_training_is_in_the_events_and_the_log(folder: Path) -> None:
    """And what is asked for in vain is said before."""
    given = ("--experiment", "early", "--pretrained", "/nope.safetensors", "--data_timeout", "9", "--num_workers", "0")
    done = run("train.py", *ARGUMENTS, *given, cwd=folder, code=66)
    place, error = folder / "output/train/early", last_error(done)
    event = last_failure(place)
    assert (event["exit_code"], event["reason"]) == (66, error)
    assert (place / "train.log").read_text().endswith(f"] error: {error}\n")
    assert "warning: --data_timeout has no effect: it needs num_workers above 0" in done.stderr
    done = run("eval.py", "data", "--resume", "/nope.safetensors", *given[4:], cwd=folder, code=66)
    assert "warning: --data_timeout has no effect: it needs num_workers above 0" in done.stderr


@pytest.mark.parametrize(("name", "kind"), [
    ("log.txt", "fifo"), ("train.log", "loop"), ("events.jsonl", "folder"), (".workers-0", "fifo"),
])  # fmt: skip
def test_what_is_no_file_in_a_file_s_place_is_one_line(folder: Path, name: str, kind: str) -> None:
    place = folder / "output/train" / f"irregular{kind}{name}"
    place.mkdir(parents=True)
    path = place / name
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(name)
    error = last_error(run("train.py", *ARGUMENTS, "--experiment", place.name, cwd=folder, code=73, timeout=60))
    assert f"{name}: is not a regular file" in error


def test_the_process_that_failed_is_the_one_in_the_events(folder: Path) -> None:
    """Rank 1 finds an unreadable image; rank 0 only loses its peer."""
    write_tree(folder / "rotten", num_classes=2)
    for path in sorted((folder / "rotten/train").rglob("*.JPEG")):
        if path.name.endswith(("1.JPEG", "3.JPEG")):
            path.write_bytes(b"")
    arguments = ["--data_dir", "rotten", *ARGUMENTS[1:], "--batch_size", "2", "--experiment", "rotten"]
    run("run.sh", "-g", "2", "-p", port(), *arguments, cwd=folder, code=65)
    event = last_failure(folder / "output/train/rotten")
    assert event["exit_code"] == 65
    assert "unreadable training images" in str(event["reason"])


@pytest.mark.slow
def test_a_process_that_is_late_by_far_is_waited_for(folder: Path, tmp_path: Path) -> None:
    """Gloo alone gives up after 30 s."""
    for link in ("run.sh", "models", "demo", "util"):
        (tmp_path / link).symlink_to(ROOT / link)
    (tmp_path / "train.py").write_text(
        f"import runpy, sys\nsys.argv[1:1] = ['late on 1', '{folder / 'late'}.marker']\n"
        f"runpy.run_path('{SLOWED}', run_name='__main__')\n"
    )
    command = ["-g", "2", "-p", port(), *ARGUMENTS, "--update_freq", "2", "--batch_size", "2", "--experiment", "late"]
    with Background(*command, cwd=folder, script=tmp_path / "run.sh") as job:
        assert job.process.wait(450) == 0, job.stderr
    assert (folder / "late.marker").exists()
