"""Calling the scripts as a user calls them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(
    *command: str | Path, cwd: Path, code: int = 0, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python <script> ...` (or `bash run.sh ...`) in a folder and checks the exit code.

    A user never sees a traceback, whatever the exit code.
    """
    script, *arguments = map(str, command)
    program = ["bash"] if script.endswith(".sh") else [sys.executable]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "WANDB_MODE": "offline"} | environment
    env.pop("PYTEST_CURRENT_TEST", None)
    done = subprocess.run(
        [*program, str(ROOT / script), *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def last_error(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the text of the one `error:` line."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0].removeprefix("error: ")


def port() -> str:
    """Returns a port for the launcher that no other test process uses."""
    return str(20000 + os.getpid() % 20000)


TINY = ("--model", "cvt_nano_32x32", "--batch_size", "4", "--num_workers", "0", "--warmup_epochs", "0")
