"""A run that is told to stop saves once, completely, and goes on later as if it had never stopped."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts.background import SLOWED, SLOWNESS, Background, wait_until
from tests.scripts.run import ROOT, port, run
from tests.scripts.same_run import RANDOM, end_of
from util.data import shard
from util.weights.container import read_container

ARGUMENTS = ("data", *RANDOM, "--update_freq", "2", "--epochs", "2", "--log_interval", "1")


@pytest.fixture(scope="module", name="folder")
def with_a_whole_run(folder: Path) -> Path:
    """The folder, and in it the run that nobody stops."""
    run("train.py", *ARGUMENTS, "--experiment", "whole", cwd=folder)
    return folder


def started(folder: Path, what: str, name: str, *more: str) -> Background:
    return Background(
        what, folder / f"{name}.marker", *ARGUMENTS, "--experiment", name, *more, cwd=folder, script=SLOWED
    )


def wait_for_marker(folder: Path, name: str) -> None:
    wait_until((folder / f"{name}.marker").exists, "the moment to send a signal")


def last_event(place: Path) -> tuple[str, int]:
    """What happened last, and how many micro-batches of the epoch were trained then."""
    event = json.loads((place / "events.jsonl").read_text().splitlines()[-1])
    return event["event"], event["iteration"]


def check_and_continue(folder: Path, name: str, *more: str) -> None:
    """The run has one whole checkpoint at least, and its continuation ends as the run that nobody stopped."""
    place = folder / "output/train" / name
    read_container(place / "checkpoint-latest.safetensors")
    assert not list(place.glob(".tmp-*"))
    run("train.py", *ARGUMENTS, "--experiment", name, *more, cwd=folder)
    assert end_of(place) == end_of(folder / "output/train/whole")


@pytest.mark.parametrize(
    ("what", "workers"),
    [("step", "0"), ("save", "0"), ("evaluation", "2"), ("data once", "1"), ("val data once", "1")],
    ids=["step", "save", "evaluation", "data", "evaluation's data"],
)
def test_sigterm_saves_once_and_ends_with_143(folder: Path, what: str, workers: str) -> None:
    name = what.replace(" ", "")
    with started(folder, what, name, "--num_workers", workers, "--save_updates", "1") as job:
        wait_for_marker(folder, name)
        job.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        assert job.process.wait(timeout=60) == 143, job.stderr
        seconds = time.monotonic() - begun
        print(f"SIGTERM in {what}: ended after {seconds:.1f} s")
        assert seconds < 10 * SLOWNESS
        assert "a checkpoint is complete" in job.stderr
        assert "Traceback" not in job.stderr
        assert job.look() == set()
    events = [json.loads(line) for line in (folder / "output/train" / name / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] != "save"] == ["start", "stop"]
    assert events[-1]["signal"] == "SIGTERM"
    check_and_continue(folder, name, "--num_workers", workers)


def test_without_listening_a_signal_ends_it_at_once(folder: Path) -> None:
    """The control: what the signal does by itself."""
    with started(folder, "deaf step", "deaf", "--num_workers", "0") as job:
        wait_for_marker(folder, "deaf")
        job.process.send_signal(signal.SIGTERM)
        assert job.process.wait(timeout=60) == -signal.SIGTERM, job.stderr
    assert not list((folder / "output/train/deaf").glob("checkpoint-*"))


def test_three_sigterms_to_the_group_within_06_seconds_are_one(folder: Path) -> None:
    """So does Paddle's launcher; the data workers are in the group."""
    with started(folder, "step", "three", "--num_workers", "2") as job:
        wait_for_marker(folder, "three")
        for _ in range(3):
            os.killpg(job.pid, signal.SIGTERM)
            time.sleep(0.2)
        assert job.process.wait(timeout=60) == 143, job.stderr
        assert job.stderr.count("SIGTERM: saving") == 1
        assert job.look() == set()
    check_and_continue(folder, "three")


def test_ctrl_c_saves_and_ends_with_130(folder: Path) -> None:
    with started(folder, "step", "once", "--num_workers", "2") as job:
        wait_for_marker(folder, "once")
        os.killpg(job.pid, signal.SIGINT)
        assert job.process.wait(timeout=60) == 130, job.stderr
        assert job.look() == set()
    check_and_continue(folder, "once")


def test_a_second_ctrl_c_ends_at_once_and_harms_nothing(folder: Path) -> None:
    """In the middle of a save, which is slow here: the checkpoint before it is what is left."""
    with started(folder, "save", "twice", "--num_workers", "2", "--save_updates", "1") as job:
        wait_for_marker(folder, "twice")
        os.killpg(job.pid, signal.SIGINT)
        wait_until(lambda: "SIGINT: saving" in job.stderr, "heard")
        os.killpg(job.pid, signal.SIGINT)
        begun = time.monotonic()
        assert job.process.wait(timeout=60) == 130, job.stderr
        assert time.monotonic() - begun < 2 * SLOWNESS
        wait_until(lambda: job.look() == set(), "without processes", seconds=2 * SLOWNESS)
    run("train.py", *ARGUMENTS, "--experiment", "twice", cwd=folder)
    assert end_of(folder / "output/train/twice") == end_of(folder / "output/train/whole")


