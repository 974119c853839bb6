"""What a run is about to do, in a few lines of the log."""

import re
from collections import Counter
from logging import Logger

from paddle import nn

from util.options import OptimOptions
from util.train.data import TrainingData
from util.train.optim import decay_groups, layer_scales
from util.train.schedule import Schedule


def log_plan(log: Logger, *, data: TrainingData, optim: OptimOptions, schedule: Schedule) -> None:
    """Logs the data, the effective batch and the learning rates that follow from the settings."""
    splits, sampler, options = data.splits, data.sampler, schedule.options
    images = f"{len(splits.train):,} training and {len(splits.val):,} evaluation images"
    log.info(f"{images}, {splits.num_classes} classes")
    batch = data.images_per_update(optim.update_freq)
    log.info(
        f"effective batch {batch} = {sampler.batch_size} images x {sampler.world_size} processes x {optim.update_freq} "
        f"micro-batches; {len(sampler)} iterations and {-(-len(sampler) // optim.update_freq)} updates an epoch"
    )
    if options.lr_base is not None:
        log.info(
            f"lr {schedule.lr:g} = lr_base {options.lr_base:g}, {options.lr_base_scale} in {batch} / "
            f"{options.lr_base_size}"
        )
    last = schedule.at(options.epochs - 1 / len(sampler))
    log.info(
        f"{optim.opt}, {options.sched}: lr {schedule.at(0):g} at the start, {schedule.lr:g} at most, {last:g} at the "
        f"end; {options.epochs} epochs with {options.warmup_epochs} of warm-up, {options.cooldown_epochs} of cooldown"
    )
    if options.warmup_epochs >= options.epochs:
        log.warning(
            f"warmup_epochs {options.warmup_epochs} >= epochs {options.epochs}: the learning rate never reaches lr"
        )


def log_parameter_groups(log: Logger, model: nn.Layer, optim: OptimOptions) -> None:
    """Logs which parameters have weight decay, block numbers folded to `*`, and each layer's learning rate."""
    groups = decay_groups(model, filter_bias_and_bn=optim.filter_bias_and_bn)
    for what, names in ((f"weight decay {optim.weight_decay:g}", groups.decay), ("no weight decay", groups.no_decay)):
        folded = Counter(re.sub(r"\d+", "*", name) for name in names)
        listed = ", ".join(f"{name} ({count})" for name, count in folded.items())
        log.info(f"{what} on {len(names)} tensors: {listed or 'none'}")
    if optim.layer_decay is not None:
        scales = sorted(set(layer_scales(model, optim.layer_decay).values()))
        log.info(f"layer decay: {len(scales)} layers, parts of the learning rate {scales[0]:.3g} to {scales[-1]:.3g}")
