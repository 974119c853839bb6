"""Batches from a data set: Paddle's DataLoader with this project's samplers, and errors as values."""

import ctypes
import logging
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.io import DataLoader

from util.data.dataset import BadImage, ImageDataset, Sample
from util.data.image_list import ImageList
from util.data.preprocessing import Preprocessing
from util.data.sampler import EvalBatches, TrainBatches
from util.errors import DataError
from util.log import NAME

Batch = tuple[Tensor, Tensor, Tensor, list[BadImage]]  # images (B, C, H, W), labels (B,), indices (B,), bad images

SHARED_MEMORY = "/dev/shm"  # where Paddle's workers put batches for the main process
PREFETCH = 2  # batches that each worker makes in advance


def collate(samples: Sequence[Sample | BadImage]) -> list[Any]:
    """Stacks the good samples: images (B, C, H, W), labels int64 (B,), indices int64 (B,), and the bad ones' list.

    Without a good one, a placeholder with label and index -1: Paddle cannot pass arrays without elements on.
    """
    good = [s for s in samples if not isinstance(s, BadImage)]
    bad = [s for s in samples if isinstance(s, BadImage)]
    if not good:
        return [np.zeros((1, 3, 1, 1), np.float32), np.array([-1]), np.array([-1]), bad]
    images, labels, indices = zip(*good, strict=True)
    return [np.stack(images), np.asarray(labels, np.int64), np.asarray(indices, np.int64), bad]


PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies


def _follow_parent(worker_id: int) -> None:
    """Leaves Ctrl-C, which reaches the whole group, to the parent, and ends with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class SerialLoader:
    """Loads `Batch`es in this process. Paddle's own does so in a thread, and waits for ever once that has died."""

    def __init__(self, dataset: ImageDataset, batches: TrainBatches | EvalBatches) -> None:
        self.dataset = dataset
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.batches:
            images, labels, indices, bad = collate([self.dataset[key] for key in keys])
            yield paddle.to_tensor(images), paddle.to_tensor(labels), paddle.to_tensor(indices), bad


def make_loader(
    dataset: ImageDataset,
    batches: TrainBatches | EvalBatches,
    *,
    num_workers: int,
    shared_memory: bool = True,
    persistent: bool = True,
) -> Iterable[Batch]:
    """Returns a loader of `Batch`es. Workers hand over numpy arrays.

    shared_memory: whether they put them in /dev/shm, or send them through a pipe, which is slower.
    persistent: whether workers stay between epochs; they then live until the process ends, even without their loader.
    """
    if num_workers == 0:
        return SerialLoader(dataset, batches)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        prefetch_factor=PREFETCH,
        use_shared_memory=shared_memory,
        persistent_workers=persistent,
        worker_init_fn=_follow_parent,
        return_list=True,
    )


def eval_set(images: ImageList, preprocessing: Preprocessing) -> ImageDataset:
    """Returns the samples of a labelled split for evaluation."""
    plain = preprocessing.transform()
    return ImageDataset(images, lambda image, rng: plain(image), seed=0)


def eval_loader(
    images: ImageList,
    batches: EvalBatches,
    preprocessing: Preprocessing,
    *,
    num_workers: int,
    shared_memory: bool = True,
    persistent: bool = True,
) -> Iterable[Batch]:
    """Returns the loader of a labelled split for evaluation. Warns when its batches may not fit into /dev/shm."""
    dataset = eval_set(images, preprocessing)
    if num_workers > 0 and shared_memory:
        warn_of_small_shared_memory(preprocessing.input_size, batches.batch_size, num_workers=num_workers)
    return make_loader(dataset, batches, num_workers=num_workers, shared_memory=shared_memory, persistent=persistent)


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


def _free_bytes(folder: str) -> float:
    """Returns a file system's free bytes; infinite where there is no such folder (Paddle then uses another)."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return math.inf
    return found.f_bavail * found.f_frsize


def refuse_bad_images(bad: Sequence[BadImage]) -> None:
    """Raises a DataError that names the bad images, if there are any."""
    if bad:
        listed = "; ".join(f"{b.path}: {b.reason}" for b in bad[:5])
        more = f" (and {len(bad) - 5} more in this batch)" if len(bad) > 5 else ""
        raise DataError(f"unreadable image {listed}{more}; repair or remove it")
