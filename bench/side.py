"""One side of a comparison: a process that measures once for every line it is sent. Standard library only."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class SideError(RuntimeError):
    """A side could not be started or measured."""


def serve(measure: Callable[[], float]) -> None:
    """Measures once for each line of standard input, and prints the figure as a line of JSON.

    measure: returns the figure. It is called once before, to warm up. What it prints itself goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    measure()
    print(json.dumps("ready"), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), file=answers, flush=True)


class Served:
    """A script that calls `serve`, under an interpreter of its own; its processor is free while the other measures."""

    def __init__(self, python: str, script: str, arguments: Sequence[str]) -> None:
        self._script = script
        self._process = subprocess.Popen(
            [python, str(ROOT / "bench/sides" / script), *arguments],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._answer() != "ready":
            raise SideError(f"{script} did not say that it is ready")

    def measure(self) -> float:
        """Returns the next figure."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str | float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SideError(f"{self._script} ended with {self._process.wait()}; its reason stands above")
        try:
            found: str | float = json.loads(line)
        except ValueError:
            raise SideError(f"{self._script} said {line.strip()[:80]!r} instead of a figure") from None
        return found


class Command:
    """A whole command; its figure is the seconds from start to end."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self.measure()  # so that its files are in memory

    def measure(self) -> float:
        """Runs it once and returns the seconds; one that fails is a SideError."""
        begun = time.perf_counter()
        run(self._command)
        return time.perf_counter() - begun

    def close(self) -> None:
        """Does nothing: the command has ended."""


def run(command: Sequence[str]) -> None:
    """Runs a command that prepares a side, quietly; one that fails is a SideError."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SideError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")


def environment() -> dict[str, str]:
    """Returns this process's environment with the project on Python's path."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}
