"""One epoch of training."""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from logging import Logger

import numpy as np
import paddle
from paddle import Tensor
from tqdm import tqdm

from util.data.dataset import MAX_SUBSTITUTES, BadImage
from util.data.sampler import MIXING, MODEL, stream
from util.distributed import World
from util.errors import DataError, NonFiniteLossError, ResumableError
from util.stop import StopRequest, StopWaiting
from util.train.data import TrainingData
from util.train.progress import Progress
from util.train.schedule import Schedule
from util.train.step import TrainStep

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


@dataclass
class EpochSums:
    """What this process adds up in an epoch: numbers that a checkpoint can hold, for a resumed epoch to go on with."""

    loss: float = 0.0
    count: int = 0
    norm: float = 0.0
    norms: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    lr: float = 0.0


@dataclass(frozen=True)
class _Window:
    """Means over the iterations since the last line of the log, and over the epoch so far; seconds an iteration."""

    loss: float
    epoch_loss: float
    seconds: float
    epoch_seconds: float
    wait: float


@dataclass(frozen=True)
class _Iteration:
    """An iteration whose loss is still on the device."""

    number: int
    lr: float
    loss: Tensor
    indices: Tensor


class Meter:
    """Losses, gradient norms and times of an epoch; they stay on the device until somebody needs them."""

    def __init__(self, sums: EpochSums) -> None:
        self.sums = sums
        self._pending: list[_Iteration] = []
        self._norms: list[Tensor] = []
        self._window: list[float] = []
        self._started = time.perf_counter()
        self._window_seconds, self._window_waited = 0.0, 0.0

    def add(self, iteration: _Iteration, wait: float) -> None:
        """Counts an iteration that waited `wait` seconds for its data."""
        self._pending.append(iteration)
        self.sums.waited += wait
        self._window_waited += wait

    def add_norm(self, norm: Tensor) -> None:
        """Counts an update by the norm of its gradient."""
        self._norms.append(norm)

    def absorb(self) -> _Iteration | None:
        """Waits for the device and adds up what it has computed; returns the first iteration without a finite loss.

        Numbers are added one by one, so that sums do not depend on when this is called.
        """
        broken = None
        losses = paddle.stack([i.loss for i in self._pending]).numpy().tolist() if self._pending else []
        for iteration, loss in zip(self._pending, losses, strict=True):
            self.sums.loss += loss
            if broken is None and not math.isfinite(loss):
                broken = iteration
        self.sums.count += len(losses)
        self._window += losses
        for norm in paddle.stack(self._norms).numpy().tolist() if self._norms else []:
            if math.isfinite(norm):  # fp16's GradScaler skips an update whose gradient overflowed
                self.sums.norm += norm
                self.sums.norms += 1
            else:
                self.sums.skipped += 1
        self._pending, self._norms = [], []
        self._take_time()
        return broken

    def _take_time(self) -> None:
        now = time.perf_counter()
        self.sums.seconds += now - self._started
        self._window_seconds += now - self._started
        self._started = now

    def window(self) -> _Window:
        """Ends a window of the log; what the device has computed must be absorbed."""
        window = _Window(
            loss=sum(self._window) / len(self._window),
            epoch_loss=self.sums.loss / self.sums.count,
            seconds=self._window_seconds / len(self._window),
            epoch_seconds=self.sums.seconds / self.sums.count,
            wait=self._window_waited / len(self._window),
        )
        self._window, self._window_seconds, self._window_waited = [], 0.0, 0.0
        return window


