"""Reads each file of a folder in one process that watches itself; test_hostile_files.py starts it.

Prints a line of JSON for each: how reading ended, what processor time and memory it took, and each event that
Python's audit hooks saw but opening that very file. Controls are then unpickled by Python itself.
"""

import copyreg
import json
import os
import pickle
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tests.hostile_pickles import EXTENSION_CODES
from util.errors import UserError
from util.weights.formats import read_raw

MEMORY = 3 << 30

watched: Path | None = None
events: list[str] = []


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if watched is None or event in ("mmap.__new__", "sys._getframe"):
        return
    if event != "open" or arguments[0] != str(watched) or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        events.append(f"{event} {str(arguments)[:100]}")


def unpickle(path: Path) -> None:
    with open(path, "rb") as file:
        pickle.load(file)


def observe(path: Path, read: Any) -> dict[str, Any]:
    """Reads a file while the audit hook watches."""
    global watched
    events.clear()
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    watched = path
    try:
        read(path)
        code, message = 0, ""
    except UserError as error:
        code, message = error.exit_code, str(error)
    except BaseException as error:
        code, message = -1, repr(error)
    watched = None
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    seconds = time.process_time() - start
    return {"code": code, "message": message, "seconds": seconds, "growth": growth * 1024, "events": events.copy()}


def slowness() -> float:
    """How many times slower this machine is, now, than one that counts to two million in 0.1 seconds."""
    start = time.process_time()
    for _ in range(2_000_000):
        pass
    return max(1.0, (time.process_time() - start) / 0.1)


def main() -> None:
    folder = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for code in EXTENSION_CODES.values():
        copyreg._extension_cache[code] = os.system  # type: ignore[attr-defined]  # where Python's unpickler looks first
    sys.addaudithook(audit)
    for path in sorted(folder.glob("*.warm")):  # what numpy and json import when they are first used
        observe(path, read_raw)
    # by size: a peak of the process hides smaller ones that follow
    for path in sorted(folder.glob("*.hostile"), key=lambda p: p.stat().st_size):
        result = observe(path, read_raw)
        print(json.dumps({"name": path.stem, "slowness": slowness() if result["seconds"] > 1 else 1.0, **result}))
    print(json.dumps({"name": "before", "canary": Path("canary").exists()}))
    for path in sorted(folder.glob("*.control")):
        result = observe(path, unpickle)
        print(json.dumps({"name": path.stem, **result, "canary": Path("canary").exists()}))
        Path("canary").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
