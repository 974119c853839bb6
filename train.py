"""Trains a classifier.

    python train.py DATA --config configs/train/cvt/cvt_13_224x224.yaml
    python -m paddle.distributed.launch --gpus=0,1,2,3 train.py DATA --config configs/train/cvt/cvt_13_224x224.yaml

The same command started again continues the run. --dry_run tries everything on one batch and writes nothing.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from logging import Logger
from typing import TYPE_CHECKING

from util import options, runtime
from util.data.preprocessing import Preprocessing, resolve_preprocessing
from util.errors import UsageError, run_script
from util.settings import Settings, parse, to_plain
from util.stop import StopRequest
from util.weights.sources import list_if_asked

if TYPE_CHECKING:
    from paddle import nn

    from util.distributed import World
    from util.train.checkpoint import TrainState
    from util.train.data import TrainingData
    from util.train.run import RunStart
    from util.train.schedule import Schedule
    from util.train.step import TrainStep
    from util.weights.container import Container


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    data: options.DataOptions
    train_data: options.TrainDataOptions
    names: options.ClassNamesOptions
    batch: options.BatchOptions
    loader: options.LoaderOptions
    preprocess: options.PreprocessOptions
    augment: options.AugmentOptions
    mix: options.MixOptions
    loss: options.LossOptions
    model: options.ModelOptions
    regularisation: options.RegularisationOptions
    weights: options.WeightsOptions
    optim: options.OptimOptions
    precision: options.PrecisionOptions
    ema: options.EmaOptions
    schedule: options.ScheduleOptions
    device: options.DeviceOptions
    threads: options.ThreadOptions
    run: options.RunOptions


def main(argv: Sequence[str] | None = None) -> None:
    # Settings. What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    settings = parse(TrainSettings, argv, description=__doc__ or "", positional="data_dir")
    if list_if_asked(settings.weights.pretrained):
        return
    name = settings.model.model
    if name is None:
        raise UsageError("no model: name one with --model, or give a recipe with --config")
    if settings.run.dry_run and settings.weights.resume is not None:
        raise UsageError("--dry_run is about a new run; leave out --resume")
    arithmetic = runtime.start(settings.threads.cpu_threads)

    from models import canonical_name, model_defaults
    from util.train.run import start_run

    # Device, processes, data
    name = canonical_name(name)
    settings = replace(settings, model=replace(settings.model, model=name))
    settings, world, log = join_processes(settings, arithmetic)
    preprocessing = resolve_preprocessing(settings.preprocess, model_defaults(name))
    data = load_data(settings, preprocessing, world)

    # The run: its folder, and where it continues. What fails from here on is noted there.
    start = None
    if not settings.run.dry_run:
        start = start_run(
            settings.run,
            data.splits,
            config=to_plain(settings) | preprocessing.to_plain() | {"num_classes": data.splits.num_classes},
            result_names=to_plain(settings, frozenset({"result"})).keys(),
            resume=settings.weights.resume,
            threads=arithmetic.threads,
            world=world,
            log=log,
        )
    with contextlib.nullcontext() if start is None else start.events.recording_failure():
        train_or_try(settings, preprocessing, data, start=start, world=world, log=log)


def train_or_try(
    settings: TrainSettings,
    preprocessing: Preprocessing,
    data: "TrainingData",
    *,
    start: "RunStart | None",
    world: "World",
    log: Logger,
) -> None:
    """Builds what is trained, from where the run continues, and trains it; tries one batch if there is no run."""
    from util.log import log_to_file
    from util.train.dry_run import dry_run
    from util.train.loss import make_loss
    from util.train.run import forget_missing_best
    from util.train.schedule import Schedule
    from util.train.step import TrainStep

    container = None if start is None else start.container
    epochs = remaining_epochs(settings, container, log)
    if not epochs:
        log.info("this run is finished; --restart starts anew, --experiment NAME starts another")
        return
    if start is not None and world.is_main:
        log_to_file(log, start.folder.path / "train.log")
    schedule = Schedule(settings.schedule, images_per_update=data.images_per_update(settings.optim.update_freq))
    state = build_state(
        settings, preprocessing, data.splits.num_classes, log, processes=world.size, from_nothing=container is None
    )
    if start is not None and container is not None:
        state.restore(container, str(start.folder.path))
        forget_missing_best(state.progress, start.folder, log)
    state.progress.start_at(epochs.start)
    step = TrainStep(
        state, optim=settings.optim, precision=settings.precision, loss=make_loss(settings.loss), world=world
    )
    log_what_happens(settings, preprocessing, data, state, schedule, log)
    if start is None:
        found = dry_run(step, data, state, epochs=epochs, schedule=schedule, run=settings.run, world=world, log=log)
        if world.is_main:
            print(json.dumps(asdict(found)))
        return

    if container is not None:
        state.restore_statistics(container, world.rank)
    train(settings, step, data, state, epochs=epochs, schedule=schedule, start=start, world=world, log=log)


def train(
    settings: TrainSettings,
    step: "TrainStep",
    data: "TrainingData",
    state: "TrainState",
    *,
    epochs: range,
    schedule: "Schedule",
    start: "RunStart",
    world: "World",
    log: Logger,
) -> None:
    """Trains and evaluates epoch by epoch; a signal to stop is obeyed between two updates, or batches of evaluation."""
    from util.evaluate import evaluate
    from util.train.epoch import EpochHooks, train_one_epoch
    from util.train.recorder import RunRecorder
    from util.train.rejected import RejectedImages, refuse_known_bad

    stop = StopRequest()
    rejected = RejectedImages(start.folder, num_images=len(data.splits.train), part=settings.train_data.bad_images)
    rejected.check_known(data.splits.train.bad)
    refuse_known_bad(data.splits.val)
    recorder = RunRecorder(
        start, state, options=settings.run, stop=stop, worker_pids=data.worker_pids, world=world, log=log
    )
    hooks = EpochHooks(stop=stop, due=recorder.due, save=recorder.save, rejected=rejected.add)
    data.on_wait(recorder.wait_for_data)
    data.before_fork(recorder.finish_writing)
    stop.listen()
    with data.naming_lost_workers():
        for _ in epochs:
            trained = train_one_epoch(
                step,
                data,
                progress=state.progress,
                schedule=schedule,
                hooks=hooks,
                log=log,
                log_interval=settings.run.log_interval,
                world=world,
            )
            state.finish_training_of_epoch(world)
            batches = data.evaluation(recorder.between_batches)
            tested = evaluate(state.models(), batches, world, num_batches=len(data.val_batches))
            recorder.finish_epoch(trained, *tested)
        recorder.close()


def join_processes(settings: TrainSettings, arithmetic: runtime.Runtime) -> tuple[TrainSettings, "World", Logger]:
    """Chooses the device and joins the other processes; returns the settings as that device can have them."""
    import paddle

    from util import distributed
    from util.log import start_logging
    from util.train.unused import unused_loading, unused_settings, without_gpu_only

    world, notes = distributed.start(settings.device.device)
    log = start_logging(is_main=world.is_main)
    for note in [*notes, f"{arithmetic}; device {paddle.device.get_device()}"]:
        log.info(note)
    unused = unused_settings(
        settings.on_command_line,
        augment=settings.augment,
        mix=settings.mix,
        optim=settings.optim,
        precision=settings.precision,
        ema=settings.ema,
        schedule=settings.schedule,
        run=settings.run,
    )
    for note in [*unused, *unused_loading(settings.on_command_line, settings.loader)]:
        log.warning(note)
    if paddle.device.get_device() == "cpu":
        optim, precision = without_gpu_only(settings.optim, settings.precision, given=settings.on_command_line, log=log)
        settings = replace(settings, optim=optim, precision=precision)
    return settings, world, log


def remaining_epochs(settings: TrainSettings, container: "Container | None", log: Logger) -> range:
    """Returns the epochs to train. `--start_epoch` counts for a new run, and for one that `--resume` names."""
    start = settings.schedule.start_epoch
    if container is not None and (start is None or settings.weights.resume in (None, "auto")):
        found = container.state["progress"]["epoch"]
        if start is not None and start != found:
            log.info("--start_epoch was for the start of this run; it continues at its own epoch")
        start = found
    return range(start or 0, settings.schedule.epochs + settings.schedule.cooldown_epochs)


def load_data(settings: TrainSettings, preprocessing: Preprocessing, world: "World") -> "TrainingData":
    """Returns both splits and their batches."""
    from util.train.data import TrainingData, load_splits

    splits = load_splits(
        settings.data,
        settings.train_data,
        num_classes=settings.model.num_classes,
        names_file=settings.names.class_names,
        seed=settings.run.seed,
    )
    return TrainingData(
        splits,
        preprocessing=preprocessing,
        augment=settings.augment,
        mix=settings.mix,
        smoothing=settings.loss.smoothing,
        loader=settings.loader,
        batch_size=settings.batch.batch_size,
        eval_batch_size=settings.run.validation_batch_size or settings.batch.batch_size,
        seed=settings.run.seed,
        world=world,
    )


def build_state(
    settings: TrainSettings,
    preprocessing: Preprocessing,
    num_classes: int,
    log: Logger,
    *,
    processes: int,
    from_nothing: bool,
) -> "TrainState":
    """Returns a new run's model, optimizer and average, equal on every process.

    from_nothing: whether `--pretrained` weights are wanted; a checkpoint that is about to be restored replaces them.
    """
    import paddle

    from models import cpu, create_model
    from util.train.batch_norm import synchronise_batch_norm
    from util.train.checkpoint import TrainState
    from util.train.ema import ModelEma
    from util.train.freeze import freeze
    from util.train.optim import create_optimizer
    from util.train.precision import make_scaler
    from util.train.progress import Progress

    optim, path = settings.optim, settings.weights.pretrained
    cpu.rewrite_gradients()  # an update takes them as those operators allow
    paddle.seed(settings.run.seed)  # the same on every process
    model = create_model(
        str(settings.model.model),
        num_classes=num_classes,
        img_size=preprocessing.input_size[1:],
        in_chans=preprocessing.input_size[0],
        drop_rate=settings.regularisation.drop_rate,
        attn_drop_rate=settings.regularisation.attn_drop_rate,
        drop_path_rate=settings.regularisation.drop_path_rate,
    )
    if path is not None and from_nothing:
        load_start(model, path, name=str(settings.model.model), preprocessing=preprocessing, log=log)
    if optim.freeze:
        frozen = freeze(model, optim.freeze)
        log.info(f"frozen by {' '.join(optim.freeze)}: {len(frozen)} tensors")
        if path is None and from_nothing:
            log.warning("what is frozen has random weights, and keeps them: --pretrained is missing")
    if optim.sync_bn and processes > 1:  # after freezing: statistics that do not move need no batch
        synchronise_batch_norm(model)
    if optim.grad_checkpointing:
        model.set_grad_checkpointing(True)
    return TrainState(
        model,
        create_optimizer(model, optim),
        ema=ModelEma(model, settings.ema) if settings.ema.model_ema else None,
        scaler=make_scaler(settings.precision),
        progress=Progress(),
    )


def load_start(model: "nn.Layer", wanted: str, *, name: str, preprocessing: Preprocessing, log: Logger) -> None:
    """Loads the weights of `--pretrained`, a file's path or a published name, and logs what was not as in the file."""
    from models import canonical_name, model_defaults
    from util.train.plan import warn_of_start
    from util.weights import load_pretrained
    from util.weights.download import find_weights

    path, published = find_weights(wanted, canonical_name=canonical_name)
    loaded = load_pretrained(model, path, name=name, holds=None if published is None else published.model)
    log.info(f"weights from {wanted}{loaded}")
    implied, known = ({}, {}) if published is None else (model_defaults(published.model), published.preprocess)
    said = {**implied, **loaded.preprocess, **known}
    warn_of_start(log, wanted, said=said, preprocessing=preprocessing, average_left=loaded.average_left)


def log_what_happens(
    settings: TrainSettings,
    preprocessing: Preprocessing,
    data: "TrainingData",
    state: "TrainState",
    schedule: "Schedule",
    log: Logger,
) -> None:
    """Logs what is about to be trained on what, and how."""
    from models import count_macs, count_parameters
    from util.train.plan import log_plan

    macs = count_macs(state.model, preprocessing.input_size)
    trained = sum(p.size for p in state.model.parameters() if not p.stop_gradient)
    log.info(
        f"{settings.model.model}: {count_parameters(state.model):,} parameters, {trained:,} of them trained, "
        f"{macs / 1e9:.3f} GMACs an image"
    )
    log_plan(log, model=state.model, data=data, mix=settings.mix, optim=settings.optim, schedule=schedule)


if __name__ == "__main__":
    run_script(main)
