"""`--dry_run`: one batch through everything that a run does, and what that says about memory, time and disk."""

import re
import resource
import shutil
import time
from dataclasses import dataclass
from datetime import timedelta
from logging import Logger
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor

from util.data.dataset import ImageDataset
from util.data.loader import Batch, collate, refuse_bad_images
from util.data.sampler import EvalBatches, TrainBatches
from util.distributed import World
from util.errors import NonFiniteLossError
from util.evaluate import evaluate
from util.options import RunOptions
from util.train.checkpoint import TrainState
from util.train.data import TrainingData
from util.train.saver import checkpoint_files
from util.train.schedule import Schedule
from util.train.step import TrainStep


@dataclass(frozen=True)
class Estimate:
    """What a dry run found: seconds are of one process and one micro-batch, memory of the process that needs most."""

    peak_memory_mb: float  # of the device; on a CPU of the whole process; 0 where Paddle does not tell (xpu, npu)
    load_seconds: float  # reading and augmenting a micro-batch, in one process
    step_seconds: float
    eval_load_seconds: float  # the same for evaluation
    eval_seconds: float
    images_per_second: float  # of all processes, in training
    epoch_seconds: float
    hours: float  # to the end of the run
    checkpoint_mb: float  # one; the tensors of saving it are not in peak_memory_mb
    free_disk_mb: float


def dry_run(
    step: TrainStep,
    data: TrainingData,
    state: TrainState,
    *,
    epochs: range,
    schedule: Schedule,
    run: RunOptions,
    world: World,
    log: Logger,
) -> Estimate:
    """Loads, mixes, trains and evaluates one batch, gathers a checkpoint's tensors, and logs what that took.

    epochs: those that the run would train. Nothing is written. An unreadable image of the batch is a DataError.
    """
    data.sampler.set_epoch(epochs.start)
    batch, load_seconds = _time_loading(data.train_set, data.sampler)
    [(images, labels, _, _)] = batch
    refuse_bad_images(next(data.epoch(epochs.start))[3])  # the run's first batch, through the loader and its workers

    step_seconds, loss = _time_training(step, data, images, labels, epochs=epochs, lr=schedule.at(epochs.start))
    batch, eval_load_seconds = _time_loading(data.val_set, data.val_batches)  # empty with more processes than images
    models = state.models()
    try:
        evaluate(models, batch, world, num_batches=1)
    except NonFiniteLossError as error:
        raise NonFiniteLossError(f"after two updates {error}; lower --lr, or warm up") from None
    started = time.perf_counter()
    tested = evaluate(models, batch, world, num_batches=1)
    eval_seconds = time.perf_counter() - started

    load_seconds, step_seconds, eval_load_seconds, eval_seconds, memory = world.largest(
        np.array([load_seconds, step_seconds, eval_load_seconds, eval_seconds, _peak_memory_mb()])
    ).tolist()
    iteration = _together(step_seconds, load_seconds, data.num_workers)
    eval_iteration = _together(eval_seconds, eval_load_seconds, data.num_workers)
    epoch_seconds = iteration * len(data.sampler) + eval_iteration * len(data.val_batches)
    estimate = Estimate(
        peak_memory_mb=memory,
        load_seconds=load_seconds,
        step_seconds=step_seconds,
        eval_load_seconds=eval_load_seconds,
        eval_seconds=eval_seconds,
        images_per_second=data.sampler.batch_size * world.size / iteration,
        epoch_seconds=epoch_seconds,
        hours=epoch_seconds * len(epochs) / 3600,
        checkpoint_mb=sum(tensor.nbytes for tensor in state.tensors().values()) / 1e6,
        free_disk_mb=shutil.disk_usage(_existing(Path(run.output))).free / 1e6,
    )
    if world.is_main:
        _report(estimate, loss, tested[0].loss, data, epochs, log)
        copies = checkpoint_files(run, averaged=state.ema is not None)
        if copies * estimate.checkpoint_mb > estimate.free_disk_mb:
            log.warning(f"the disk has no room for the {copies} checkpoints that the run keeps or is writing at a time")
    return estimate


def _time_loading(dataset: ImageDataset, batches: TrainBatches | EvalBatches) -> tuple[list[Batch], float]:
    """Returns the first batch, if there is one, and the seconds that loading it takes in this process."""
    keys = next(iter(batches), None)
    if keys is None:
        return [], 0.0
    started = time.perf_counter()
    images, labels, indices, bad = collate([dataset[key] for key in keys])
    seconds = time.perf_counter() - started
    if not dataset.substitute:
        refuse_bad_images(bad)
    return [(paddle.to_tensor(images), paddle.to_tensor(labels), paddle.to_tensor(indices), bad)], seconds


def _together(compute_seconds: float, load_seconds: float, num_workers: int) -> float:
    """Returns the seconds of an iteration: workers load while the model computes; without any, one after the other."""
    return max(compute_seconds, load_seconds / num_workers) if num_workers else compute_seconds + load_seconds


def _time_training(
    step: TrainStep, data: TrainingData, images: Tensor, labels: Tensor, *, epochs: range, lr: float
) -> tuple[float, float]:
    """Trains two updates of one micro-batch; returns the seconds of an iteration of the run and the last loss.

    The first update is mixed as in the last epoch, so that memory holds for a batch that grows when mixing ends; the
    second, as in the first epoch, is timed. An iteration is a micro-batch and its share of an update. With several
    processes every micro-batch is counted with the reduction of its gradient, which in a run the last of an update has.
    """
    step.model.train()
    rng = np.random.default_rng(0)
    for past_updates, epoch in enumerate((epochs[-1], epochs.start)):
        mixer, started = data.mixer(epoch), time.perf_counter()
        loss = step.accumulate(*mixer(images, labels, rng), group_size=1, last=True)
        _wait(loss)
        accumulated = time.perf_counter()
        step.update(lr, past_updates)
        _wait(step.parameters[-1].sum())
        updated = time.perf_counter()
    group_size = min(step.update_freq, len(data.sampler))
    return accumulated - started + (updated - accumulated) / group_size, float(loss)


def _wait(value: Tensor) -> None:
    """Waits for the device, which has done all before it when it gives out a value."""
    float(value)


def _peak_memory_mb() -> float:
    device = paddle.device.get_device()
    if device.startswith("gpu"):
        return paddle.device.cuda.max_memory_reserved() / 1e6
    if device != "cpu":
        return 0.0
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
        f"an epoch takes about {timedelta(seconds=round(found.epoch_seconds))}, {len(epochs)} epochs about "
        f"{timedelta(hours=found.hours) - timedelta(hours=found.hours) % timedelta(seconds=1)}"
    )
    log.info(f"a checkpoint takes {found.checkpoint_mb:,.0f} MB; {found.free_disk_mb:,.0f} MB are free")
    log.info("nothing was written; without --dry_run the training begins")
