"""Trains a classifier.

    python train.py DATA --config configs/train/cvt/cvt_13_224x224.yaml
    python -m paddle.distributed.launch --gpus=0,1,2,3 train.py DATA --config configs/train/cvt/cvt_13_224x224.yaml

The same command started again continues the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import Logger
from typing import TYPE_CHECKING

from util import options, runtime
from util.data.preprocessing import Preprocessing, resolve_preprocessing
from util.errors import UsageError, run_script
from util.settings import Settings, parse, to_plain

if TYPE_CHECKING:
    from util.train.checkpoint import TrainState
    from util.weights.container import Container


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    data: options.DataOptions
    names: options.ClassNamesOptions
    batch: options.BatchOptions
    loader: options.LoaderOptions
    preprocess: options.PreprocessOptions
    augment: options.AugmentOptions
    model: options.ModelOptions
    regularisation: options.RegularisationOptions
    weights: options.WeightsOptions
    optim: options.OptimOptions
    schedule: options.ScheduleOptions
    device: options.DeviceOptions
    threads: options.ThreadOptions
    run: options.RunOptions


def main(argv: Sequence[str] | None = None) -> None:
    # Settings. What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    settings = parse(TrainSettings, argv, description=__doc__ or "", positional="data_dir")
    name = settings.model.model
    if name is None:
        raise UsageError("no model: name one with --model, or give a recipe with --config")
    arithmetic = runtime.start(settings.threads.cpu_threads)

    import paddle

    from models import count_macs, count_parameters, model_defaults
    from util import distributed
    from util.evaluate import evaluate
    from util.log import log_to_file, start_logging
    from util.train.checkpoint import RunFolder
    from util.train.data import TrainingData, load_splits
    from util.train.epoch import train_one_epoch
    from util.train.plan import log_decay_groups, log_plan
    from util.train.run import RunRecorder, describe_run, find_start
    from util.train.step import TrainStep

    # Device and processes
    world, notes = distributed.start(settings.device.device)
    log = start_logging(is_main=world.is_main)
    for note in [*notes, f"{arithmetic}; device {paddle.device.get_device()}"]:
        log.info(note)
    if paddle.device.get_device() == "cpu":
        settings = replace(settings, optim=without_gpu_only(settings, log))

    # Data
    preprocessing = resolve_preprocessing(settings.preprocess, model_defaults(name))
    splits = load_splits(settings.data, num_classes=settings.model.num_classes, names_file=settings.names.class_names)
    data = TrainingData(
        splits,
        preprocessing=preprocessing,
        augment=settings.augment,
        batch_size=settings.batch.batch_size,
        num_workers=settings.loader.num_workers,
        eval_batch_size=settings.run.validation_batch_size or settings.batch.batch_size,
        seed=settings.run.seed,
        world=world,
    )

    # The run: its folder, where it continues, what it trains
    config = to_plain(settings) | preprocessing.to_plain() | {"num_classes": splits.num_classes}
    result = {k: v for k, v in config.items() if k in to_plain(settings, frozenset({"result"}))}
    description = describe_run(splits, config=config, result=result, processes=world.size, threads=arithmetic.threads)
    folder = RunFolder(settings.run.output, settings.run.experiment or name)
    container = find_start(
        folder,
        resume=settings.weights.resume,
        restart=settings.run.restart,
        checkpoint_interval=settings.run.checkpoint_interval,
        settings=description["settings"],
        world=world,
        log=log,
    )
    epochs = remaining_epochs(settings, container)
    if container is not None:
        found = container.state["progress"]
        log.info(f"{folder.path}: found epoch {found['epoch']}, update {found['update']}")
        if settings.schedule.start_epoch is not None and epochs.start != settings.schedule.start_epoch:
            log.info("--start_epoch was for the start of this run; it continues at its own epoch")
    if not epochs:
        log.info(f"{folder.path}: this run is finished; --restart starts anew, --experiment NAME starts another")
        return
    if world.is_main:
        log_to_file(log, folder.path / "train.log")
    state = build_state(
        name, settings, preprocessing, splits.num_classes, log, processes=world.size, from_nothing=container is None
    )
    if container is not None:
        state.restore(container, str(folder.path))
    state.progress.epoch = epochs.start
    recorder = RunRecorder(
        folder, state, options=settings.run, description=description, config=config, world=world, log=log
    )

    # What is about to happen
    macs = count_macs(state.model, preprocessing.input_size)
    log.info(f"{name}: {count_parameters(state.model):,} parameters, {macs / 1e9:.3f} GMACs an image")
    log_plan(log, splits=splits, sampler=data.sampler, optim=settings.optim, schedule=settings.schedule)
    log_decay_groups(log, state.model, settings.optim)

    # Loop
    step = TrainStep(state, settings.optim, world)
    for epoch in epochs:
        trained = train_one_epoch(
            step,
            data,
            epoch=epoch,
            schedule=settings.schedule,
            log=log,
            log_interval=settings.run.log_interval,
            world=world,
        )
        state.average_statistics(world)
        tested = evaluate(state.models(), data.val_loader, world, num_batches=len(data.val_batches))
        recorder.finish_epoch(epoch, trained, *tested)
    recorder.close()


def without_gpu_only(settings: TrainSettings, log: Logger) -> options.OptimOptions:
    """Returns the optimisation options without what Paddle has no CPU kernels for.

    From a recipe they are turned off with a warning, so that any recipe can be tried on a CPU; asked for on the command
    line they are a UsageError.
    """
    wanted = [flag for flag in ("amp", "sync_bn") if getattr(settings.optim, flag)]
    asked = [f"--{flag}" for flag in wanted if flag in settings.on_command_line]
    if asked:
        raise UsageError(f"{' and '.join(asked)} needs a GPU: Paddle has no CPU kernels for it; leave it out")
    if wanted:
        log.warning(f"{' and '.join(wanted)} of the recipe needs a GPU; off on this CPU")
    return replace(settings.optim, amp=False, sync_bn=False)


def remaining_epochs(settings: TrainSettings, container: "Container | None") -> range:
    """Returns the epochs to train. `--start_epoch` counts for a new run, and for one that `--resume` names."""
    start = settings.schedule.start_epoch
    if container is not None and (start is None or settings.weights.resume in (None, "auto")):
        start = container.state["progress"]["epoch"]
    return range(start or 0, settings.schedule.epochs + settings.schedule.cooldown_epochs)


def build_state(
    name: str,
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

    from models import create_model
    from util.train.checkpoint import Progress, TrainState
    from util.train.ema import ModelEma
    from util.train.optim import create_optimizer
    from util.weights import load_pretrained

    optim, path = settings.optim, settings.weights.pretrained
    paddle.seed(settings.run.seed)  # the same on every process
    model = create_model(
        name,
        num_classes=num_classes,
        img_size=preprocessing.input_size[1:],
        drop_rate=settings.regularisation.drop_rate,
        drop_path_rate=settings.regularisation.drop_path_rate,
    )
    if path is not None and from_nothing:
        replaced = load_pretrained(model, path)
        log.info(
            f"weights from {path}" + (f"; a new head: {', '.join(replaced)} had another shape" if replaced else "")
        )
    if optim.sync_bn and processes > 1:
        model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return TrainState(
        model,
        create_optimizer(model, optim),
        ema=ModelEma(model, optim.model_ema_decay) if optim.model_ema else None,
        scaler=paddle.amp.GradScaler(enable=optim.amp and optim.amp_dtype == "float16", init_loss_scaling=2.0**16),
        progress=Progress(),
    )


if __name__ == "__main__":
    run_script(main)
