"""What a run is about to do, in a few lines of the log."""

import re
from collections import Counter
from logging import Logger

from paddle import nn

from util.data.sampler import TrainBatches
from util.options import OptimOptions, ScheduleOptions
from util.train.data import Splits
from util.train.optim import decay_groups
from util.train.schedule import learning_rate


def log_plan(
    log: Logger, *, splits: Splits, sampler: TrainBatches, optim: OptimOptions, schedule: ScheduleOptions
) -> None:
    """Logs the data, the effective batch and the learning rates that follow from the settings."""
    images = f"{len(splits.train):,} training and {len(splits.val):,} evaluation images"
    log.info(f"{images}, {splits.num_classes} classes")
    batch = sampler.batch_size * sampler.world_size * optim.update_freq
    log.info(
        f"effective batch {batch} = {sampler.batch_size} images x {sampler.world_size} processes x {optim.update_freq} "
        f"micro-batches; {len(sampler)} iterations and {-(-len(sampler) // optim.update_freq)} updates an epoch"
    )
    log.info(
        f"{optim.opt}, lr {schedule.lr:g} from {learning_rate(0, schedule):g} to {schedule.min_lr:g}, "
        f"{schedule.epochs} epochs with {schedule.warmup_epochs} of warm-up, {schedule.cooldown_epochs} of cooldown"
    )
    if schedule.warmup_epochs >= schedule.epochs:
        log.warning(
            f"warmup_epochs {schedule.warmup_epochs} >= epochs {schedule.epochs}: the learning rate never reaches lr"
        )


def log_decay_groups(log: Logger, model: nn.Layer, optim: OptimOptions) -> None:
    """Logs which parameters have weight decay, block numbers folded to `*`."""
    groups = decay_groups(model, filter_bias_and_bn=optim.filter_bias_and_bn)
    for what, names in ((f"weight decay {optim.weight_decay:g}", groups.decay), ("no weight decay", groups.no_decay)):
        folded = Counter(re.sub(r"\d+", "*", name) for name in names)
        listed = ", ".join(f"{name} ({count})" for name, count in folded.items())
        log.info(f"{what} on {len(names)} tensors: {listed or 'none'}")
