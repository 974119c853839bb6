"""One epoch of training."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from logging import Logger
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from tqdm import tqdm

from util.data.loader import refuse_bad_images
from util.data.mixup import Mixer
from util.data.sampler import MIXING, MODEL, TrainBatches, stream
from util.distributed import World
from util.errors import NonFiniteLossError
from util.options import ScheduleOptions
from util.train.schedule import learning_rate
from util.train.step import TrainStep


@dataclass(frozen=True)
class EpochResult:
    """What an epoch adds to the log; loss and grad_norm are means over all micro-batches and updates."""

    train_lr: float
    train_loss: float
    grad_norm: float
    seconds: float
    images_per_second: float
    data_wait: float  # share of the time spent waiting for data, in [0, 1]
    updates: int


class _Meter:
    """Means since the last line of the log and since the epoch's start; losses stay on the device until asked for."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.total_loss, self.total_count = 0.0, 0
        self.times: list[float] = []
        self.waits: list[float] = []
        self.total_time, self.total_wait = 0.0, 0.0

    def add(self, loss: Tensor, seconds: float, wait: float) -> None:
        self.losses.append(loss)
        self.times.append(seconds)
        self.waits.append(wait)

    def flush(self) -> tuple[float, float, float, float]:
        """Returns loss, mean loss of the epoch, seconds and seconds of waiting, an iteration; waits for the device."""
        window = paddle.stack(self.losses).astype("float64").sum().item()
        count = len(self.losses)
        self.total_loss += window
        self.total_count += count
        self.total_time += sum(self.times)
        self.total_wait += sum(self.waits)
        values = window / count, self.total_loss / self.total_count, sum(self.times) / count, sum(self.waits) / count
        self.losses, self.times, self.waits = [], [], []
        return values


def train_one_epoch(
    step: TrainStep,
    batches: Iterator[Any],
    *,
    epoch: int,
    sampler: TrainBatches,
    mixer: Mixer,
    schedule: ScheduleOptions,
    log: Logger,
    log_interval: int,
    world: World,
) -> EpochResult:
    """Trains on an epoch's micro-batches and returns its means over all processes.

    All randomness of an iteration follows from (seed, epoch, iteration, rank): dropout and stochastic depth differ
    between ranks, and a resumed run needs no generator state. A NaN or infinite loss raises on every rank.
    """
    step.model.train()
    num_batches, update_freq = len(sampler), step.options.update_freq
    num_updates = -(-num_batches // update_freq)
    meter, norms, lr = _Meter(), [], 0.0
    started = previous = time.perf_counter()
    bar = tqdm(total=num_batches, desc=f"epoch {epoch}", leave=False, disable=None if world.is_main else True)
    for iteration, (images, labels, _, bad) in enumerate(batches):
        refuse_bad_images(bad)
        wait = time.perf_counter() - previous
        update = iteration // update_freq
        group_size = min(update_freq, num_batches - update * update_freq)
        last = iteration == update * update_freq + group_size - 1
        lr = learning_rate(epoch if schedule.t_in_epochs else epoch + update / num_updates, schedule)

        key = (epoch, iteration, world.rank)
        paddle.seed(int(stream(sampler.seed, MODEL, *key).generate_state(1)[0]))
        images, targets = mixer(images, labels, np.random.default_rng(stream(sampler.seed, MIXING, *key)))
        loss = step.accumulate(images, targets, group_size=group_size, last=last)
        if last:
            norms.append(step.update(lr))

        now = time.perf_counter()
        meter.add(loss, now - previous, wait)
        previous = now
        bar.update()
        if iteration % log_interval == 0 or iteration == num_batches - 1:
            values = meter.flush()
            _refuse_non_finite(values[0], world, epoch=epoch, iteration=iteration, lr=lr)
            log.info(_log_line(epoch, iteration, num_batches, lr, meter, values))
            previous = time.perf_counter()
    bar.close()
    seconds = time.perf_counter() - started
    norm = paddle.stack(norms).astype("float64").mean().item()
    loss_sum, count, norm_sum = world.sum(np.array([meter.total_loss, meter.total_count, norm])).tolist()
    images_seen = num_batches * sampler.batch_size * world.size
    return EpochResult(
        train_lr=lr,
        train_loss=loss_sum / count,
        grad_norm=norm_sum / world.size,
        seconds=seconds,
        images_per_second=images_seen / seconds,
        data_wait=meter.total_wait / max(meter.total_time, 1e-9),
        updates=num_updates,
    )


def _refuse_non_finite(loss: float, world: World, *, epoch: int, iteration: int, lr: float) -> None:
    total = float(world.sum(np.array([loss]))[0])
    if not np.isfinite(total):
        raise NonFiniteLossError(
            f"the loss is {total} at epoch {epoch}, iteration {iteration} (learning rate {lr:.6f}); nothing was saved "
            "since the last checkpoint. Lower --lr, warm up longer, or clip with --clip_grad 1"
        )


def _log_line(
    epoch: int, iteration: int, num_batches: int, lr: float, meter: _Meter, values: tuple[float, float, float, float]
) -> str:
    loss, mean_loss, seconds, wait = values
    left = (num_batches - 1 - iteration) * meter.total_time / meter.total_count
    place = f"{iteration:{len(str(num_batches))}d}/{num_batches}"
    return (
        f"Epoch: [{epoch}]  [{place}]  eta: {timedelta(seconds=int(left))}  lr: {lr:.6f}  "
        f"loss: {loss:.4f} ({mean_loss:.4f})  time: {seconds:.4f}  data: {wait:.4f}"
    )
