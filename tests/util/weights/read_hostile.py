"""Reads each file of a folder in one process that watches itself; test_hostile_files.py starts it.

Prints a line of JSON for each: how reading ended, for how long it ran, what memory it took, and each event that
Python's audit hooks saw but opening that very file. `CONTROL` is then unpickled by Python.
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

from tests.hostile_files import EXTENSION_CODES
from util.errors import UserError
from util.weights.formats import read_raw

MEMORY = 3 << 30

watched: Path | None = None
events: list[str] = []


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if watched is None or (event == "open" and arguments[0] == str(watched) and arguments[1] == "rb"):
        return
    if event not in ("mmap.__new__", "sys._getframe"):
        events.append(f"{event} {str(arguments)[:100]}")


def unpickle(path: Path) -> None:
    with open(path, "rb") as file:
        pickle.load(file)


def observe(path: Path, read: Any) -> dict[str, Any]:
    """Reads a file while the audit hook watches."""
    global watched
    events.clear()
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
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
    seconds = time.perf_counter() - start
    return {"code": code, "message": message, "seconds": seconds, "growth": growth * 1024, "events": events.copy()}


def slowness() -> float:
    """How many times slower this machine is, now, than one that counts to two million in 0.1 seconds."""
    start = time.perf_counter()
    for _ in range(2_000_000):
        pass
    return max(1.0, (time.perf_counter() - start) / 0.1)


def main() -> None:
    folder = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for code in EXTENSION_CODES.values():
        copyreg.add_extension("os", "system", code)
        copyreg._extension_cache[code] = os.system  # type: ignore[attr-defined]
        copyreg.remove_extension("os", "system", code)
        copyreg._extension_cache[code] = os.system  # type: ignore[attr-defined]
    sys.addaudithook(audit)
    for path in sorted(folder.glob("*.warm")):  # what numpy and json import when they are first used
        observe(path, read_raw)
    # by size: a peak of the process hides smaller ones that follow
    for path in sorted(folder.glob("*.hostile"), key=lambda p: p.stat().st_size):
        result = observe(path, read_raw)
        print(json.dumps({"name": path.stem, "slowness": slowness() if result["seconds"] > 1 else 1.0, **result}))
    print(json.dumps({"name": "before", "canary": Path("canary").exists()}))
    control = observe(folder / "CONTROL", unpickle)
    print(json.dumps({"name": "control", **control, "canary": Path("canary").exists()}))


if __name__ == "__main__":
    main()