@dataclass(frozen=True)
class EpochHooks:
    """What happens between two updates.

    is_due: whether to save now, or to stop: asked by all processes when the data of the next update is there, or is no
        longer awaited because the run is to stop.
    save: saves, when what belongs into a checkpoint is in `progress`; ends the run if it is to stop.
    rejected: takes the images that others stand in for.
    """

    stop: StopRequest
    is_due: Callable[[], bool]
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
    meter = Meter(EpochSums(**progress.sums[world.rank]) if progress.sums else EpochSums())
    batches = data.epoch(epoch, progress.iteration)

    def between_updates() -> None:
        if hooks.is_due():
            refuse_non_finite(meter, step, data, progress, world)
            progress.sums = world.gather(asdict(meter.sums))
            hooks.save()

    bar = tqdm(
        total=num_batches, initial=progress.iteration, desc=f"epoch {epoch}", leave=False,
        disable=None if world.is_main else True,
    )  # fmt: skip
    for iteration in range(progress.iteration, num_batches):
        place = groups.place(iteration)
        ready = time.perf_counter()  # when the loop was free for the next batch
        hooks.stop.patience = 0.0 if place.first else IN_UPDATE_PATIENCE
        try:
            images, labels, indices, bad = next(batches)
        except StopWaiting:
            if place.first:
                between_updates()  # ends the run
            raise ResumableError(
                "stopped while an update waited for data; the run continues from its last save"
            ) from None
        wait = time.perf_counter() - ready
        if bad:
            hooks.rejected(bad)
            refuse_short_batch(len(labels), data.sampler.batch_size)
        if place.first:
            between_updates()

        meter.sums.lr = lr = schedule.at(epoch + place.update / groups.updates)
        key = (epoch, iteration, world.rank)
        paddle.seed(int(stream(seed, MODEL, *key).generate_state(1)[0]))
        images, targets = mixer(images, labels, np.random.default_rng(stream(seed, MIXING, *key)))
        loss = step.accumulate(images, targets, group_size=place.size, last=place.last)
        if place.last:
            meter.add_norm(step.update(lr, progress.update))
            progress.update += 1
            progress.iteration = iteration + 1

        meter.add(_Iteration(iteration, lr, loss, indices), wait)
        bar.update()
        if iteration % log_interval == 0 or iteration == num_batches - 1:
            refuse_non_finite(meter, step, data, progress, world)
            log.info(_log_line(epoch, iteration, num_batches, lr, meter.window()))
    bar.close()
    with contextlib.suppress(StopWaiting):
        deque(batches, maxlen=0)  # lets the loader see the end of its epoch
    progress.sums = world.gather(asdict(meter.sums))
    return summary(meter.sums, num_batches * data.sampler.batch_size, world)


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


def refuse_non_finite(meter: Meter, step: TrainStep, data: TrainingData, progress: Progress, world: World) -> None:
    """Absorbs what the device has computed; a loss that is NaN or infinite raises on every process, with its cause.

    The gradient carries it to all processes with the next update, so the first one to see it is the one that counts.
    """
    broken = meter.absorb()
    if not any(world.agree(broken is not None)):
        return
    found: tuple[int, int, str] | None = None
    if broken is not None:
        names = [data.splits.train.path(int(i)) for i in broken.indices.numpy()]
        listed = ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
        where = f" on process {world.rank}" if world.size > 1 else ""
        scale = f", loss scale {step.loss_scale():g}" if step.scaler.is_enable() else ""
        before = progress.update - math.ceil(progress.iteration / step.update_freq)  # updates of the epochs before
        update = before + broken.number // step.update_freq
        text = (
            f"the loss is {float(broken.loss)}{where} at epoch {progress.epoch}, iteration {broken.number}, update "
            f"{update} (learning rate {broken.lr:g}{scale}), with the images {listed}; nothing was saved since the "
            "last checkpoint. Lower --lr, warm up longer, or clip with --clip_grad 1"
        )
        found = broken.number, world.rank, text
    raise NonFiniteLossError(min(seen for seen in world.gather(found) if seen is not None)[2])


def _log_line(epoch: int, iteration: int, num_batches: int, lr: float, window: _Window) -> str:
    left = timedelta(seconds=int((num_batches - 1 - iteration) * window.epoch_seconds))
    place = f"{iteration:{len(str(num_batches))}d}/{num_batches}"
    return (
        f"Epoch: [{epoch}]  [{place}]  eta: {left}  lr: {lr:.6f}  loss: {window.loss:.4f} ({window.epoch_loss:.4f})  "
        f"time: {window.seconds:.4f}  data: {window.wait:.4f}"
    )
