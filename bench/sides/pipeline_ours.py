"""Our data pipeline: JPEG files -> normalised arrays, of the CvT recipe or of evaluation. Images a second.

Without --workers: of this process's own time on the processor, one core, file -> array. With --workers: of the clock,
through the loader, file -> batch.
"""

import argparse
import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from bench.photographs import shared_photographs
from bench.side import serve
from util.data.backends import Backend, load_backend
from util.data.dataset import ImageDataset, Sample
from util.data.image_list import ImageList
from util.data.transforms import eval_transform, train_transform
from util.runtime import keep_freed_memory

BATCH = 32
EPOCH = 640  # images of a measurement with workers
RECIPE = {"aa": "rand-m9-mstd0.5-inc1", "reprob": 0.25}


def images(count: int) -> ImageList:
    """Returns the photographs, again and again up to `count`, as the images of a split."""
    files = shared_photographs()
    names = [files[i % len(files)].name for i in range(count)]
    return ImageList(files[0].parent, names, np.zeros(count, np.int64), None)


def data_set(what: str, backend: Backend, count: int) -> ImageDataset:
    """Returns the samples of training (`train`) or evaluation (`eval`)."""
    if what == "eval":
        plain = eval_transform(image_backend=backend)
        return ImageDataset(images(count), lambda image, rng: plain(image), seed=0, decode=load_backend(backend).decode)
    transform = train_transform(image_backend=backend, **RECIPE)  # type: ignore[arg-type]
    return ImageDataset(images(count), transform, seed=0, decode=load_backend(backend).decode)


def alone(data: ImageDataset) -> Callable[[], float]:
    """Returns what measures images a second of processor time, in this process."""
    epochs = iter(range(1_000_000))

    def measure() -> float:
        epoch, begun = next(epochs), time.process_time()
        for i in range(len(data)):
            assert isinstance(data[(epoch, i, 0)], Sample)
        return len(data) / (time.process_time() - begun)

    return measure


def with_workers(data: ImageDataset, num_workers: int) -> Callable[[], float]:
    """Returns what measures images a second through the loader; its first batches are not counted."""
    from util.data.loader import make_loader
    from util.data.sampler import TrainBatches
    from util.options import LoaderOptions

    batches = TrainBatches(num_images=len(data), batch_size=BATCH, seed=0, rank=0, world_size=1, repeats=0)
    loader = make_loader(data, batches, loading=LoaderOptions(num_workers=num_workers))
    epochs, warm = iter(range(1_000_000)), 4 * num_workers  # more batches than the workers make in advance

    def measure() -> float:
        batches.set_epoch(next(epochs), 0)
        reading, begun = iter(loader), 0.0
        for i, _ in enumerate(reading):
            if i == warm:
                begun = time.perf_counter()
        return (len(batches) - warm - 1) * BATCH / (time.perf_counter() - begun)

    return measure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "eval"))
    parser.add_argument("--image_backend", choices=("pil", "fast"), default="fast")
    parser.add_argument("--workers", type=int, default=None)
    given = parser.parse_args()
    if given.workers is None:
        keep_freed_memory()  # as each worker process does
        serve(alone(data_set(given.what, given.image_backend, len(shared_photographs()))))
    else:
        serve(with_workers(data_set(given.what, given.image_backend, EPOCH * given.workers), given.workers))
