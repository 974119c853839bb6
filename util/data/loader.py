"""Batches from a data set: Paddle's DataLoader with own samplers, errors as values, and an end to waiting."""

import logging
import math
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.io import DataLoader, get_worker_info

from util.data.backends import Backend, load_backend
from util.data.dataset import BadImage, ImageDataset, Sample
from util.data.image_list import ImageList
from util.data.lost import TOO_MANY_FILES, TOO_MANY_OPEN
from util.data.preprocessing import Preprocessing
from util.data.sampler import EvalBatches, TrainBatches
from util.data.workers import SHARED_MEMORY, Watch, Worker, WorkerBoard
from util.errors import DataError, LimitError, ResumableError, UserError, listed
from util.log import NAME
from util.options import LoaderOptions
from util.processes import die_with_parent

Batch = tuple[Tensor, Tensor, Tensor, list[BadImage]]  # images (B, C, H, W), labels (B,), indices (B,), bad images

PREFETCH = 2  # batches that each worker makes in advance
POLL = 0.2  # seconds between two looks at the workers while a batch is awaited
MAX_NAMED = 5  # unreadable images of a batch

# the terminal and the launcher send these to the whole group, workers too
_TO_THE_GROUP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def collate(samples: Sequence[Sample | BadImage | UserError]) -> list[Any]:
    """Stacks the good samples: images (B, C, H, W), labels int64 (B,), indices int64 (B,), and the list of the others.

    Without a good one, a placeholder with label and index -1: Paddle cannot pass arrays without elements on.
    """
    good = [s for s in samples if isinstance(s, Sample)]
    bad: list[BadImage | UserError] = [s for s in samples if not isinstance(s, Sample)]
    bad += [image for sample in good for image in sample.rejected]
    if not good:
        return [np.zeros((1, 3, 1, 1), np.float32), np.array([-1]), np.array([-1]), bad]
    images = np.stack([sample.image for sample in good])
    labels, indices = (np.asarray([getattr(s, name) for s in good], np.int64) for name in ("label", "index"))
    return [images, labels, indices, bad]


def _begin_worker(worker_id: int) -> None:
    """Leaves signals, which reach the whole group, to the parent, and ends with it, however it ends.

    It says itself which process it is: the parent may hear of its end before it has noted whom it started.
    """
    for number in _TO_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_THE_GROUP)
    die_with_parent()
    reading = get_worker_info().dataset
    reading.board.enter(worker_id, os.getpid())
    reading.images.report_to(reading.board, worker_id)


class _Reading:
    """A data set and the board on which its workers say what they read, as Paddle hands both to a worker.

    An error that ends the run is handed over as a value, too: Paddle would make a traceback of one that is raised.
    """

    def __init__(self, images: ImageDataset, board: WorkerBoard) -> None:
        self.images = images
        self.board = board

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Any) -> Sample | BadImage | UserError:
        try:
            return self.images[key]
        except (ResumableError, LimitError) as error:
            return error


class SerialLoader:
    """Loads `Batch`es in this process. Paddle's own does so in a thread, and waits for ever once that has died.

    on_wait: called again and again while a batch from another process is awaited; what it raises ends the waiting.
    """

    def __init__(self, dataset: ImageDataset, batches: TrainBatches | EvalBatches) -> None:
        self.dataset = dataset
        self.batches = batches
        self.on_wait: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            images, labels, indices, bad = collate([self.dataset[key] for key in keys])
            yield paddle.to_tensor(images), paddle.to_tensor(labels), paddle.to_tensor(indices), bad

    def worker_pids(self) -> list[int]:
        """Returns the processes that load data; here there is none."""
        return []

    def check_workers(self) -> None:
        """Raises a ResumableError if one of them has died."""


