"""Processes that read every file: one that hangs or was stopped is named, and none is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts.background import alive, wait_until
from tests.scripts.run import ROOT
from tests.trees import write_tree
from util.processes import children, send

HANGING = """
import sys, time
from util.data import check, inspection
from util.errors import run_script

plain = inspection.inspect_file

def slow(path, *, decode):
    time.sleep(600 if path.endswith("n01440764 2.JPEG") else float(sys.argv.pop()))
    return plain(path, decode=decode)

inspection.inspect_file = slow
run_script(lambda argv: check.main(sys.argv[1:-10]))
"""
SLOW = HANGING.replace("600 if", "0 if")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", num_classes=1, train=8, val=0)


class Check:
    """The command, whose processes need `seconds` for each image; `n01440764 2.JPEG` never ends, if it hangs."""

    def __init__(self, root: Path, *, timeout: float, seconds: float, hangs: bool = False) -> None:
        # from the end of the arguments each process takes one pause an image
        arguments = [str(root), "--split", "train", "-j", "2", "--data_timeout", str(timeout), *[str(seconds)] * 10]
        command = [sys.executable, "-c", HANGING if hangs else SLOW, *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.workers: list[int] = []

    def wait_started(self) -> list[int]:
        """Returns the processes: the first has all images, the other waits."""

        def started() -> bool:
            self.workers = sorted(children().get(self.process.pid, []))
            return len(self.workers) == 2

        wait_until(started, "started", 60)
        return self.workers

    def end(self) -> str:
        """Returns what it said, when it has ended by itself."""
        _, said = self.process.communicate(timeout=60)
        return said


@pytest.fixture
def checks() -> Iterator[list[Check]]:
    """Kills what is left of the commands that a test puts into it."""
    found: list[Check] = []
    yield found
    for check in found:
        for pid in [*check.workers, check.process.pid]:
            send(pid, signal.SIGKILL)
        check.process.wait()


def test_a_file_that_cannot_be_read_to_its_end_is_named(root: Path, checks: list[Check]) -> None:
    checks.append(check := Check(root, timeout=1.5, seconds=0.0, hangs=True))
    check.wait_started()
    said = check.end()
    assert check.process.returncode == 75
    assert f"error: process {check.workers[0]}, which reads images, hangs for 2 s (--data_timeout 1.5) at " in said
    assert "train/n01440764/n01440764 2.JPEG; run again, once that file can be read\n" in said
    assert "Traceback" not in said
    assert alive(set(check.workers)) == set()


def test_a_stopped_process_is_named_and_killed(root: Path, checks: list[Check]) -> None:
    checks.append(check := Check(root, timeout=1.5, seconds=0.7))
    worker, _ = check.wait_started()
    time.sleep(0.3)
    os.kill(worker, signal.SIGSTOP)
    said = check.end()
    assert check.process.returncode == 75
    assert f"process {worker}, which reads images, is stopped for 2 s (--data_timeout 1.5) at {root}/train/n0" in said
    assert alive({worker}) == set()


def test_a_stopped_process_ends_with_its_parent(root: Path, checks: list[Check]) -> None:
    checks.append(check := Check(root, timeout=60, seconds=5))
    worker, _ = check.wait_started()
    time.sleep(0.3)
    os.kill(worker, signal.SIGSTOP)
    check.process.kill()
    wait_until(lambda: alive({worker}) == set(), "ended", 5)


def test_slow_files_and_a_pause_of_the_whole_command_are_no_failure(root: Path, checks: list[Check]) -> None:
    """The control: all images together, and the pause, take longer than the timeout."""
    checks.append(check := Check(root, timeout=1.8, seconds=0.4))
    check.wait_started()
    time.sleep(0.3)
    os.killpg(check.process.pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.killpg(check.process.pid, signal.SIGCONT)
    assert "train: 8 images read in " in check.end()
    assert check.process.returncode == 0
