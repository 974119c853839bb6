"""Dynamic batching: images wait in a bounded queue, and whenever an engine is free it takes all that fit into a batch.

Nothing waits for a batch to fill: a lone image is computed at once, and the more wait the fuller batches become.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from util.errors import INTERNAL
from util.serving.engine_process import EngineError, EngineProcess, StartError

MAX_DEATHS = 3  # of an engine, one soon after the other without an answer: then it will not recover by itself
STEADY = 60.0  # seconds after which a death is no longer soon
WATCH = 1.0  # seconds between two looks whether an engine that has nothing to do still runs
MEMORY_OF_SPEED = 0.8  # what a batch leaves of the speed that was measured before it
MEMORY_OF_DECODING = 0.95  # what an image leaves of the one that was measured before it; pictures differ
MARGIN = 1.5  # by which the expected wait may turn out longer; who is accepted shall not wait in vain
ARRIVAL = 0.25  # seconds that a place is kept for a request whose body is arriving
PATIENCE = 2.0  # seconds a batch may take longer than a request may last, before its engine counts as stuck


class RefusedError(Exception):
    """The image is not computed: no room, no engine, or no time. `retry_after`: seconds after which to ask again."""

    def __init__(self, reason: str, *, retry_after: float = 1.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = max(1, math.ceil(retry_after))


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Whom the batcher tells: an engine is ready; a batch's images and seconds; why it ended; that none can be kept."""

    ready: Callable[[], object] = lambda: None

    batch: Callable[[int, float], object] = lambda images, seconds: None
    death: Callable[[str], object] = lambda reason: None
    failure: Callable[[StartError], object] = lambda error: None


# of one image: logits (K,), then its attention map (rows, columns) where the program returns one
Outputs = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Waiting:
    image: np.ndarray  # float32 (C, H, W)
    answer: "asyncio.Future[Outputs]"


@dataclass
class _Seat:
    """An engine, the thread that talks to it, and whether it takes batches."""

    engine: EngineProcess
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "engine"))
    is_ready: bool = False
    deaths: int = 0


