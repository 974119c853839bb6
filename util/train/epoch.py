"""One epoch of training."""

import math
import time
from dataclasses import dataclass
from datetime import timedelta
from logging import Logger

import numpy as np
import paddle
from paddle import Tensor
from tqdm import tqdm

from util.data.loader import refuse_bad_images
from util.data.sampler import MIXING, MODEL, stream
from util.distributed import World
from util.errors import NonFiniteLossError
from util.train.data import TrainingData
from util.train.schedule import Schedule
from util.train.step import TrainStep


@dataclass(frozen=True)
class EpochResult:
    """What an epoch adds to the log; loss is a mean over micro-batches, grad_norm over updates not skipped."""

    train_lr: float
    train_loss: float
    grad_norm: float
    seconds: float
    images_per_second: float
    data_wait: float  # share of the time spent waiting for data, in [0, 1]
    updates: int
    skipped_updates: int  # because their gradient was not finite


@dataclass(frozen=True)
class _Window:
    """Means over the iterations since the last line of the log, and over the epoch so far; seconds an iteration."""

    loss: float
    epoch_loss: float
    seconds: float
    epoch_seconds: float
    wait: float


class _Meter:
    """Losses and times of an epoch; losses stay on the device until a line of the log needs them."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.waited = 0.0
        self.started = time.perf_counter()
        self.count, self.total_loss, self.total_seconds, self.total_wait = 0, 0.0, 0.0, 0.0

    def add(self, loss: Tensor, wait: float) -> None:
        """Counts an iteration that waited `wait` seconds for its data."""
        self.losses.append(loss)
        self.waited += wait

    def flush(self) -> _Window:
        """Ends a window: waits for the device, so that the time is that of the work and not of its launch."""
        count = len(self.losses)
        loss = paddle.stack(self.losses).astype("float64").sum().item()
        now = time.perf_counter()
        seconds, waited = now - self.started, self.waited
        self.count += count
        self.total_loss += loss
        self.total_seconds += seconds
        self.total_wait += waited
        self.losses, self.waited, self.started = [], 0.0, now
        return _Window(
            loss=loss / count,
            epoch_loss=self.total_loss / self.count,
            seconds=seconds / count,
            epoch_seconds=self.total_seconds / self.count,
            wait=waited / count,
        )


def train_one_epoch(
    step: TrainStep,
    data: TrainingData,
    *,
    epoch: int,
    first_update: int,
    schedule: Schedule,
    log: Logger,
    log_interval: int,
    world: World,
) -> EpochResult:
    """Trains on an epoch's micro-batches and returns its means over all processes.

    first_update: updates of the run before this epoch.

    All randomness of an iteration follows from (seed, epoch, iteration, rank): dropout and stochastic depth differ
    between ranks, and a resumed run needs no generator state. A NaN or infinite loss raises on every rank.
    """
    step.model.train()
    sampler, mixer, update_freq = data.sampler, data.mixer(epoch), step.update_freq
    num_batches = len(sampler)
    num_updates = math.ceil(num_batches / update_freq)
    meter, norms, lr = _Meter(), [], 0.0
    ready = time.perf_counter()  # when the loop was free for the next batch
    bar = tqdm(total=num_batches, desc=f"epoch {epoch}", leave=False, disable=None if world.is_main else True)
    for iteration, (images, labels, _, bad) in enumerate(data.epoch(epoch)):
        refuse_bad_images(bad)
        wait = time.perf_counter() - ready
        update, place = divmod(iteration, update_freq)
        group_size = min(update_freq, num_batches - update * update_freq)
        last = place == group_size - 1
        lr = schedule.at(epoch + update / num_updates)

        key = (epoch, iteration, world.rank)
        paddle.seed(int(stream(sampler.seed, MODEL, *key).generate_state(1)[0]))
        images, targets = mixer(images, labels, np.random.default_rng(stream(sampler.seed, MIXING, *key)))
        loss = step.accumulate(images, targets, group_size=group_size, last=last)
        if last:
            norms.append(step.update(lr, first_update + update))

        meter.add(loss, wait)
        bar.update()
        if iteration % log_interval == 0 or iteration == num_batches - 1:
            window = meter.flush()
            _refuse_non_finite(window.loss, world, epoch=epoch, iteration=iteration, lr=lr)
            log.info(_log_line(epoch, iteration, num_batches, lr, window))
        ready = time.perf_counter()
    bar.close()
    all_norms = paddle.stack(norms).numpy()
    finite = all_norms[np.isfinite(all_norms)]  # fp16's GradScaler skips an update whose gradient overflowed
    norm = float(finite.mean()) if len(finite) else 0.0
    loss_sum, count, norm_sum = world.sum(np.array([meter.total_loss, meter.count, norm])).tolist()
    return EpochResult(
        train_lr=lr,
        train_loss=loss_sum / count,
        grad_norm=norm_sum / world.size,
        seconds=meter.total_seconds,
        images_per_second=num_batches * sampler.batch_size * world.size / meter.total_seconds,
        data_wait=meter.total_wait / meter.total_seconds,
        updates=num_updates,
        skipped_updates=len(all_norms) - len(finite),
    )


def _refuse_non_finite(loss: float, world: World, *, epoch: int, iteration: int, lr: float) -> None:
    total = float(world.sum(np.array([loss]))[0])
    if not np.isfinite(total):
        raise NonFiniteLossError(
            f"the loss is {total} at epoch {epoch}, iteration {iteration} (learning rate {lr:g}); nothing was saved "
            "since the last checkpoint. Lower --lr, warm up longer, or clip with --clip_grad 1"
        )


def _log_line(epoch: int, iteration: int, num_batches: int, lr: float, window: _Window) -> str:
    left = timedelta(seconds=int((num_batches - 1 - iteration) * window.epoch_seconds))
    place = f"{iteration:{len(str(num_batches))}d}/{num_batches}"
    return (
        f"Epoch: [{epoch}]  [{place}]  eta: {left}  lr: {lr:.6f}  loss: {window.loss:.4f} ({window.epoch_loss:.4f})  "
        f"time: {window.seconds:.4f}  data: {window.wait:.4f}"
    )