def test_a_kill_in_an_evaluation_after_the_minutes_trains_nothing_again(folder: Path) -> None:
    """What goes on forks first the workers of evaluation, then those of training, while nothing is being written."""
    place, more = folder / "output/train/evaluating", ("--num_workers", "2", "--save_minutes", "0.0001")
    with started(folder, "endless evaluation", "evaluating", *more) as job:
        wait_for_marker(folder, "evaluating")
        wait_until(lambda: last_event(place) == ("save", 6), "saved as trained")
        job.process.kill()
        job.wait_gone(45)
    assert not (place / "log.txt").exists()
    forks = folder / "forks.marker"
    done = run(SLOWED, "forks", forks, *ARGUMENTS, "--experiment", "evaluating", *more, cwd=folder)
    assert "Epoch: [0]  top-1" in done.stderr
    assert "Epoch: [0]  [" not in done.stderr
    assert "Epoch: [1]  [" in done.stderr
    assert forks.read_text() == "quiet\nquiet\n"
    assert end_of(place) == end_of(folder / "output/train/whole")


def test_a_finished_run_that_is_started_again_says_so(folder: Path) -> None:
    assert "this run is finished" in run("train.py", *ARGUMENTS, "--experiment", "whole", cwd=folder).stderr


@pytest.fixture(scope="module")
def shards(folder: Path) -> Path:
    shard.main([str(folder / "data"), "--output", str(folder / "shards"), "--shard_mb", "0.01"])
    assert len(list((folder / "shards").glob("train-*.tar"))) > 1
    return folder / "shards"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_on_tar_shards_goes_on_in_the_middle_of_an_epoch(folder: Path, shards: Path, processes: int) -> None:
    arguments = ["-g", str(processes), "-p", port(), "--data_dir", "shards", *ARGUMENTS[1:], "--shard_window", "2"]
    arguments += ["--batch_size", str(4 // processes), "--save_updates", "1"]
    run("run.sh", *arguments, "--experiment", f"tar{processes}", cwd=folder)
    stopped = folder / "output/train" / f"tar{processes} again"
    with Background(*arguments, "--experiment", stopped.name, cwd=folder) as job:
        wait_until(lambda: (stopped / "checkpoint-previous.safetensors").exists(), "saved twice")
        job.process.send_signal(signal.SIGTERM)
        assert job.process.wait(timeout=90) == 143, job.stderr
    assert read_container(stopped / "checkpoint-latest.safetensors").state["progress"]["iteration"] > 0
    run("run.sh", *arguments, "--experiment", stopped.name, "--num_workers", "2", cwd=folder)
    assert end_of(stopped) == end_of(folder / "output/train" / f"tar{processes}")


@pytest.mark.parametrize("through", [pytest.param("train.py", marks=pytest.mark.slow), "run.sh"])
def test_a_closed_terminal_saves_and_ends_with_143(folder: Path, through: str) -> None:
    """A real terminal: every write to it fails once it is closed, that of the signal's handler, too."""
    name = f"hup {through}"
    command = [*ARGUMENTS, "--epochs", "40", "--experiment", name, "--save_minutes", "0"]
    program = [sys.executable, str(ROOT / "train.py")] if through == "train.py" else ["bash", str(ROOT / "run.sh")]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execvpe(program[0], [*program, *command], os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable})
    seen = b""
    while seen.count(b"Epoch: [") < 3:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == 143
    place = folder / "output/train" / name
    assert json.loads((place / "events.jsonl").read_text().splitlines()[-1])["event"] == "stop"
    assert read_container(place / "checkpoint-latest.safetensors").state["progress"]["update"] > 0


@pytest.mark.parametrize(
    "where",
    [
        "2>&1 | head -n 1",
        pytest.param("2>/dev/full", marks=pytest.mark.slow),
        pytest.param("2>&-", marks=pytest.mark.slow),
    ],
)
def test_a_standard_error_that_cannot_be_written_does_not_end_a_run(folder: Path, where: str) -> None:
    name = f"deaf{len(where)}"
    command = f"set -o pipefail; {sys.executable} {ROOT / 'train.py'} {' '.join(ARGUMENTS)} --experiment {name} {where}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=120
    )
    assert done.returncode == 0
    assert end_of(folder / "output/train" / name) == end_of(folder / "output/train/whole")


def test_slow_data_within_an_update_is_waited_for(folder: Path) -> None:
    """Each image takes a third of a second, an update four: longer than a stopped run waits for a single batch."""
    more = ("--num_workers", "1", "--update_freq", "4", "--experiment", "slow data", "--epochs", "2")
    with Background("slow data", folder / "slow.marker", *ARGUMENTS, *more, cwd=folder, script=SLOWED) as job:
        wait_for_marker(folder, "slow")
        job.process.send_signal(signal.SIGTERM)
        assert job.process.wait(timeout=60) == 143, job.stderr
    progress = read_container(folder / "output/train/slow data/checkpoint-latest.safetensors").state["progress"]
    assert progress["iteration"] == 4
