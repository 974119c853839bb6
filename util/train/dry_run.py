"""`--dry_run`: one batch through everything that a run does, and what that says about memory, time and disk."""

import re
import resource
import shutil
import time
from dataclasses import dataclass
from logging import Logger
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor

from util.data.loader import collate, refuse_bad_images
from util.distributed import World
from util.evaluate import evaluate
from util.train.checkpoint import TrainState
from util.train.data import TrainingData
from util.train.schedule import Schedule
from util.train.step import TrainStep


@dataclass(frozen=True)
class Estimate:
    """What a dry run found: seconds are of one process and one micro-batch, memory of the process that needs most."""

    peak_memory_mb: float  # of the device; on a CPU of the whole process
    load_seconds: float  # reading and augmenting a micro-batch, in one process
    step_seconds: float
    eval_seconds: float
    images_per_second: float  # of all processes, in training
    epoch_seconds: float
    hours: float  # to the end of the run
    checkpoint_mb: float
    free_disk_mb: float


def dry_run(
    step: TrainStep,
    data: TrainingData,
    state: TrainState,
    *,
    epochs: range,
    schedule: Schedule,
    output: str,
    world: World,
    log: Logger,
) -> Estimate:
    """Loads, mixes, trains and evaluates one batch, gathers a checkpoint's tensors, and logs what that took.

    epochs: those that the run would train. Nothing is written. An unreadable image of the batch is a DataError.
    """
    data.sampler.set_epoch(epochs.start)
    started = time.perf_counter()
    keys = next(iter(data.sampler))
    images, labels, _, bad = collate([data.train_set[key] for key in keys])
    load_seconds = time.perf_counter() - started
    refuse_bad_images(bad)
    images, labels = paddle.to_tensor(images), paddle.to_tensor(labels)
    loaded = next(data.epoch(epochs.start))  # the same batch as the run's first, through the loader and its workers
    refuse_bad_images(loaded[3])

    step_seconds, loss = _time_training(step, data, images, labels, lr=schedule.at(epochs.start))
    batch = next(iter(data.val_loader))
    refuse_bad_images(batch[3])
    models = state.models()
    evaluate(models, [batch], world, num_batches=1)
    started = time.perf_counter()
    tested = evaluate(models, [batch], world, num_batches=1)
    eval_seconds = time.perf_counter() - started

    load_seconds, step_seconds, eval_seconds, memory = world.largest(
        np.array([load_seconds, step_seconds, eval_seconds, _peak_memory_mb()])
    ).tolist()
    iteration = max(step_seconds, load_seconds / data.num_workers) if data.num_workers else step_seconds + load_seconds
    epoch_seconds = iteration * len(data.sampler) + eval_seconds * len(data.val_batches)
    estimate = Estimate(
        peak_memory_mb=memory,
        load_seconds=load_seconds,
        step_seconds=step_seconds,
        eval_seconds=eval_seconds,
        images_per_second=data.sampler.batch_size * world.size / iteration,
        epoch_seconds=epoch_seconds,
        hours=epoch_seconds * len(epochs) / 3600,
        checkpoint_mb=sum(tensor.nbytes for tensor in state.tensors().values()) / 1e6,
        free_disk_mb=shutil.disk_usage(_existing(Path(output))).free / 1e6,
    )
    if world.is_main:
        _report(estimate, loss, tested[0].loss, data, epochs, log)
    return estimate


def _time_training(
    step: TrainStep, data: TrainingData, images: Tensor, labels: Tensor, *, lr: float
) -> tuple[float, float]:
    """Trains an update on the same batch over and over; returns the seconds of a micro-batch and the last loss."""
    step.model.train()
    mixer, rng, count = data.mixer(0), np.random.default_rng(0), step.update_freq
    step.accumulate(*mixer(images, labels, rng), group_size=1, last=True)
    step.update(lr, 0)  # the first one also allocates
    _wait(step)
    started = time.perf_counter()
    for place in range(count):
        loss = step.accumulate(*mixer(images, labels, rng), group_size=count, last=place == count - 1)
    step.update(lr, 1)
    _wait(step)
    return (time.perf_counter() - started) / count, float(loss)


def _wait(step: TrainStep) -> None:
    """Waits for the device, which has done all before it when it gives out a weight."""
    float(step.parameters[-1].sum())


def _peak_memory_mb() -> float:
    if paddle.device.is_compiled_with_cuda() and paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.max_memory_reserved() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # Linux; getrusage's figure begins with that of the process that started this one
        [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        return int(kilobytes) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


def _existing(path: Path) -> Path:
    """Returns the nearest folder that exists."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.is_dir())


def _report(
    found: Estimate, train_loss: float, test_loss: float, data: TrainingData, epochs: range, log: Logger
) -> None:
    log.info(f"dry run: training loss {train_loss:.4f}, evaluation loss {test_loss:.4f}")
    log.info(
        f"peak memory {found.peak_memory_mb:,.0f} MB; a micro-batch takes {found.step_seconds:.3f} s to train on and "
        f"{found.load_seconds:.3f} s to load in one process: {found.images_per_second:,.1f} images/s with "
        f"{data.num_workers} workers"
    )
    if data.num_workers and found.load_seconds / data.num_workers > found.step_seconds:
        log.warning("loading is the slower part: more --num_workers help if there are cores for them")
    log.info(
        f"an epoch takes about {found.epoch_seconds / 60:,.1f} minutes, {len(epochs)} epochs about "
        f"{found.hours:,.1f} hours"
    )
    log.info(f"a checkpoint takes {found.checkpoint_mb:,.0f} MB; {found.free_disk_mb:,.0f} MB are free")
    if found.checkpoint_mb > found.free_disk_mb:
        log.warning("the disk has no room for a checkpoint")
    log.info("nothing was written; without --dry_run the training begins")
