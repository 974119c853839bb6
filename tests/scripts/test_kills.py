"""kill -9 at any moment: the next start goes on as if nothing had happened, and comes to the same end."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.background import SLOWNESS, Background, wait_until
from tests.scripts.run import ROOT, port, run
from tests.scripts.same_run import RANDOM, end_of
from tests.trees import write_tree
from util.processes import children

ARGUMENTS = ("data", *RANDOM, "--update_freq", "2", "--epochs", "4", "--save_updates", "1", "--log_interval", "1")
PAIR = ("-g", "2", *ARGUMENTS, "--batch_size", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kills")
    write_tree(place / "data")
    return place


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    """The end of the run that nobody disturbs."""
    run("train.py", *ARGUMENTS, "--experiment", "whole", cwd=folder)
    return end_of(folder / "output/train/whole")


@pytest.fixture(scope="module")
def whole_of_two(folder: Path) -> dict[str, Any]:
    run("run.sh", "-p", port(), *PAIR, "--experiment", "pair", cwd=folder)
    return end_of(folder / "output/train/pair")


def killed_until_finished(command: list[str], *, folder: Path, kills: int, rng: random.Random) -> int:
    """Starts a run again and again, each time killed at a random moment, `kills` times at most, then left alone.

    The moment is within half a second after the first update, one time in four while the run begins. Returns how many
    kills there were.
    """
    for attempt in range(kills):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *command], cwd=folder, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert process.stderr is not None
        if rng.random() < 0.25:
            time.sleep(rng.uniform(0.2, 3.0))
        else:
            said = next((line for line in process.stderr if "Epoch: [" in line or "finished" in line), "")
            assert said, "ended before its first update"
            time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        if process.returncode == 0:  # it was faster
            return attempt
    run("train.py", *command, cwd=folder)
    return kills


def check_kills(folder: Path, whole: dict[str, Any], *, workers: int, kills: int, seed: int) -> None:
    """A run that is killed now and again ends as the undisturbed one."""
    name = f"kills{workers}-{seed}"
    command = [*ARGUMENTS, "--num_workers", str(workers), "--experiment", name]
    count = killed_until_finished(command, folder=folder, kills=kills, rng=random.Random(seed))
    print(f"{count} kills, {workers} workers")
    assert count >= kills // 2, f"{count} kills only: the run is too short"
    assert end_of(folder / "output/train" / name) == whole
    assert not list((folder / "output/train" / name).glob(".tmp-*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_kills_at_random_moments_change_nothing(folder: Path, whole: dict[str, Any], workers: int) -> None:
    check_kills(folder, whole, workers=workers, kills=6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_kills_at_random_moments_change_nothing(
    folder: Path, whole: dict[str, Any], workers: int, seed: int
) -> None:
    """40 runs of 5 to 10 kills: 200 at least."""
    check_kills(folder, whole, workers=workers, kills=10, seed=seed)


def test_a_checkpoint_without_its_place_in_the_epoch_would_be_noticed(folder: Path, whole: dict[str, Any]) -> None:
    """The comparison is strict enough: a run that trains its epoch anew after a kill does not come to the same end."""
    code = (
        "import sys; from util.train import run as r; find = r.find_start\n"
        "def forget(*a, **k):\n    c = find(*a, **k)\n    p = c and c.state['progress']\n"
        "    p and p.update(iteration=0, sums=[])\n    return c\n"
        "r.find_start = forget; import train; train.main(sys.argv[1:])"
    )
    command = [*ARGUMENTS, "--experiment", "forgetful"]
    place = folder / "output/train/forgetful"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    marker = folder / "forgetful.marker"
    with Background("step", marker, *command, cwd=folder, script=ROOT / "tests/scripts/slowed.py") as job:
        wait_until(marker.exists, "in the third update")
        job.process.kill()
    subprocess.run([sys.executable, "-c", code, *command], cwd=folder, env=environment, check=True, capture_output=True)
    assert end_of(place)["log"] != whole["log"]


@pytest.mark.parametrize("victim", ["rank 0", "rank 1", "launcher"])
def test_two_processes_survive_the_kill_of_one_of_them(folder: Path, whole_of_two: dict[str, Any], victim: str) -> None:
    check_pair(folder, whole_of_two, victim=victim, name=f"pair {victim}", seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["rank 0", "rank 1", "launcher", "run.sh"])
@pytest.mark.parametrize("seed", range(10, 20))
def test_two_processes_survive_many_kills(folder: Path, whole_of_two: dict[str, Any], victim: str, seed: int) -> None:
    check_pair(folder, whole_of_two, victim=victim, name=f"pair {victim} {seed}", seed=seed)


def check_pair(folder: Path, whole: dict[str, Any], *, victim: str, name: str, seed: int) -> None:
    """One process of a job of two is killed: all are gone within 15 s, and the next start comes to the same end."""
    rng = random.Random(seed)
    log, lines = folder / "output/train" / name / "train.log", rng.randint(1, 18)  # of 24
    with Background("-p", port(), *PAIR, "--num_workers", "1", "--experiment", name, cwd=folder) as job:
        wait_until(lambda: log.exists() and log.read_text().count("Epoch: [") >= lines, f"{lines} lines of log")
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(find_victim(job, victim), signal.SIGKILL)
        print(f"{victim} killed: all gone after {job.wait_gone(15 * SLOWNESS):.1f} s")
        assert job.process.wait(10) in (75, -9), job.stderr
    run("run.sh", "-p", port(), *PAIR, "--experiment", name, cwd=folder)
    assert end_of(folder / "output/train" / name) == whole


def find_victim(job: Background, victim: str) -> int:
    """Returns the process to kill."""
    if victim == "run.sh":
        return job.pid
    if victim == "launcher":
        return job.launcher()
    return next(pid for pid in children()[job.launcher()] if f"PADDLE_TRAINER_ID={victim[-1]}" in _environment(pid))


def _environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
