"""Reading every file of a split once, in parallel: its size, its sha256, and whether decode_image can use it."""

import contextlib
import hashlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from util.data.image_list import ImageList
from util.data.images import ImageError, decode_image, read_bytes
from util.data.workers import Watch, Worker, WorkerBoard
from util.errors import ResumableError
from util.processes import die_with_parent

CHUNK = 32  # images that a worker gets at once
AHEAD = 2  # chunks that wait for each worker, so that none waits for the next
LOOK_SECONDS = 0.5  # between two looks at workers of which nothing comes
END_SECONDS = 5.0  # for a killed worker to be gone; one that waits for a dead disk may never be


@dataclass(frozen=True)
class FileFact:
    """What one file is."""

    size: int  # bytes; -1: cannot be read at all
    digest: bytes  # sha256; zeros where it cannot be read at all
    width: int = 0  # pixels; 0: cannot be decoded, or was not
    height: int = 0
    reason: str | None = None  # why the image cannot be used


def inspect_file(path: str, *, decode: bool) -> FileFact:
    """Returns what a file is. decode: also whether it is an image that can be used."""
    try:
        data = read_bytes(path)
    except ImageError as error:
        return FileFact(-1, bytes(32), reason=error.reason)
    digest = hashlib.sha256(data).digest()
    if not decode:
        return FileFact(len(data), digest)
    try:
        width, height = decode_image(data, name=path).size
    except ImageError as error:
        return FileFact(len(data), digest, reason=error.reason)
    return FileFact(len(data), digest, width, height)


def inspect_files(
    images: ImageList, *, num_workers: int, decode: bool, timeout: float
) -> Generator[tuple[int, FileFact], None, None]:
    """Yields (index, what the file is) of all images, as they are done.

    num_workers: processes to share the work; 0 reads in this one. They end with the iterator, however it ends, or with
    this process. One that is killed, or that needs more than `timeout` seconds for one image because it hangs or was
    stopped, is a ResumableError that names its number and the file it was at.
    """
    if num_workers == 0:
        for index in range(len(images)):
            yield index, inspect_file(images.path(index), decode=decode)
        return
    num_workers = min(num_workers, len(images))
    board = WorkerBoard(num_workers)
    with _workers(images, board, num_workers, decode=decode) as workers:
        chunks = deque(range(start, min(start + CHUNK, len(images))) for start in range(0, len(images), CHUNK))
        for worker in workers * AHEAD:
            worker.give(chunks)
        watch = Watch(LOOK_SECONDS)
        while busy := [worker for worker in workers if worker.given]:
            ready = wait([worker.connection for worker in busy], LOOK_SECONDS)
            seconds, seen = watch.look(), board.workers()
            for worker in busy:
                if worker.connection in ready:
                    indices = worker.given[0]
                    facts = worker.take(images)
                    worker.give(chunks)
                    yield from zip(indices, facts, strict=True)
                else:
                    worker.check_progress(images, seen[worker.number], seconds=seconds, timeout=timeout)


@dataclass
class _Worker:
    """One process, and the images that were given to it and have not come back."""

    process: BaseProcess
    connection: Connection
    number: int
    board: WorkerBoard  # on which it says, at its number, which image it is at
    given: deque[range]
    seen_at: int = -1  # the image at the last look
    seconds: float = 0.0  # since it was first seen there

    def place(self, seen: Worker) -> int:
        """Returns the image it is at; before its first one, that one."""
        return self.given[0][0] if seen.index is None else seen.index

    def check_progress(self, images: ImageList, seen: Worker, *, seconds: float, timeout: float) -> None:
        """Raises a ResumableError if it is at one image for too long. seconds: since the last look."""
        if self.place(seen) != self.seen_at:
            self.seen_at, self.seconds = self.place(seen), 0.0
            return
        self.seconds += seconds
        if self.seconds > timeout:
            raise ResumableError(
                f"process {seen.pid}, which reads images, {seen.trouble} for {self.seconds:.0f} s "
                f"(--data_timeout {timeout:g}) at {images.path(self.seen_at)}; run again, once that file can be read"
            )

    def give(self, chunks: deque[range]) -> None:
        if chunks:
            self.given.append(chunks.popleft())
            with contextlib.suppress(BrokenPipeError):  # taking tells
                self.connection.send(self.given[-1])

    def take(self, images: ImageList) -> list[FileFact]:
        try:
            facts: list[FileFact] = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            path = images.path(self.place(self.board.workers()[self.number]))
            raise ResumableError(
                f"a process that reads images was {how}, at {path}; run again, with fewer "
                "--num_workers if memory ran out"
            ) from None
        self.given.popleft()
        self.seen_at = -1
        return facts


@contextlib.contextmanager
def _workers(images: ImageList, board: WorkerBoard, count: int, *, decode: bool) -> Iterator[list[_Worker]]:
    context = multiprocessing.get_context("fork")  # the list of images is shared, not copied
    workers: list[_Worker] = []
    try:
        for number in range(count):
            mine, theirs = context.Pipe()
            ours = [mine, *(worker.connection for worker in workers)]
            arguments = (os.getpid(), number, board, theirs, ours, images, decode)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            board.enter(number, process.pid or 0)
            workers.append(_Worker(process, mine, number, board, deque()))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join(END_SECONDS)
            worker.connection.close()
        board.clear()


def _work(
    parent: int,
    number: int,
    board: WorkerBoard,
    connection: Connection,
    inherited: Sequence[Connection],
    images: ImageList,
    decode: bool,
) -> None:
    """What a worker does until the other end of its pipe is closed, or its parent is gone."""
    die_with_parent()
    if os.getppid() != parent:  # it died before that
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:  # or the pipes would not close with the parent
        other.close()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            facts = []
            for index in connection.recv():
                board.busy(number, index)
                facts.append(inspect_file(images.path(index), decode=decode))
            connection.send(facts)