class WorkerLoader(SerialLoader):
    """Loads `Batch`es in worker processes, which hand over numpy arrays.

    loading: how many, whether they put batches in /dev/shm or send them through a pipe, which is slower, and how long
        a batch is awaited. A worker that needs longer, was stopped or was killed is a ResumableError that names its
        process and its file.
    persistent: whether workers stay between epochs; they then live until the process ends, even without their loader.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batches: TrainBatches | EvalBatches,
        *,
        loading: LoaderOptions,
        persistent: bool,
    ) -> None:
        super().__init__(dataset, batches)
        self.timeout = loading.data_timeout
        self.board = WorkerBoard(loading.num_workers)
        self._persistent = persistent
        self._started = False
        self._loader = DataLoader(
            _Reading(dataset, self.board),
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=loading.num_workers,
            prefetch_factor=PREFETCH,
            use_shared_memory=loading.shared_memory,
            persistent_workers=persistent,
            worker_init_fn=_begin_worker,
            return_list=True,
        )

    def __iter__(self) -> Iterator[Batch]:
        """A thread asks Paddle for one batch at a time: its waiting is deaf to signals, and has no end."""
        requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        place = paddle.framework._current_expected_place()
        try:
            first = self._begin()
            arguments = (self._loader, first, place, requests, answers)
            threading.Thread(target=_answer, args=arguments, daemon=True, name="batches").start()
            while True:
                requests.put(True)
                batch = self._await(answers)
                if isinstance(batch, StopIteration):
                    return
                if isinstance(batch, BaseException):
                    raise batch
                _raise_handed_over(batch[3])
                yield batch
        except SystemError:  # how Paddle says that it lost a worker, or that one raised an exception
            self.check_workers()
            raise
        finally:
            requests.put(False)

    def _begin(self) -> Any:
        """Returns the iterator of workers that it starts, or None where those of the last epoch go on."""
        if self._started and self._persistent:
            return None
        self.board.clear()
        iterator = self._fork()
        for number, process in enumerate(iterator._workers):
            self.board.enter(number, process.pid)
        self._started = True
        return iterator

    def _fork(self) -> Any:
        """Returns the loader's iterator, which starts the workers: forks, which belongs into the main thread.

        Signals wait meanwhile, in a worker until it ignores them: Paddle's own handler, which it installs first, would
        end it.
        """
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_THE_GROUP)
        try:
            return iter(self._loader)
        except OSError as error:
            if error.errno in TOO_MANY_OPEN:
                raise LimitError(f"the processes that load data cannot be started: {TOO_MANY_FILES}") from None
            raise ResumableError(
                f"the processes that load data cannot be started: {error.strerror} (is {SHARED_MEMORY} full?); free "
                "memory there, or use --num_workers 0"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _await(self, answers: "queue.SimpleQueue[Any]") -> Any:
        watch, waited = Watch(POLL), 0.0
        while True:
            try:
                return answers.get(timeout=POLL)
            except queue.Empty:
                self.on_wait()
            workers = self.board.workers()
            waited += watch.look()
            if waited > self.timeout or any(worker.is_dead for worker in workers):
                raise self._failure(f"no batch came for {waited:.0f} s", workers)

    def worker_pids(self) -> list[int]:
        """Returns the processes that load data and have begun to."""
        return self.board.pids()

    def check_workers(self) -> None:
        """Raises the ResumableError that names a worker which has died, if one has."""
        workers = self.board.workers()
        if any(worker.is_dead for worker in workers):
            raise self._failure("", workers) from None

    def _failure(self, symptom: str, workers: list[Worker]) -> ResumableError:
        """Returns the error that says what is wrong with the workers: the dead one, or the one that takes longest."""
        dead = [worker for worker in workers if worker.is_dead]
        suspect = max(dead or workers, key=lambda worker: (worker.state == "T", worker.seconds))
        name = f"worker {suspect.number} (process {suspect.pid})"
        where = "" if suspect.index is None else f", which was at {self.dataset.images.path(suspect.index)}"
        if dead:
            return ResumableError(
                f"data {name} was killed{where}; if nobody did, memory ran out: use fewer --num_workers (after a bus "
                "error --no_shared_memory: /dev/shm is too small)"
            )
        since = f" for {suspect.seconds:.0f} s" if suspect.index is not None else ""
        return ResumableError(
            f"{symptom} (--data_timeout {self.timeout:g}): data {name} {suspect.trouble}{since}{where}"
        )


def _raise_handed_over(bad: Sequence[BadImage | UserError]) -> None:
    """Raises the error that a worker met instead of an image, if it met one."""
    for found in bad:
        if isinstance(found, UserError):
            raise found


def _answer(
    loader: Any, iterator: Any, place: Any, requests: "queue.SimpleQueue[bool]", answers: "queue.SimpleQueue[Any]"
) -> None:
    """The thread: for each request the next batch, or what went wrong with it."""
    paddle.framework._set_expected_place(place)  # or it would use the first GPU, whichever this process has
    try:
        while requests.get():
            iterator = iter(loader) if iterator is None else iterator
            answers.put(next(iterator))
    except BaseException as error:  # handed to the thread that waits, which raises it
        answers.put(error)


def make_loader(
    dataset: ImageDataset, batches: TrainBatches | EvalBatches, *, loading: LoaderOptions, persistent: bool = True
) -> SerialLoader:
    """Returns a loader with as many workers as `loading` says, or one that needs none."""
    if loading.num_workers == 0:
        return SerialLoader(dataset, batches)
    return WorkerLoader(dataset, batches, loading=loading, persistent=persistent)


def eval_set(images: ImageList, preprocessing: Preprocessing, *, image_backend: Backend = "pil") -> ImageDataset:
    """Returns the samples of a labelled split for evaluation."""
    plain = preprocessing.transform(image_backend=image_backend)
    decode = load_backend(image_backend).decode
    return ImageDataset(images, lambda image, rng: plain(image), seed=0, decode=decode)


def eval_loader(
    images: ImageList,
    batches: EvalBatches,
    preprocessing: Preprocessing,
    *,
    loading: LoaderOptions,
    persistent: bool = True,
) -> SerialLoader:
    """Returns the loader of a labelled split for evaluation. Warns when its batches may not fit into /dev/shm."""
    if loading.num_workers > 0 and loading.shared_memory:
        warn_of_small_shared_memory(preprocessing.input_size, batches.batch_size, num_workers=loading.num_workers)
    data = eval_set(images, preprocessing, image_backend=loading.image_backend)
    return make_loader(data, batches, loading=loading, persistent=persistent)


def warn_of_small_shared_memory(image_shape: tuple[int, ...], batch_size: int, *, num_workers: int) -> None:
    """Warns when the float32 batches in flight of this machine's processes are larger than what /dev/shm has free.

    A process has `PREFETCH` batches for each worker in flight, and the one in use; containers often have 64 MB.
    """
    local_processes = max(1, int(os.environ.get("PADDLE_LOCAL_SIZE", "1")))
    wanted = 4 * math.prod(image_shape) * batch_size * (PREFETCH * num_workers + 1) * local_processes
    free = _free_bytes(SHARED_MEMORY)
    if wanted > free:
        logging.getLogger(f"{NAME}.loader").warning(
            f"{SHARED_MEMORY} has {free / 1e6:,.0f} MB free, batches in flight need {wanted / 1e6:,.0f} MB: if workers "
            "die of a bus error, use --no_shared_memory, fewer --num_workers, or enlarge it (docker run --shm-size)"
        )


def _free_bytes(folder: Path) -> float:
    """Returns a file system's free bytes; infinite where there is no such folder (Paddle then uses another)."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return math.inf
    return found.f_bavail * found.f_frsize


def refuse_bad_images(bad: Sequence[BadImage]) -> None:
    """Raises a DataError that names the bad images, if there are any."""
    if bad:
        named = listed((f"{image.path}: {image.reason}" for image in bad), MAX_NAMED, separator="; ")
        raise DataError(f"unreadable image {named}; repair or remove it")
