"""A process that runs an exported program for the server, with a predictor of its own.

Paddle Inference holds Python's lock while it computes, gives wrong answers when threads share a predictor, and takes
the process along when it crashes. So the server has its predictors in processes: images go there through memory that
both share, logits and attention maps come back through a pipe.

    python -m util.serving.engine_process PIPE MEMORY    (numbers of open files; the server starts it so)
"""

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import INTERNAL, UserError, WeightsError

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600.0  # that an engine may take to load its program and answer a first batch
GIVES_WAY = 5  # of priority, to the server: it has to answer, and to refuse, while the engine uses every core


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What to run: place of the export and name of the program; engine, precision and device as infer.py has them.

    manifest: what the server has verified, and answers by. is_foreign: whether the program is of another project and
    has none beside it; then `place` and `params` are its files.
    """

    place: str
    params: str | None
    name: str
    precision: str
    programs: tuple[str, ...]
    device: str
    threads: int
    onednn: bool
    image_shape: tuple[int, int, int]  # C, H, W
    max_batch: int
    manifest: dict[str, Any]
    is_foreign: bool


class EngineError(Exception):
    """The process ended, or its program failed on a batch; the message is for the log."""


class StartError(UserError):
    """The process could not load its program: with its own words and exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class EngineProcess:
    """The server's end. `start`, then `run` by one thread at a time; `kill` by any."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        size = 4 * spec.max_batch * int(np.prod(spec.image_shape))
        self._file = _shared_file(size)
        self._memory = mmap.mmap(self._file, size)
        self._images = np.frombuffer(self._memory, np.float32).reshape((spec.max_batch, *spec.image_shape))
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        """Returns whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process and waits until it has answered a first batch. What keeps it from that is a StartError."""
        own, other = Pipe()
        passed = (other.fileno(), self._file)
        command = [sys.executable, "-m", "util.serving.engine_process", *map(str, passed)]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.spec.threads)}
        with other:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, pass_fds=passed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        self._pipe = own
        try:
            own.send_bytes(json.dumps(asdict(self.spec)).encode())
            if not own.poll(START_SECONDS):
                self.kill()
                raise StartError(f"the engine was not ready after {START_SECONDS:.0f} seconds", INTERNAL)
            reply = json.loads(own.recv_bytes())
        except (EOFError, OSError):
            raise StartError(f"the engine's process ended: {self.last_words()}", INTERNAL) from None
        if "error" in reply:
            self.kill()
            raise StartError(reply["error"], reply["exit_code"])

    def run(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns all outputs, as `Forward.outputs` does, for images, float32 (C, H, W) each, at most `max_batch`.

        Else an EngineError.
        """
        assert self._pipe is not None
        with self._lock:
            np.stack(images, out=self._images[: len(images)])
            try:
                self._pipe.send_bytes(len(images).to_bytes(4, "little"))
                reply = json.loads(self._pipe.recv_bytes())
                if "error" in reply:
                    raise EngineError(reply["error"])
                return [np.frombuffer(self._pipe.recv_bytes(), np.float32).reshape(s) for s in reply["shapes"]]
            except (EOFError, OSError):
                raise EngineError(f"the engine's process ended: {self.last_words()}") from None

    def kill(self) -> None:
        """Ends the process at once; who waits in `run` gets an EngineError."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Ends the process and lets go of the memory."""
        self.kill()
        with self._lock:
            if self._pipe is not None:
                self._pipe.close()
            del self._images
            self._memory.close()
            os.close(self._file)

    def last_words(self) -> str:
        """Returns how the process ended."""
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _shared_file(size: int) -> int:
    """Returns an open file of zeros that has no name: in memory where the system can, else in the temporary folder."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("images")
    else:
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    os.truncate(number, size)
    return number


def serve_engine(pipe: Connection, file: int) -> None:
    """The process's end: loads the program, answers a first batch, then one batch after the other until the pipe ends.

    An error while loading is told through the pipe, as is a batch on which the program fails.
    """
    values = json.loads(pipe.recv_bytes())
    values |= {name: tuple(values[name]) for name in ("programs", "image_shape")}
    spec = EngineSpec(**values)
    images = np.frombuffer(mmap.mmap(file, 0), np.float32).reshape((spec.max_batch, *spec.image_shape))
    try:
        from util import runtime
        from util.deploy.bundle import load_bundle
        from util.deploy.engine_choice import Engine
        from util.deploy.engines import start_engine
        from util.deploy.foreign import reopen

        engine = Engine(name=spec.name, precision=spec.precision, programs=spec.programs)  # type: ignore[arg-type]
        if engine.needs_paddle:
            runtime.start(spec.threads)
        if spec.is_foreign:
            assert spec.params is not None
            program = reopen(spec.place, spec.params, spec.manifest)
        else:
            program = load_bundle(spec.place, params=spec.params).program(spec.programs)
            if json.loads(json.dumps(asdict(program.manifest))) != spec.manifest:
                raise WeightsError(f"{spec.place}: is another export than when the server started; start it anew")
        forward = start_engine(engine, program, device=spec.device, threads=spec.threads, onednn=spec.onednn)
        for count in sorted({1, spec.max_batch}):  # what is allocated or compiled at first is, before anybody waits
            forward(images[:count])
    except UserError as error:
        pipe.send_bytes(json.dumps({"error": str(error), "exit_code": error.exit_code}).encode())
        return
    pipe.send_bytes(json.dumps({"ready": str(engine)}).encode())
    while True:
        try:
            count = int.from_bytes(pipe.recv_bytes(), "little")
        except EOFError:  # the server has gone
            return
        try:
            outputs = [np.ascontiguousarray(output, np.float32) for output in forward.outputs(images[:count])]
        except UserError as error:
            pipe.send_bytes(json.dumps({"error": str(error)}).encode())
            continue
        pipe.send_bytes(json.dumps({"shapes": [output.shape for output in outputs]}).encode())
        for output in outputs:
            pipe.send_bytes(output.tobytes())


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the server's, which ends this process when it has answered all
        signal.signal(number, signal.SIG_IGN)
    os.nice(GIVES_WAY)
    serve_engine(Connection(int(sys.argv[1])), int(sys.argv[2]))