class Batcher:
    """All waiting images and all engines; every method belongs to the event loop's thread.

    max_queue: images that wait beside those in the engines. deadline: seconds a request may last: nothing is accepted
    that is not expected to be computed by then. decode_threads: that make arrays of files, before images come here.
    """

    def __init__(
        self,
        engines: Sequence[EngineProcess],
        *,
        max_batch: int,
        max_queue: int,
        deadline: float,
        decode_threads: int = 1,
        listeners: Listeners = Listeners(),
    ) -> None:
        self.max_batch = max_batch
        self.max_queue = max_queue
        self.deadline = deadline
        self._decode_threads = decode_threads
        self._listeners = listeners
        self._seats = [_Seat(engine) for engine in engines]
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._held = 0  # images accepted and not answered: being decoded, waiting, being computed
        self._arriving: dict[int, float] = {}  # places kept for images that are not here yet, and until when
        self._numbers = itertools.count()
        self._seconds_an_image = 0.0  # of one engine; 0: not known yet
        self._seconds_to_decode = 0.0  # an image, of one thread; 0: not known yet
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts the engines, each in a task of its own that then feeds it."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._keep(seat)) for seat in self._seats]
        for task in self._tasks:
            task.add_done_callback(self._note_end)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        """An engine that nobody keeps any more, for whatever reason, is told: it would be missed without a word."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._listeners.failure(StartError(f"the engine cannot be kept: {error!r}", INTERNAL))

    async def close(self) -> None:
        """Ends the engines. Who still waits is refused."""
        for seat in self._seats:
            seat.engine.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refuse_waiting("the server is stopping")
        with contextlib.ExitStack() as stack:  # each is closed, whatever another raises
            for seat in self._seats:
                stack.callback(seat.engine.close)
                stack.callback(seat.thread.shutdown)

    @property
    def is_ready(self) -> bool:
        """Returns whether any engine takes batches."""
        return any(seat.is_ready for seat in self._seats)

    @property
    def held(self) -> int:
        """Returns how many images are accepted and not answered yet."""
        return self._held

    @property
    def capacity(self) -> int:
        """Returns how many images can be held: the queue's, and a batch for each engine."""
        return self.max_queue + self.max_batch * len(self._seats)

    def expected_wait(self, count: int = 1) -> float:
        """Returns the seconds until `count` more images are computed, from the speed of late; 0 while it is unknown.

        Decoding and computing go on beside each other, so the slower of the two counts.
        """
        ready = sum(seat.is_ready for seat in self._seats) or 1
        seconds = max(self._seconds_an_image / ready, self._seconds_to_decode / self._decode_threads)
        return (self._held + self._count_arriving() + count) * seconds

    def _count_arriving(self) -> int:
        now = time.monotonic()
        while self._arriving and next(iter(self._arriving.values())) < now:
            del self._arriving[next(iter(self._arriving))]
        return len(self._arriving)

    def expect(self) -> int:
        """Keeps a place for one image for a moment, and returns its number, or refuses it as `check_room`.

        Without it all requests that come while a body is read would be accepted for the one place that is free, and
        refused when they have cost the most. A slow body loses its place, so that slow clients keep out nobody.
        """
        self.check_room()
        number = next(self._numbers)
        self._arriving[number] = time.monotonic() + ARRIVAL
        return number

    def leave(self, number: int | None) -> None:
        """Gives back a place that was kept, if there was one; it may be over already."""
        if number is not None:
            self._arriving.pop(number, None)

    def check_room(self, count: int = 1) -> None:
        """Refuses `count` images for which there is no engine, no room or no time."""
        if not self.is_ready:
            raise RefusedError("the model is not loaded yet")
        if self._held + self._count_arriving() + count > self.capacity:
            raise RefusedError(f"{self._held} images are waiting already", retry_after=self.expected_wait())
        wait = self.expected_wait(count)
        # with nobody before it an image is tried, or a speed that was slow once would be believed for ever
        if MARGIN * wait > self.deadline and self._held + self._count_arriving() > 0:
            raise RefusedError(f"{self._held} images are waiting, for {wait:.0f} seconds", retry_after=wait)

    @contextlib.contextmanager
    def room(self, count: int, kept: int | None = None) -> Iterator[None]:
        """Holds the places of `count` images while they are decoded, wait and are computed; else as `check_room`.

        kept: the place that was kept for them, which they take.
        """
        self.leave(kept)
        self.check_room(count)
        self._held += count
        try:
            yield
        finally:
            self._held -= count

    def hold_until(self, done: "Future[Any]") -> None:
        """Holds one image's place until a thread's work is done, for which nobody waits any more."""
        self._held += 1
        done.add_done_callback(lambda _: self.from_thread(self._let_go))

    def _let_go(self) -> None:
        self._held -= 1

    def from_thread(self, action: Callable[..., object], *values: float) -> None:
        """Lets the event loop call a method of this; for threads, whose work may end after the loop has."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody asks any more
            self._loop.call_soon_threadsafe(action, *values)

    def note_decoding(self, seconds: float) -> None:
        """Takes note of the seconds that a thread needed for an image."""
        known = self._seconds_to_decode
        self._seconds_to_decode = MEMORY_OF_DECODING * known + (1 - MEMORY_OF_DECODING) * seconds

    def submit(self, image: np.ndarray) -> "asyncio.Future[Outputs]":
        """Returns what will be an image's outputs, or a RefusedError. Cancelled, it is not computed any more."""
        waiting = _Waiting(image, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        return waiting.answer

    def _refuse_waiting(self, reason: str) -> None:
        while self._queue:
            answer = self._queue.popleft().answer
            if not answer.done():
                answer.set_exception(RefusedError(reason))

    def _take(self) -> list[_Waiting]:
        """Takes a batch out of the queue; who does not wait any more is left out."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self.max_batch:
            waiting = self._queue.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
        return batch

    async def _keep(self, seat: _Seat) -> None:
        """Starts an engine, feeds it, and starts it again when it ends, until it does not recover."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(seat.thread, seat.engine.start)
                seat.is_ready, begun = True, time.monotonic()
                self._listeners.ready()
                reason = await self._feed(seat)
            except StartError as error:
                self._listeners.failure(error)
                return
            seat.is_ready = False
            seat.deaths = 1 if time.monotonic() - begun > STEADY else seat.deaths + 1
            self._listeners.death(reason)
            if seat.deaths >= MAX_DEATHS:
                self._listeners.failure(StartError(f"an engine ended {seat.deaths} times in a row: {reason}", 70))
                return
            if not self.is_ready:
                self._refuse_waiting("the engine is being started again")

    async def _feed(self, seat: _Seat) -> str:
        """Gives an engine batches until it fails, and returns why."""
        while True:
            batch = self._take()
            if not batch:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), WATCH)
                if not seat.engine.is_alive:
                    return f"the engine's process ended while it had nothing to do: {seat.engine.last_words()}"
                continue
            if self._queue:
                self._wake.set()
            begun = time.perf_counter()
            try:
                outputs = await self._run(seat, [waiting.image for waiting in batch])
            except EngineError as error:
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(RefusedError("the engine failed on this batch"))
                if seat.engine.is_alive:
                    self._listeners.death(str(error))
                    continue
                return str(error)
            self._note_speed(len(batch), time.perf_counter() - begun)
            seat.deaths = 0
            for waiting, of_image in zip(batch, zip(*outputs, strict=True), strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(of_image)

    async def _run(self, seat: _Seat, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs a batch; an engine that takes longer than any request may is stuck, and killed."""
        running = asyncio.get_running_loop().run_in_executor(seat.thread, seat.engine.run, images)
        done, _ = await asyncio.wait({running}, timeout=self.deadline + PATIENCE)
        if not done:
            seat.engine.kill()
        return await running

    def _note_speed(self, images: int, seconds: float) -> None:
        speed = seconds / images
        known = self._seconds_an_image
        # a batch of few images says less of a queue's speed than a full one
        weight = (1 - MEMORY_OF_SPEED) * images / self.max_batch
        self._seconds_an_image = speed if known == 0.0 else known + weight * (speed - known)
        self._listeners.batch(images, seconds)
