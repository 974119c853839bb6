"""One epoch of training."""

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from logging import Logger

import numpy as np
import paddle
from paddle import Tensor

from util.data.dataset import MAX_SUBSTITUTES, BadImage
from util.data.loader import Batch
from util.data.sampler import MIXING, MODEL, stream
from util.distributed import World
from util.errors import DataError, NonFiniteLossError, ResumableError
from util.libraries import tqdm
from util.stop import StopRequest, StopWaiting
from util.train.data import TrainingData
from util.train.meter import Broken, EpochSums, Iteration, Meter, Window
from util.train.progress import Progress
from util.train.saver import Due
from util.train.schedule import Schedule
from util.train.step import TrainStep

MAX_NAMED = 16  # images that an error names
IN_UPDATE_PATIENCE = 5.0  # seconds to wait for the rest of an update's data when the run is to stop


@dataclass(frozen=True)
class EpochResult:
    """What an epoch adds to the log; loss is a mean over micro-batches, grad_norm over updates not skipped."""

    train_lr: float
    train_loss: float
    grad_norm: float
    seconds: float
    images_per_second: float
    data_wait: float  # share of the time spent waiting for data, in [0, 1]
    skipped_updates: int  # because their gradient was not finite


@dataclass(frozen=True)
class EpochHooks:
    """What happens between two updates.

    stop: whether the run is to stop, and how long a batch is then still awaited.
    due: what is to be done now: asked by all processes when the data of the next update is there, or is no longer
        awaited because the run is to stop.
    save: saves, when what belongs into a checkpoint is in `progress`; ends the run if it is to stop.
    rejected: takes the images that others stand in for.
    """

    stop: StopRequest
    due: Callable[[], Due]
    save: Callable[[], None]
    rejected: Callable[[list[BadImage]], None]


def train_one_epoch(
    step: TrainStep,
    data: TrainingData,
    *,
    progress: Progress,
    schedule: Schedule,
    hooks: EpochHooks,
    log: Logger,
    log_interval: int,
    world: World,
) -> EpochResult:
    """Trains on what is left of an epoch's micro-batches, counting in `progress`; returns its means over all processes.

    All randomness of an iteration follows from (seed, epoch, iteration, rank): dropout and stochastic depth differ
    between ranks, and a resumed run needs no generator state. A NaN or infinite loss raises on every rank.
    """
    step.model.train()
    epoch, num_batches = progress.epoch, len(data.sampler)
    groups = UpdateGroups(num_batches, step.update_freq)
    mixer, seed = data.mixer(epoch), data.sampler.seed
    sums = EpochSums(**progress.sums[world.rank]) if progress.sums else EpochSums()
    meter = Meter(sums, skips=step.scaler.is_enable())
    batches = data.epoch(epoch, progress.iteration)

    def between_updates() -> None:
        due = hooks.due()
        if due.look:
            refuse_non_finite(meter, step, data, progress, world)
        if due.save:
            progress.sums = world.gather(asdict(meter.sums))
            hooks.save()

    silent = None if world.is_main else True  # None: on a terminal only
    bar = tqdm(total=num_batches, initial=progress.iteration, desc=f"epoch {epoch}", leave=False, disable=silent)
    for iteration in range(progress.iteration, num_batches):
        place = groups.place(iteration)
        ready = time.perf_counter()  # when the loop was free for the next batch
        meet = between_updates if place.first else world.barrier
        patience = 0.0 if place.first else IN_UPDATE_PATIENCE
        images, labels, indices = _fetch(batches, hooks, meet, patience=patience, batch_size=data.sampler.batch_size)
        wait = time.perf_counter() - ready

        meter.sums.lr = lr = schedule.at(epoch + place.update / groups.updates)
        key = (epoch, iteration, world.rank)
        paddle.seed(int(stream(seed, MODEL, *key).generate_state(1)[0]))
        images, targets = mixer(images, labels, np.random.default_rng(stream(seed, MIXING, *key)))
        loss = step.accumulate(images, targets, group_size=place.size, last=place.last)
        norm = None
        if place.last:
            norm = step.update(lr, progress.update)
            progress.update += 1
            progress.iteration = iteration + 1

        meter.add(Iteration(iteration, lr, loss, indices, norm), wait)
        bar.update()
        if iteration % log_interval == 0 or iteration == num_batches - 1:
            refuse_non_finite(meter, step, data, progress, world)
            log.info(_log_line(epoch, iteration, num_batches, lr, meter.window()))
    bar.close()
    return _finish(batches, meter.sums, progress, world, images=num_batches * data.sampler.batch_size)


