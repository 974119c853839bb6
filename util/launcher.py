"""Paddle's launcher, with a note of how each of its processes ended. `run.sh` starts it through `util/job.py`.

`paddle.distributed.launch` ends with the exit status of any process, often of one that it killed itself. Here a thread
writes a line `rank code time` into the file `exits` of the log folder as soon as a process has ended: code as Python's
subprocess has it, negative for a signal; time in seconds since 1970. The same thread ends everything when the process
that started the launcher is gone: Paddle's own way, on the SIGTERM that comes then, may take 30 s. Where no line can be
written, as the folder was removed or the disk is full, the launcher's own exit code says what the lines would have.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from util.errors import INTERRUPTED, RESUMABLE, TERMINATED
from util.notes import EXITS, NOTES_VARIABLE
from util.processes import LAUNCHER_VARIABLE, descendants, send
from util.runtime import leave_out_setuptools

_LOOK_SECONDS = 0.1
_ORPHAN_SECONDS = 10.0  # for saving, once the starter is gone
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.ENOENT)  # Paddle's launcher writes files before it starts a process
_FOLLOWS = (RESUMABLE, INTERRUPTED, TERMINATED)  # codes with which processes end because of another, or of a signal


def main() -> None:
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    leave_out_setuptools()
    # Here, after the variables are set: Paddle's launcher copies them when it is made.
    from paddle.distributed.launch import controllers
    from paddle.distributed.launch.context import Context

    controller = controllers.init(Context())
    exits = ExitNotes(controller.pod, Path(os.environ[NOTES_VARIABLE]) / EXITS)
    threading.Thread(target=exits.watch, daemon=True).start()
    try:
        controller.run()
        controller.finalize()  # exits
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        notes = os.environ[NOTES_VARIABLE]
        with contextlib.suppress(OSError):  # standard error may be on the same disk
            os.write(2, f"error: {notes}: no place for the logs of the processes: {error.strerror}\n".encode())
        sys.exit(RESUMABLE)
    finally:
        exits.look()
        if exits.unwritten:
            sys.exit(exits.unwritten_code())


class ExitNotes:
    """Writes down which process ended when, and how.

    pod: Paddle's; its `containers` are the processes, in the order of their ranks.
    """

    def __init__(self, pod: Any, path: Path) -> None:
        self._pod, self._path = pod, path
        self._known: set[int] = set()
        self.unwritten: list[int] = []  # codes of failed processes, as they came, that could not be written down
        self._starter = os.getppid()
        self._lock = threading.Lock()

    def watch(self) -> None:
        while os.getppid() == self._starter:
            self.look()
            time.sleep(_LOOK_SECONDS)
        time.sleep(_ORPHAN_SECONDS)
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL)
        os._exit(RESUMABLE)

    def look(self) -> None:
        with self._lock:
            for i, container in enumerate(self._pod.containers):
                # without a process the code is -1, while it starts or runs it is None
                if i in self._known or container.status == "uninit" or container.exit_code is None:
                    continue
                self._known.add(i)
                code = container.exit_code
                try:
                    with self._path.open("a", encoding="utf-8") as file:
                        file.write(f"{container.env['PADDLE_TRAINER_ID']} {code} {time.time():.3f}\n")
                except OSError:
                    self.unwritten += [code] if code else []

    def unwritten_code(self) -> int:
        """Returns the exit code of the first process that failed by itself, 75 if a signal killed the first of all."""
        own = [code for code in self.unwritten if code > 0 and code not in _FOLLOWS]
        return own[0] if own else max(self.unwritten[0], 0) or RESUMABLE
