"""serve.py in a process of its own, and what it holds of the machine."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.load import closed_loops, run
from bench.side import ROOT, SideError, environment


@dataclass(frozen=True, kw_only=True)
class Use:
    """What processes hold: resident memory, open files, threads."""

    megabytes: float
    files: int
    threads: int


class Server:
    """serve.py on a free port."""

    def __init__(self, model_dir: str, *, engine: str, threads: int, log: Path) -> None:
        self._log = log
        with open(log, "w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "serve.py", "--model_dir", model_dir, "--port", "0", "--engine", engine,
                 "--cpu_threads", str(threads), "--no_log_requests"],
                cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stderr=file,
            )  # fmt: skip
        self.port = self._listening()

    def _listening(self) -> int:
        while self._process.poll() is None:
            found = re.search(r'"url": "[^"]*:(\d+)"', self._log.read_text(encoding="utf-8"))
            if found is not None:
                return int(found[1])
            time.sleep(0.1)
        raise SideError(f"serve.py ended: {self._log.read_text(encoding='utf-8')[-500:]}")

    def wait_ready(self, image: bytes) -> None:
        """Waits until a picture is answered, and a hundred more are: speeds change while an engine warms up."""
        while run(lambda: closed_loops(self.port, [image], clients=1, requests=1))[0].status != 200:
            time.sleep(0.2)
        run(lambda: closed_loops(self.port, [image], clients=4, requests=100))

    def use(self) -> Use:
        """Returns what the server and its engines hold."""
        pids, megabytes, files, threads = [self._process.pid], 0.0, 0, 0
        while pids:
            process = Path(f"/proc/{pids.pop()}")
            status = (process / "status").read_text(encoding="ascii", errors="replace")
            megabytes += int((re.search(r"VmRSS:\s+(\d+)", status) or ["", "0"])[1]) / 1024
            files += len(list((process / "fd").iterdir()))
            tasks = list((process / "task").iterdir())
            threads += len(tasks)
            for task in tasks:  # an engine is a child of the thread that started it
                pids += map(int, (task / "children").read_text(encoding="ascii").split())
        return Use(megabytes=megabytes, files=files, threads=threads)

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[float]]:
        """Collects the megabytes, once a second, while a block runs."""
        seen, over = [self.use().megabytes], threading.Event()

        def watch() -> None:
            while not over.wait(1.0):
                seen.append(self.use().megabytes)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)