def _fetch(
    batches: Iterator[Batch], hooks: EpochHooks, meet: Callable[[], None], *, patience: float, batch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the next micro-batch: images, labels, indices.

    meet: called by all processes when they have theirs: between two updates it may save and end the run; within one,
        they only wait for each other, because the collective operation that comes next would give up on a late one.
    patience: seconds that the batch is awaited if the run is to stop; without any, `meet` ends it. It is for this
        batch alone: what is awaited outside of an update, such as an evaluation's data, is given up at once.
    """
    hooks.stop.begin_waiting(patience=patience)
    try:
        images, labels, indices, bad = next(batches)
    except StopWaiting:
        if patience == 0.0:
            meet()
        raise ResumableError("stopped while an update waited for data; the run continues from its last save") from None
    finally:
        hooks.stop.begin_waiting(patience=0.0)
    if bad:
        hooks.rejected(bad)
    meet()
    refuse_short_batch(len(labels), batch_size)
    return images, labels, indices


def refuse_short_batch(images: int, batch_size: int) -> None:
    """Raises a DataError if no readable image was found to stand in for one that is not."""
    if images < batch_size:
        raise DataError(
            f"a batch has {images} readable images of {batch_size}: {MAX_SUBSTITUTES} others in a row could not be "
            "read, too; most of the training images are broken"
        )


@dataclass(frozen=True)
class _Place:
    """An iteration's place in its update: which update of the epoch, of how many micro-batches."""

    update: int
    size: int
    first: bool
    last: bool


class UpdateGroups:
    """Which micro-batches of an epoch make up which update; the last update may have fewer."""

    def __init__(self, num_batches: int, update_freq: int) -> None:
        self.num_batches = num_batches
        self.update_freq = update_freq
        self.updates = math.ceil(num_batches / update_freq)

    def place(self, iteration: int) -> _Place:
        """Returns the place of an iteration."""
        update, place = divmod(iteration, self.update_freq)
        size = min(self.update_freq, self.num_batches - update * self.update_freq)
        return _Place(update=update, size=size, first=place == 0, last=place == size - 1)


def _finish(batches: Iterator[Batch], sums: EpochSums, progress: Progress, world: World, *, images: int) -> EpochResult:
    """Ends the training of an epoch: what all processes have added up goes into `progress`; images: of one process."""
    with contextlib.suppress(StopWaiting):
        deque(batches, maxlen=0)  # lets the loader see the end of its epoch
    progress.sums = world.gather(asdict(sums))
    return summary(sums, images, world)


def summary(sums: EpochSums, images: int, world: World) -> EpochResult:
    """Returns an epoch's means over all processes from what each has added up; images: of one process."""
    norm = sums.norm / sums.norms if sums.norms else 0.0
    loss, count, norm = world.sum(np.array([sums.loss, sums.count, norm])).tolist()
    return EpochResult(
        train_lr=sums.lr,
        train_loss=loss / count,
        grad_norm=norm / world.size,
        seconds=sums.seconds,
        images_per_second=images * world.size / sums.seconds,
        data_wait=sums.waited / sums.seconds,
        skipped_updates=sums.skipped,
    )


@dataclass(frozen=True)
class _Finding:
    """What is not finite on one process, in the order of what comes first; names: of the images it comes from."""

    iteration: int
    in_gradient: bool
    rank: int
    what: str
    where: str
    names: list[str]
    images: int


def refuse_non_finite(meter: Meter, step: TrainStep, data: TrainingData, progress: Progress, world: World) -> None:
    """Absorbs what the device has computed; a loss that is NaN or infinite raises on every process, with its cause.

    The gradient carries it to all processes, so what counts is the first loss, then the first gradient. A loss is its
    own process's; a gradient that is not finite while all losses are may come from any process of its update.
    """
    broken = meter.absorb()
    if not any(world.agree(broken is not None)):
        return
    found = None if broken is None else _finding(broken, step, data, progress, world.rank)
    findings = [seen for seen in world.gather(found) if seen is not None]
    first = min(findings, key=lambda seen: (seen.iteration, seen.in_gradient, seen.rank))
    on = f" on process {first.rank}" if world.size > 1 else ""
    if first.in_gradient:
        on = " on any of the processes" if world.size > 1 else ""
        findings = [seen for seen in findings if seen.in_gradient and seen.iteration == first.iteration]
    else:
        findings = [first]
    turns = itertools.zip_longest(*(seen.names for seen in findings))  # some of each process
    names = [name for turn in turns for name in turn if name is not None][:MAX_NAMED]
    more = sum(seen.images for seen in findings) - len(names)
    raise NonFiniteLossError(
        f"{first.what}{on} at {first.where}, with the images {', '.join(names)}{f' and {more} more' if more else ''}; "
        "nothing was saved since the last checkpoint. Lower --lr, warm up longer, or clip with --clip_grad 1"
    )


def _finding(broken: Broken, step: TrainStep, data: TrainingData, progress: Progress, rank: int) -> _Finding:
    """Returns what this process has found, for all to compare."""
    iteration = broken.iteration
    indices = np.concatenate([part.numpy() for part in broken.indices])
    scale = f", loss scale {step.loss_scale():g}" if step.scaler.is_enable() else ""
    before = progress.update - math.ceil(progress.iteration / step.update_freq)  # updates of the epochs before
    update = before + iteration.number // step.update_freq
    return _Finding(
        iteration=iteration.number,
        in_gradient=broken.in_gradient,
        rank=rank,
        what=broken.what,
        where=f"epoch {progress.epoch}, iteration {iteration.number}, update {update} (learning rate "
        f"{iteration.lr:g}{scale})",
        names=[data.splits.train.path(int(index)) for index in indices[:MAX_NAMED]],
        images=len(indices),
    )


def _log_line(epoch: int, iteration: int, num_batches: int, lr: float, window: Window) -> str:
    left = timedelta(seconds=int((num_batches - 1 - iteration) * window.epoch_seconds))
    place = f"{iteration:{len(str(num_batches))}d}/{num_batches}"
    return (
        f"Epoch: [{epoch}]  [{place}]  eta: {left}  lr: {lr:.6f}  loss: {window.loss:.4f} ({window.epoch_loss:.4f})  "
        f"time: {window.seconds:.4f}  data: {window.wait:.4f}"
    )
