"""Takes the steps of deploy/Dockerfile in an empty folder, and tries the server that comes of them.

What stands for what: a virtual environment for the base image, a folder for the image's root, a free port for the one
that EXPOSE names. Where root starts this, the user is that of USER.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from deploy.dockerfile import Instruction, context_files, substitute
from util.errors import DataError, UsageError

SHELL = ("/bin/sh", "-c")
READY_SECONDS = 90.0
STOP_SECONDS = 15.0
Run = Callable[[Sequence[str], Path, Mapping[str, str]], None]  # command, working directory, environment


@dataclass(kw_only=True)
class Image:
    """What the steps have made. root: the folder that stands for `/`; user: number; None: whoever runs this."""

    root: Path
    environment: dict[str, str]
    workdir: str = "/"
    user: int | None = None
    port: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    healthcheck: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Returns the working directory."""
        return self.root / self.workdir.lstrip("/")

    @property
    def groups(self) -> list[int] | None:
        """Returns the further groups of the user."""
        return None if self.user is None else []


def build(
    steps: Sequence[Instruction], *, context: Path, root: Path, environment: Mapping[str, str], run: Run
) -> Image:
    """Takes the steps, and returns what they made.

    environment: the base image's, with a PATH that has its Python. run: runs a command of RUN, or raises. A RUN that
    names an absolute path would change this machine and not the folder: it is a UsageError.
    """
    image = Image(root=root, environment=dict(environment))
    for step in steps:
        if step.name == "WORKDIR":
            image.workdir = str(PurePosixPath(image.workdir, substitute(step.rest, image.environment)))
            image.folder.mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY":
            _copy(step, context, image)
        elif step.name == "RUN":
            command = substitute(step.rest, image.environment)
            if any(word.startswith(("/", "apt")) for word in step.words):
                raise UsageError(f"line {step.line}: RUN {command}: would change this machine; it needs a container")
            run([*SHELL, command], image.folder, image.environment)
        elif step.name == "ENV":
            pairs = [word.partition("=")[::2] for word in step.words]  # values do not see each other
            image.environment |= {name: substitute(value, image.environment) for name, value in pairs}
        elif step.name == "USER":
            image.user = int(step.rest.partition(":")[0])
        elif step.name == "EXPOSE":
            image.port = step.rest
        elif step.name == "STOPSIGNAL":
            image.stop_signal = signal.Signals[step.rest]
        elif step.name == "HEALTHCHECK":
            image.healthcheck = json.loads(step.rest.removeprefix("CMD "))
        elif step.name == "ENTRYPOINT":
            image.entrypoint = step.words
    return image


def _copy(step: Instruction, context: Path, image: Image) -> None:
    """A folder's content goes to the target; files go into it where it ends with a slash or there are several."""
    *sources, target = step.words
    place = image.folder / target
    for source in sources:
        for path in context_files(context, source):
            if (context / source).is_dir():
                copied = place / path.relative_to(source)
            else:
                copied = place / path.name if target.endswith("/") else place
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes((context / path).read_bytes())


def choose_user(image: Image) -> str:
    """Returns as whom the server is started: as the image's user where this can be, else as whoever runs this."""
    if os.geteuid() != 0:
        image.user = None
        return "as the user who runs this, who is not root"
    program = _found(["python", "-c", ""], image)
    try:
        subprocess.run(program, cwd=image.folder, env=image.environment, user=image.user, extra_groups=[], check=True)
    except (OSError, subprocess.CalledProcessError):
        image.user = None
        return f"as root, since others cannot start {Path(program[0]).resolve()}"
    return f"as user {image.user}"


@contextlib.contextmanager
def read_only(root: Path) -> Iterator[Callable[[], list[str]]]:
    """Nobody but root may write below the folder; gives a function that returns what was written nevertheless."""
    paths = [path for path in [root, *root.rglob("*")] if not path.is_symlink()]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    before = _state(root)

    def written() -> list[str]:
        now = _state(root)
        return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))

    try:
        yield written
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def _state(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


@contextlib.contextmanager
def started(image: Image, arguments: Sequence[str]) -> Iterator["Container"]:
    """Starts the entrypoint as its USER, with further arguments behind it; kills it in the end if it still runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [port if word == image.port else word for word in image.entrypoint]
    with subprocess.Popen(
        _found([*command, *arguments], image), cwd=image.folder, env=image.environment, stdin=subprocess.DEVNULL,
        user=image.user, extra_groups=image.groups,
    ) as process:  # fmt: skip
        try:
            yield Container(image=image, process=process, port=int(port))
        finally:
            process.kill()


def _found(command: Sequence[str], image: Image) -> list[str]:
    """Returns the command with the place of its program by the image's PATH: Popen searches ours, as another user."""
    for folder in image.environment["PATH"].split(os.pathsep):
        if (place := Path(folder, command[0])).is_file():
            return [str(place), *command[1:]]
    raise UsageError(f"{command[0]}: not in {image.environment['PATH']}")


@dataclass(frozen=True, kw_only=True)
class Container:
    """A server that was started by the entrypoint."""

    image: Image
    process: subprocess.Popen[bytes]
    port: int

    def is_healthy(self) -> bool:
        """Returns what HEALTHCHECK says."""
        command = [str(self.port) if word == self.image.port else word for word in self.image.healthcheck]
        done = subprocess.run(
            _found(command, self.image), cwd=self.image.folder, env=self.image.environment, user=self.image.user,
            extra_groups=self.image.groups, capture_output=True, check=False,
        )  # fmt: skip
        return done.returncode == 0

    def wait_healthy(self) -> None:
        """Waits until HEALTHCHECK says so; a DataError where it does not, or the server ends."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_healthy():
            if self.process.poll() is not None:
                raise DataError(f"the server ended with {self.process.returncode}")
            if time.monotonic() > deadline:
                raise DataError(f"HEALTHCHECK does not say that the server is ready, after {READY_SECONDS:g} s")
            time.sleep(0.1)

    def classify(self, picture: bytes) -> dict[str, list[object]]:
        """Returns the prediction for a picture; another answer than 200 is a DataError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/classify", picture, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            body = answer.read()
        if answer.status != 200:
            raise DataError(f"the server answers {answer.status}: {body.decode(errors='replace')}")
        [prediction] = json.loads(body)["predictions"]
        return dict(prediction)

    def stop(self) -> int:
        """Sends STOPSIGNAL, and returns the exit code; a DataError where it takes too long."""
        self.process.send_signal(self.image.stop_signal)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise DataError(f"the server still runs {STOP_SECONDS:g} s after {self.image.stop_signal.name}") from None
