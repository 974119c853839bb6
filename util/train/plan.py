"""What a run is about to do, in a few lines of the log."""

import re
from collections import Counter
from collections.abc import Mapping
from logging import Logger
from typing import Any

from paddle import nn

from util.data.preprocessing import Preprocessing, describe_differences
from util.options import MixOptions, OptimOptions
from util.train.data import TrainingData
from util.train.optim import decay_groups, layer_scales
from util.train.schedule import Schedule


def warn_of_start(
    log: Logger, wanted: str, *, said: Mapping[str, Any], preprocessing: Preprocessing, average_left: bool
) -> None:
    """Warns of what may be unexpected about the weights that a run starts from, `wanted` with --pretrained.

    said: the preprocessing that they were trained with, as far as it is known; average_left: whether the file holds
    averaged weights, too.
    """
    for difference in describe_differences(said, preprocessing, ("mean", "std")):
        log.warning(f"{wanted} was trained with {difference}")
    if average_left:
        log.warning(
            f"{wanted} holds averaged weights, too, which were not taken; make a file of them with "
            f"python -m util.weights {wanted} --use_ema --output NEW.safetensors"
        )


def log_plan(
    log: Logger, *, model: nn.Layer, data: TrainingData, mix: MixOptions, optim: OptimOptions, schedule: Schedule
) -> None:
    """Logs on what is trained, how batches are mixed, and at which learning rates."""
    _log_rates(log, data=data, optim=optim, schedule=schedule)
    _log_mixing(log, mix)
    _log_parameter_groups(log, model, optim)


def _log_rates(log: Logger, *, data: TrainingData, optim: OptimOptions, schedule: Schedule) -> None:
    """Logs the data, the effective batch and the learning rates that follow from the settings."""
    splits, sampler, options = data.splits, data.sampler, schedule.options
    images = f"{len(splits.train):,} training and {len(splits.val):,} evaluation images"
    log.info(f"{images}, {splits.num_classes} classes")
    batch = data.images_per_update(optim.update_freq)
    micro_batches = min(optim.update_freq, len(sampler))
    log.info(
        f"effective batch {batch} = {sampler.batch_size} images x {sampler.world_size} processes x {micro_batches} "
        f"micro-batches; {len(sampler)} iterations and {-(-len(sampler) // micro_batches)} updates an epoch"
    )
    if micro_batches < optim.update_freq:
        log.warning(f"update_freq {optim.update_freq} is more than the {len(sampler)} iterations of an epoch")
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


def _log_mixing(log: Logger, mix: MixOptions) -> None:
    """Logs how batches are mixed, and until when."""
    if mix.mixup == 0 and mix.cutmix == 0 and mix.cutmix_minmax is None:
        return
    cutmix = f"cutmix {mix.cutmix:g}" if mix.cutmix_minmax is None else f"cutmix of {mix.cutmix_minmax} of the sides"
    end = f"; off from epoch {mix.mixup_off_epoch}" if mix.mixup_off_epoch else ""
    log.info(f"mixing: mixup {mix.mixup:g}, {cutmix}, {mix.mixup_mode}, probability {mix.mixup_prob:g}{end}")


def _log_parameter_groups(log: Logger, model: nn.Layer, optim: OptimOptions) -> None:
    """Logs which parameters have weight decay, block numbers folded to `*`, and each layer's learning rate."""
    groups = decay_groups(model, filter_bias_and_bn=optim.filter_bias_and_bn)
    for what, names in ((f"weight decay {optim.weight_decay:g}", groups.decay), ("no weight decay", groups.no_decay)):
        folded = Counter(re.sub(r"\d+", "*", name) for name in names)
        listed = ", ".join(f"{name} ({count})" for name, count in folded.items())
        log.info(f"{what} on {len(names)} tensors: {listed or 'none'}")
    if optim.layer_decay is not None:
        trained = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
        scales = sorted({s for name, s in layer_scales(model, optim.layer_decay).items() if name in trained})
        log.info(f"layer decay: {len(scales)} layers, parts of the learning rate {scales[0]:.3g} to {scales[-1]:.3g}")
