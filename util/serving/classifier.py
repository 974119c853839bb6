"""What the routes share: the model, its limits, and the way from a request's images to logits."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request

from util.data.preprocessing import Preprocessing
from util.data.transforms import Part
from util.deploy.manifest import Manifest
from util.serving.batcher import Batcher, Outputs, RefusedError
from util.serving.requests import RequestError, load_image

PLACE = "place"  # in a request's state: the number of the place that was kept for it when it came
Loaded = tuple[np.ndarray, Part]  # an image, float32 (C, H, W), and what part of its picture that is


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Of one request: bytes, images, pixels of each, and seconds from its head to its answer."""

    max_bytes: int
    max_images: int
    max_pixels: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a request's images have come to.

    logits: (B, K). attention: maps (B, rows, columns), None where the program returns none. parts: what the model has
    seen of each picture; of an image that came as an array, all.
    """

    logits: np.ndarray
    attention: np.ndarray | None
    parts: list[Part]


class Classifier:
    """What the routes share: manifest, preprocessing and the batcher. Made before the event loop runs."""

    def __init__(
        self,
        manifest: Manifest,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        batcher: Callable[[], Batcher],
        limits: RequestLimits,
        *,
        image_shape: tuple[int, int, int],
        engine: str,
        decode_threads: int,
    ) -> None:
        self.manifest = manifest
        self.class_names = class_names
        self.preprocessing = preprocessing
        self.limits = limits
        self.engine = engine
        self.image_shape = image_shape
        self.is_draining = False
        self._make_batcher = batcher
        self._batcher: Batcher | None = None
        self._transform = preprocessing.transform()
        self._decoders = ThreadPoolExecutor(decode_threads, "images")

    @property
    def batcher(self) -> Batcher:
        """Returns the batcher, which exists while the application runs."""
        assert self._batcher is not None
        return self._batcher

    @contextlib.asynccontextmanager
    async def running(self, _app: object = None) -> AsyncIterator[None]:
        """Starts the engines, and ends them."""
        self._batcher = self._make_batcher()
        self._batcher.start()
        try:
            yield
        finally:
            await self._batcher.close()
            self._decoders.shutdown(wait=False, cancel_futures=True)

    @property
    def is_ready(self) -> bool:
        """Returns whether images are answered."""
        return self._batcher is not None and self._batcher.is_ready and not self.is_draining

    async def compute(self, request: Request, images: Sequence[bytes | np.ndarray], deadline: float) -> Computed:
        """Returns what a request's images come to, or says by a RequestError or RefusedError why not.

        images: files, or float32 (C, H, W) each. deadline: of the event loop's clock; it holds for decoding, too.
        """
        with self.batcher.room(len(images), request.scope["state"].get(PLACE)):
            work = asyncio.create_task(self._decode_and_run(images))
            gone = asyncio.create_task(_until_gone(request))
            try:
                left = deadline - asyncio.get_running_loop().time()
                waited: set[asyncio.Task[Any]] = {work, gone}
                done, _ = await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if work in done:
                    return work.result()
                if gone in done:
                    raise RequestError(400, "the client has gone")
                raise RefusedError("the images were not computed in time", retry_after=self.batcher.expected_wait())
            finally:
                gone.cancel()
                work.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)

    async def _decode_and_run(self, images: Sequence[bytes | np.ndarray]) -> Computed:
        """Decodes and computes; cancelled, what has not begun is not done any more."""
        loading = [self._load(i, image) for i, image in enumerate(images)]
        answers: list[asyncio.Future[Outputs]] = []
        try:
            loaded = await asyncio.gather(*loading)
            answers = [self.batcher.submit(array) for array, _ in loaded]
            outputs = await asyncio.gather(*answers)
        finally:
            for decoding in loading:
                decoding.cancel()
            for answer in answers:
                answer.cancel()
        logits, *maps = (np.stack(output) for output in zip(*outputs, strict=True))
        if not all(np.isfinite(found).all() for found in (logits, *maps)):
            raise RequestError(422, "the model gives no finite numbers for these images")
        return Computed(logits=logits, attention=maps[0] if maps else None, parts=[part for _, part in loaded])

    def _load(self, number: int, image: bytes | np.ndarray) -> "asyncio.Future[Loaded]":
        """Returns what will be an image as the model takes it.

        A thread that decodes cannot be stopped. Who does not wait for it any more leaves it its place until it ends, so
        that no others are let in behind it.
        """
        loop = asyncio.get_running_loop()
        if isinstance(image, np.ndarray):
            ready: asyncio.Future[Loaded] = loop.create_future()
            ready.set_result((image, (0.0, 0.0, 1.0, 1.0)))
            return ready

        def load() -> Loaded:
            begun = time.perf_counter()
            array, source = load_image(image, self._transform, max_pixels=self.limits.max_pixels, number=number)
            self.batcher.from_thread(self.batcher.note_decoding, time.perf_counter() - begun)
            return array, self.preprocessing.seen_part(source)

        running = self._decoders.submit(load)
        future = asyncio.wrap_future(running)

        def left(done: "asyncio.Future[Loaded]") -> None:
            if done.cancelled() and not running.done():
                self.batcher.hold_until(running)

        future.add_done_callback(left)
        return future


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
