"""No secret of the environment appears in a file when run.sh is used. Paddle's launcher by itself writes all of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scripts.background import Background, make_stand_in, start_stand_in, wait_until
from tests.scripts.run import TINY, port
from tests.trees import write_tree

CANARY = "s3cr3t-canary"
SECRETS = {
    "CANARY_TOKEN": CANARY,
    "AWS_SECRET_ACCESS_KEY": CANARY,
    "WANDB_API_KEY": CANARY,
    "HF_TOKEN": CANARY,
    "NVIDIA_API_KEY": CANARY,  # these have the beginning of a variable that is passed on
    "NCCL_PASSWORD": CANARY,
    "CUDA_CREDENTIALS": CANARY,
    "HTTPS_PROXY": f"http://user:{CANARY}@192.0.2.1:8080",
    "https_proxy": f"http://user:a/{CANARY}@192.0.2.1:8080",
    "http_proxy": f"user:{CANARY}@192.0.2.1:8080",
    "NCCL_auth_token": CANARY,
    "CUDA_password": CANARY,
    "UNKNOWN": CANARY,
}


def leaks(*folders: Path) -> list[Path]:
    """Returns what holds the canary, in its content or its name."""
    found = [path for folder in folders for path in folder.rglob("*")]
    assert found, "nothing was written at all"
    return [p for p in found if CANARY in p.name or (p.is_file() and CANARY.encode() in p.read_bytes())]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make_stand_in(tmp_path)


def wait_started(place: Path, job: Background, processes: int) -> None:
    wait_until(lambda: len(list((place / "work").glob("pid.*"))) == processes, "started")
    job.look()


@pytest.mark.parametrize(
    ("processes", "act"),
    [(1, "environment"), (1, "fail:65"), (2, "environment"), pytest.param(2, "fail:65", marks=pytest.mark.slow)],
)
def test_nothing_leaks_when_a_job_ends(place: Path, processes: int, act: str) -> None:
    """The processes themselves write down what they were given, too."""
    with start_stand_in(place, "-g", str(processes), *[act] * processes, **SECRETS) as job:
        assert job.code(30) == (65 if act == "fail:65" else 0)
        assert leaks(place / "tmp", place / "work") == []
        assert CANARY not in job.stdout + job.stderr
        assert "note: HTTPS_PROXY may hold a password and is not passed on" in job.stderr
        for folder in (place / "tmp").iterdir():
            assert folder.stat().st_mode & 0o777 == 0o700


def test_nothing_leaks_while_a_job_runs_and_after_it_was_killed(place: Path) -> None:
    with start_stand_in(place, "-g", "2", "train", "train", **SECRETS) as job:
        wait_started(place, job, 2)
        files = [path.name for path in (place / "tmp").rglob("*")]
        assert "backup_env.0.json" in files, "the launcher did write its environment"
        assert leaks(place / "tmp", place / "work") == []
        os.kill(job.pid, signal.SIGKILL)
        job.wait_gone(15)
        assert leaks(place / "tmp", place / "work") == []


def test_what_training_needs_is_passed_on(place: Path) -> None:
    given = {
        "NCCL_DEBUG": "INFO",
        "HTTP_PROXY": "http://192.0.2.1:8080",
        "WANDB_MODE": "offline",
        "XDG_CACHE_HOME": "/c",
    }
    with start_stand_in(place, "environment", **given) as job:
        assert job.code(30) == 0
        assert given.items() <= dict(line.split("=", 1) for line in job.stdout.splitlines()).items()


def test_a_key_for_wandb_is_answered_with_how_to_log_in(place: Path) -> None:
    with start_stand_in(place, "environment", "--log_wandb", WANDB_API_KEY=CANARY) as job:
        assert job.code(30) == 0
        assert "log in once with: wandb login" in job.stderr


def test_the_launcher_itself_writes_every_secret(place: Path) -> None:
    """The control: without run.sh the canary is in the launcher's files."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", "log", "--nproc_per_node", "2"]
    subprocess.run(
        [*command, str(place / "train.py"), "count:0:0", "count:0:0"], cwd=place / "work", timeout=60, check=True,
        env=os.environ | SECRETS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert {"envlog.0", "backup_env.1.json"} <= {path.name for path in leaks(place / "work/log")}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_nothing_leaks_when_train_py_trains(tmp_path: Path, processes: int) -> None:
    write_tree(tmp_path / "data", num_classes=2, train=8, val=4)
    (tmp_path / "tmp").mkdir()
    arguments = ("--data_dir", "data", *TINY, "--epochs", "1", "--experiment", "secret")
    environment: Any = SECRETS | {"TMPDIR": str(tmp_path / "tmp")}
    with Background("-g", str(processes), "-p", port(), *arguments, cwd=tmp_path, **environment) as job:
        assert job.code(120) == 0
    assert leaks(tmp_path / "output") == []
    assert list((tmp_path / "tmp").iterdir()) == []
