"""Trains a classifier.

    python train.py DATA --config configs/train/cvt/cvt_13_224x224.yaml
    python -m paddle.distributed.launch --gpus=0,1,2,3 train.py DATA --config configs/train/cvt/cvt_13_224x224.yaml

The same command started again continues the run.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from logging import Logger
from typing import Any

from util import options, runtime
from util.data.preprocessing import resolve_preprocessing
from util.errors import UsageError, run_script
from util.settings import Settings, parse, to_plain


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
    settings = parse(TrainSettings, argv, description=__doc__ or "", positional="data_dir")
    name = settings.model.model
    if name is None:
        raise UsageError("no model: name one with --model, or give a recipe with --config")
    arithmetic = runtime.start(settings.threads.cpu_threads)

    # What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    import paddle

    from models import count_macs, count_parameters, create_model, model_info
    from util import distributed
    from util.evaluate import evaluate
    from util.log import start_logging
    from util.train.checkpoint import Progress, RunFolder, TrainState
    from util.train.data import TrainingData, load_splits
    from util.train.ema import ModelEma
    from util.train.epoch import train_one_epoch
    from util.train.optim import create_optimizer
    from util.train.plan import log_decay_groups, log_plan
    from util.train.run import RunRecorder, find_start
    from util.train.step import TrainStep

    # Device and processes
    world, notes = distributed.start(settings.device.device)
    log = start_logging(is_main=world.is_main)
    on_cpu = paddle.device.get_device() == "cpu"
    optim = without_gpu_only(settings, log) if on_cpu else settings.optim

    # Data
    try:
        info = asdict(model_info(name))
    except ValueError as error:
        raise UsageError(str(error)) from None
    preprocessing = resolve_preprocessing(settings.preprocess, info)
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

    # The run's folder, and where to continue
    resolved = to_plain(settings) | preprocessing.to_plain() | {"num_classes": splits.num_classes}
    result = to_plain(settings, frozenset({"result"})) | {
        k: resolved[k] for k in (*preprocessing.to_plain(), "num_classes")
    }
    result |= {"processes": world.size, "training images": len(splits.train)}
    folder = RunFolder(settings.run.output, settings.run.experiment or name)
    container = find_start(
        folder, resume=settings.weights.resume, restart=settings.run.restart, settings=result, world=world, log=log
    )

    # Model, optimizer, average
    paddle.seed(settings.run.seed)
    model = create_model(
        name,
        num_classes=splits.num_classes,
        img_size=preprocessing.input_size[1:],
        drop_rate=settings.regularisation.drop_rate,
        drop_path_rate=settings.regularisation.drop_path_rate,
    )
    if settings.weights.pretrained is not None and container is None:
        start_from(model, settings.weights.pretrained, log)
    if optim.sync_bn and world.size > 1:
        model = paddle.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    optimizer = create_optimizer(model, optim)
    replicas = (
        paddle.DataParallel(model) if world.size > 1 else model
    )  # shares rank 0's weights, so it comes before EMA
    state = TrainState(
        model,
        optimizer,
        ema=ModelEma(model, optim.model_ema_decay) if optim.model_ema else None,
        scaler=paddle.amp.GradScaler(enable=optim.amp and optim.amp_dtype == "float16", init_loss_scaling=2.0**16),
        progress=Progress(epoch=settings.schedule.start_epoch or 0),
    )
    if container is not None:
        state.restore(container, str(folder.path))
    if settings.weights.resume not in (None, "auto") and settings.schedule.start_epoch is not None:
        state.progress.epoch = settings.schedule.start_epoch
    epochs = range(state.progress.epoch, settings.schedule.epochs + settings.schedule.cooldown_epochs)
    if not epochs:
        log.info(f"{folder.path}: this run is finished; --restart starts anew, --experiment NAME starts another")
        return

    # What is about to happen
    description = {
        "model": {"name": name, "num_classes": splits.num_classes},
        "preprocess": preprocessing.to_plain(),
        "classes": {"folders": splits.train.class_names, "names": splits.class_names},
        "settings": result,
        "versions": {"paddle": paddle.__version__, "threads": arithmetic.threads},
    }
    recorder = RunRecorder(
        folder, state, options=settings.run, description=description, config=resolved, world=world, log=log
    )
    for note in [*notes, f"{arithmetic}; device {paddle.device.get_device()}"]:
        log.info(note)
    macs = count_macs(model, preprocessing.input_size)
    log.info(f"{name}: {count_parameters(model):,} parameters, {macs / 1e9:.3f} GMACs an image")
    log_plan(
        log,
        sampler=data.sampler,
        num_val=len(splits.val),
        num_classes=splits.num_classes,
        optim=optim,
        schedule=settings.schedule,
    )
    log_decay_groups(log, model, optim)
    if container is not None:
        log.info(f"continuing {folder.path} at epoch {epochs.start}, update {state.progress.update}")

    # Loop
    step = TrainStep(replicas, optimizer, options=optim, ema=state.ema, scaler=state.scaler)
    for epoch in epochs:
        trained = train_one_epoch(
            step,
            data.epoch(epoch),
            epoch=epoch,
            sampler=data.sampler,
            mixer=data.mixer(epoch),
            schedule=settings.schedule,
            log=log,
            log_interval=settings.run.log_interval,
            world=world,
        )
        state.average_statistics(world)
        tested = evaluate(model, data.val_loader, world, num_batches=len(data.val_batches))
        tested_ema = None
        if state.ema is not None:
            tested_ema = evaluate(state.ema.model, data.val_loader, world, num_batches=len(data.val_batches))
        recorder.finish_epoch(epoch, trained, tested, tested_ema)
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


def start_from(model: Any, path: str, log: Logger) -> None:
    """Loads `--pretrained` weights; a head for other classes keeps its fresh initialisation, and the log says so."""
    from util.weights import read_weights, set_weights

    replaced = set_weights(model, read_weights(path).tensors, source=path, replaceable=("head.weight", "head.bias"))
    log.info(
        f"weights from {path}" + (f"; new head, because {', '.join(replaced)} has another shape" if replaced else "")
    )


if __name__ == "__main__":
    run_script(main)
