"""Makes the three saves of `tests.runs` in a folder, and kills itself at an operation; a test starts it."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.faulty_storage import FaultyStorage
from tests.runs import open_run, save


def main(folder: str, operation: str) -> None:
    def before(number: int, kind: str) -> None:
        if number == int(operation):
            os.kill(os.getpid(), signal.SIGKILL)

    run = open_run(Path(folder))
    FaultyStorage(before).install(pytest.MonkeyPatch())
    for number in range(3):
        save(run, number)


if __name__ == "__main__":
    main(*sys.argv[1:])
