"""A script of the project that runs while a test looks on, and that leaves nothing behind, whatever the test finds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.scripts.run import ROOT, port
from util.processes import children, descendants, send

SLOWED = ROOT / "tests/scripts/slowed.py"
SLOWNESS = float(os.environ.get("TEST_SLOWNESS", "1"))  # by which promised seconds are stretched on a slow machine


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> float:
    """Returns after how many seconds the condition came true; an AssertionError when it does not."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"after {seconds:g} s: not {what}"
        time.sleep(0.02)
    return time.monotonic() - start


def alive(pids: set[int]) -> set[int]:
    """Returns which of these processes live; zombies do not."""
    return pids & {pid for below in children().values() for pid in below}


def started(pid: int) -> str | None:
    """Returns when a process was started, in ticks since the machine was; None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


class Background:
    """`bash run.sh ARGUMENTS`, or another command, in a session of its own as a terminal's foreground job is.

    `with Background(...) as job:` kills what is left of it at the end.
    """

    def __init__(self, *arguments: str | Path, cwd: Path, script: Path = ROOT / "run.sh", **environment: str) -> None:
        program = ["bash"] if script.suffix == ".sh" else [sys.executable]
        self.seen: dict[int, str] = {}  # process numbers, which are given out again, with when each was started
        self._out, self._err = cwd / ".stdout", cwd / ".stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*program, str(script), *map(str, arguments)], cwd=cwd, stdout=out, stderr=err, start_new_session=True,
                env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | environment,
            )  # fmt: skip

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self.look():
            send(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8", errors="replace")

    def look(self) -> set[int]:
        """Returns every living process that belongs to it, also one that lost its parent since it was seen."""
        for root in [self.pid, *self._left()]:
            self.seen |= {pid: start for pid in (root, *descendants(root)) if (start := started(pid)) is not None}
        return self._left()

    def _left(self) -> set[int]:
        return {pid for pid in alive(set(self.seen)) if started(pid) == self.seen[pid]}

    def launcher(self) -> int:
        """Returns the launcher's process id, once its processes have started."""
        [launcher] = children()[self.pid]
        return launcher

    def wait_gone(self, seconds: float) -> float:
        """Returns after how many seconds no process was left."""
        start = time.monotonic()

        def gone() -> bool:
            self.process.poll()  # or it stays a zombie
            return not self.look()

        wait_until(gone, "ended", seconds)
        return time.monotonic() - start

    def code(self, seconds: float = 60.0) -> int:
        """Waits for the end and returns the exit code; what it started is then gone, too."""
        self.look()
        found = self.process.wait(seconds)
        assert self.look() == set(), "orphans"
        return found


def make_stand_in(folder: Path) -> Path:
    """Makes a project whose train.py and eval.py are stand_in.py, with `tmp` for logs and `work` to start it in."""
    shutil.copy(ROOT / "run.sh", folder)
    (folder / "util").symlink_to(ROOT / "util")
    for script in ("train.py", "eval.py"):
        shutil.copy(ROOT / "tests/scripts/stand_in.py", folder / script)
    for name in ("tmp", "work"):
        (folder / name).mkdir()
    return folder


def start_stand_in(place: Path, *arguments: str, **environment: str) -> Background:
    """Starts run.sh of that project."""
    options = ("-p", port()) if "-g" in arguments else ()
    environment = {"TMPDIR": str(place / "tmp")} | environment
    return Background(*options, *arguments, cwd=place / "work", script=place / "run.sh", **environment)
