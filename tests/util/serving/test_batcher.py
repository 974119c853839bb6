"""The queue before the engines, with engines that do as a test likes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from util.serving import batcher as module
from util.serving.batcher import Batcher, Listeners, RefusedError
from util.serving.engine_process import StartError

QUIET = Listeners()
IMAGE = np.zeros((3, 2, 2), np.float32)


class Engine:
    """Answers a batch with the images' first numbers; each takes the next of `seconds`, then none."""

    def __init__(self, *seconds: float, start: Exception | None = None, close: Exception | None = None) -> None:
        self.seconds, self._start, self._close = list(seconds), start, close
        self.batches: list[int] = []
        self.is_closed = False
        self.is_alive = True

    def start(self) -> None:
        if self._start is not None:
            raise self._start

    def run(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.batches.append(len(images))
        if self.seconds:
            time.sleep(self.seconds.pop(0))
        return [np.stack(images)[:, 0, 0]]

    def kill(self) -> None:
        self.is_alive = False

    def last_words(self) -> str:
        return "signal 9"

    def close(self) -> None:
        self.is_closed = True
        if self._close is not None:
            raise self._close


def run(
    engines: Sequence[Engine],
    work: Callable[[Batcher], Awaitable[None]],
    *,
    deadline: float = 1.0,
    max_queue: int = 4,
    listeners: Listeners = QUIET,
) -> None:
    async def main() -> None:
        made: Any = engines
        batcher = Batcher(made, max_batch=2, max_queue=max_queue, deadline=deadline, listeners=listeners)
        batcher.start()
        while engines[0].batches == [] and not batcher.is_ready and engines[0]._start is None:
            await asyncio.sleep(0.001)
        try:
            await work(batcher)
        finally:
            await batcher.close()

    asyncio.run(main())


async def ask(batcher: Batcher, value: float = 0.0, *, kept: int | None = None) -> float:
    with batcher.room(1, kept):
        (output,) = await batcher.submit(IMAGE + np.float32(value))
        return float(output[0])


def test_images_that_wait_together_are_computed_together_and_each_gets_its_own() -> None:
    engine = Engine(0.05)

    async def work(batcher: Batcher) -> None:
        assert await asyncio.gather(*(ask(batcher, i) for i in range(5))) == [0, 1, 2, 3, 4]
        assert batcher.held == 0

    run([engine], work)
    assert engine.batches == [2, 2, 1]


def test_one_slow_batch_does_not_close_the_server() -> None:
    """Its speed leaves no time for anybody; who has nobody before it is tried all the same."""

    async def work(batcher: Batcher) -> None:
        await ask(batcher)
        assert batcher.expected_wait() * module.MARGIN > 1.0
        await ask(batcher)
        with batcher.room(1), pytest.raises(RefusedError, match="1 images are waiting, for"):
            batcher.check_room()
        for _ in range(20):
            await ask(batcher)
        assert batcher.expected_wait(2) * module.MARGIN < 1.0

    run([Engine(0.9)], work)


def test_an_image_has_a_place_while_its_body_arrives_and_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ARRIVAL", 0.2)

    async def work(batcher: Batcher) -> None:
        kept = [batcher.expect() for _ in range(batcher.capacity)]
        with pytest.raises(RefusedError, match="are waiting already"):
            batcher.expect()
        with pytest.raises(RefusedError, match="are waiting already"):
            await ask(batcher)
        assert await ask(batcher, 3, kept=kept[0]) == 3, "it takes its own"
        batcher.leave(kept[1])
        assert await ask(batcher, 4) == 4, "one that was given back is free"
        await asyncio.sleep(0.25)
        batcher.check_room(batcher.capacity)

    run([Engine()], work)


def test_a_thread_that_decodes_for_nobody_keeps_its_place() -> None:
    async def work(batcher: Batcher) -> None:
        running: Future[None] = Future()
        batcher.hold_until(running)
        assert batcher.held == 1
        with pytest.raises(RefusedError):
            batcher.check_room(batcher.capacity)
        running.set_result(None)
        await asyncio.sleep(0.01)
        assert batcher.held == 0

    run([Engine()], work)


def test_slow_decoding_counts_in_the_wait() -> None:
    async def work(batcher: Batcher) -> None:
        await ask(batcher)
        before = batcher.expected_wait()
        for _ in range(200):
            batcher.note_decoding(0.6)
        assert batcher.expected_wait() == pytest.approx(0.6, rel=0.01)
        assert before < 0.1
        with batcher.room(1), pytest.raises(RefusedError, match="for 1 seconds"):
            batcher.check_room()

    run([Engine()], work)


@pytest.mark.parametrize(("error", "code"), [(OSError("no memory"), 70), (StartError("model.onnx is damaged", 78), 78)])
def test_whatever_keeps_an_engine_from_starting_is_told(error: Exception, code: int) -> None:
    told: list[StartError] = []

    async def work(batcher: Batcher) -> None:
        while not told:
            await asyncio.sleep(0.001)
        assert not batcher.is_ready

    run([Engine(start=error)], work, listeners=Listeners(failure=told.append))
    assert [found.exit_code for found in told] == [code]
    assert str(error) in str(told[0])


def test_an_engine_that_ends_while_nobody_asks_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH", 0.01)
    engine, events = Engine(), []

    def start() -> None:
        engine.is_alive = True

    engine.start = start  # type: ignore[method-assign]
    listeners = Listeners(ready=lambda: events.append("ready"), death=events.append)

    async def work(batcher: Batcher) -> None:
        engine.is_alive = False
        while len(events) < 3:
            await asyncio.sleep(0.001)
        assert batcher.is_ready
        assert await ask(batcher, 2) == 2

    run([engine], work, listeners=listeners)
    assert events == ["ready", "the engine's process ended while it had nothing to do: signal 9", "ready"]


def test_all_engines_are_closed_whatever_one_raises() -> None:
    engines = [Engine(), Engine(close=BufferError("in use")), Engine()]

    async def work(batcher: Batcher) -> None:
        await ask(batcher)

    with pytest.raises(BufferError):
        run(engines, work)
    assert [engine.is_closed for engine in engines] == [True, True, True]


def test_who_still_waits_at_the_end_is_refused() -> None:
    answers: list[asyncio.Future[Any]] = []

    async def work(batcher: Batcher) -> None:
        answers.extend(batcher.submit(IMAGE) for _ in range(4))
        await asyncio.sleep(0.01)

    run([Engine(0.2)], work)
    assert "the server is stopping" in str(answers[3].exception())
