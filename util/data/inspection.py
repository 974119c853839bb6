"""Reading every file of a split once, in parallel: its size, its sha256, and whether decode_image can use it."""

import contextlib
import hashlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from util.data.image_list import ImageList
from util.data.images import ImageError, decode_image, read_bytes
from util.errors import ResumableError

CHUNK = 32  # images that a worker gets at once
AHEAD = 2  # chunks that wait for each worker, so that none waits for the next


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


def inspect_files(images: ImageList, *, num_workers: int, decode: bool) -> Generator[tuple[int, FileFact], None, None]:
    """Yields (index, what the file is) of all images, as they are done.

    num_workers: processes to share the work; 0 reads in this one. They end with the iterator, however it ends, or with
    this process. One that is killed is a ResumableError that names the file it was at.
    """
    if num_workers == 0:
        for index in range(len(images)):
            yield index, inspect_file(images.path(index), decode=decode)
        return
    with _workers(images, min(num_workers, len(images)), decode=decode) as workers:
        chunks = deque(range(start, min(start + CHUNK, len(images))) for start in range(0, len(images), CHUNK))
        for worker in workers * AHEAD:
            worker.give(chunks)
        while busy := [worker for worker in workers if worker.given]:
            ready = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection in ready:
                    indices = worker.given[0]
                    facts = worker.take(images)
                    worker.give(chunks)
                    yield from zip(indices, facts, strict=True)


@dataclass
class _Worker:
    """One process, and the images that were given to it and have not come back."""

    process: BaseProcess
    connection: Connection
    place: MutableSequence[int]  # the image it is at
    given: deque[range]

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
            raise ResumableError(
                f"a process that reads images was {how}, at {images.path(self.place[0])}; run again, with fewer "
                "--num_workers if memory ran out"
            ) from None
        self.given.popleft()
        return facts


@contextlib.contextmanager
def _workers(images: ImageList, count: int, *, decode: bool) -> Iterator[list[_Worker]]:
    context = multiprocessing.get_context("fork")  # the list of images is shared, not copied
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            mine, theirs = context.Pipe()
            ours = [mine, *(worker.connection for worker in workers)]
            place = context.RawArray("q", 1)
            process = context.Process(target=_work, args=(theirs, ours, images, place, decode), daemon=True)
            process.start()
            theirs.close()
            workers.append(_Worker(process, mine, place, deque()))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


def _work(
    connection: Connection,
    inherited: Sequence[Connection],
    images: ImageList,
    place: MutableSequence[int],
    decode: bool,
) -> None:
    """What a worker does until the other end of its pipe is closed, or its parent is gone."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:  # or the pipes would not close with the parent
        other.close()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            facts = []
            for index in connection.recv():
                if os.getppid() != parent:  # killed; the pipe will tell, but only after these images
                    return
                place[0] = index
                facts.append(inspect_file(images.path(index), decode=decode))
            connection.send(facts)
