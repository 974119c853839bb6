"""Settings that were asked for and change nothing, because of another one or of the device."""

from dataclasses import replace
from logging import Logger

from util.errors import UsageError
from util.options import (
    AugmentOptions,
    EmaOptions,
    LoaderOptions,
    MixOptions,
    OptimOptions,
    PrecisionOptions,
    RunOptions,
    ScheduleOptions,
)


def unused_settings(
    given: frozenset[str],
    *,
    augment: AugmentOptions,
    mix: MixOptions,
    optim: OptimOptions,
    precision: PrecisionOptions,
    ema: EmaOptions,
    schedule: ScheduleOptions,
    run: RunOptions,
) -> list[str]:
    """Returns a line for each setting among `given`, those of the command line, that has no effect.

    A recipe may hold such settings, so that one line switches a thing on or off; on the command line they are most
    likely a misunderstanding.
    """
    mixes = mix.mixup > 0 or mix.cutmix > 0 or mix.cutmix_minmax is not None
    both = mix.mixup > 0 and (mix.cutmix > 0 or mix.cutmix_minmax is not None)
    jitters = augment.color_jitter > 0 and (augment.aa is None or augment.aa.startswith("3a"))
    needs: dict[str, tuple[bool, tuple[str, ...]]] = {
        "aug (it is off)": (augment.aug, (
            "train_crop_mode", "scale", "ratio", "train_interpolation", "hflip", "vflip", "color_jitter",
            "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob", "aa", "reprob", "remode", "recount",
            "recount_min", "rearea",
        )),
        "train_crop_mode rrc": (augment.train_crop_mode == "rrc", ("scale", "ratio")),
        "color_jitter above 0, and no aa but 3a": (jitters, ("color_jitter_prob",)),
        "no aa but 3a": (augment.aa is None or augment.aa.startswith("3a"), ("color_jitter",)),
        "reprob above 0": (augment.reprob > 0, ("remode", "recount", "recount_min", "rearea")),
        "mixup or cutmix": (mixes, ("mixup_prob", "mixup_mode", "mixup_off_epoch")),
        "no cutmix_minmax, which replaces it": (mix.cutmix_minmax is None, ("cutmix",)),
        "mixup and cutmix": (both, ("mixup_switch_prob",)),
        "amp": (precision.amp, ("amp_level", "amp_dtype")),
        "model_ema": (ema.model_ema, ("model_ema_decay", "model_ema_warmup")),
        "clip_grad": (optim.clip_grad is not None, ("clip_mode",)),
        "sched cosine or poly": (schedule.sched in ("cosine", "poly"), ("min_lr",)),
        "sched step": (schedule.sched == "step", ("decay_epochs",)),
        "sched multistep": (schedule.sched == "multistep", ("decay_milestones",)),
        "sched step or multistep": (schedule.sched in ("step", "multistep"), ("decay_rate",)),
        "sched poly": (schedule.sched == "poly", ("poly_power",)),
        "lr_base": (schedule.lr_base is not None, ("lr_base_size", "lr_base_scale")),
        "warmup_epochs above 0": (schedule.warmup_epochs > 0, ("warmup_lr",)),
        "checkpoint_interval above 0": (run.checkpoint_interval > 0, ("checkpoint_hist",)),
        "log_wandb": (run.log_wandb, ("wandb_project",)),
    }  # fmt: skip
    unmet = {
        name: need for need, (is_met, names) in reversed(needs.items()) if not is_met for name in names if name in given
    }
    lines = [f"--{name} has no effect: it needs {need}" for name, need in unmet.items()]
    end = schedule.epochs + schedule.cooldown_epochs
    if mixes and "mixup_off_epoch" in given and mix.mixup_off_epoch >= end:
        lines.append(f"--mixup_off_epoch {mix.mixup_off_epoch} has no effect: the run has {end} epochs")
    return lines


def without_gpu_only(
    optim: OptimOptions, precision: PrecisionOptions, *, given: frozenset[str], log: Logger
) -> tuple[OptimOptions, PrecisionOptions]:
    """Returns the settings without what Paddle has no CPU kernels for.

    From a recipe they are turned off with a warning, so that any recipe can be tried on a CPU; given on the command
    line they are a UsageError.
    """
    wanted = [name for name, on in (("amp", precision.amp), ("sync_bn", optim.sync_bn)) if on]
    asked = [f"--{name}" for name in wanted if name in given]
    if asked:
        raise UsageError(f"{' and '.join(asked)} needs a GPU: Paddle has no CPU kernels for it; leave it out")
    if wanted:
        log.warning(f"{' and '.join(wanted)} of the recipe needs a GPU; off on this CPU")
    return replace(optim, sync_bn=False), replace(precision, amp=False)


def unused_loading(given: frozenset[str], loading: LoaderOptions) -> list[str]:
    """Returns a line for each setting among `given` that is about workers, if there are none."""
    spelled = {
        "shared_memory": "--shared_memory" if loading.shared_memory else "--no_shared_memory",
        "data_timeout": "--data_timeout",
    }
    if loading.num_workers > 0:
        return []
    return [f"{flag} has no effect: it needs num_workers above 0" for name, flag in spelled.items() if name in given]
