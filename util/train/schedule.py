"""The learning rate as a pure function of progress."""

import math

from util.options import ScheduleOptions

DEFAULT_LR = 5e-4  # with neither lr nor lr_base


def highest_lr(options: ScheduleOptions, images_per_update: int) -> float:
    """Returns lr; or lr_base times n / lr_base_size (linear) or its square root (sqrt) for n images an update."""
    if options.lr_base is not None:
        ratio = images_per_update / options.lr_base_size
        return options.lr_base * (math.sqrt(ratio) if options.lr_base_scale == "sqrt" else ratio)
    return DEFAULT_LR if options.lr is None else options.lr


class Schedule:
    """Warm-up, then the shape that `sched` names, then cooldown.

    The warm-up is linear from warmup_lr to lr, whatever follows. Cosine and poly go from lr, where the warm-up ends, to
    min_lr, where the epochs end. So does CvT-paddle, whose log fixes 0.000086 at epoch 263; timm's begin at epoch 0
    unless it is told `warmup_prefix`. Step and multistep count from epoch 0, as timm's training script does, and a
    milestone is the first epoch with the lower rate, as in PyTorch (timm's comes one epoch earlier).

    lr: the highest learning rate.
    """

    def __init__(self, options: ScheduleOptions, *, images_per_update: int) -> None:
        self.options = options
        self.lr = highest_lr(options, images_per_update)

    def at(self, progress: float) -> float:
        """Returns the learning rate at `progress` epochs; a fraction counts, unless t_in_epochs.

        From `epochs` on, in the cooldown, it stays at its last value: nothing decays there.
        """
        options = self.options
        progress = min(math.floor(progress) if options.t_in_epochs else progress, options.epochs)
        warmup = options.warmup_epochs
        if progress < warmup or warmup >= options.epochs:
            return options.warmup_lr + (self.lr - options.warmup_lr) * progress / warmup
        part = (progress - warmup) / (options.epochs - warmup)  # of the way from the warm-up to the end, in [0, 1]
        match options.sched:
            case "cosine":
                return options.min_lr + (self.lr - options.min_lr) * 0.5 * (1.0 + math.cos(math.pi * part))
            case "poly":
                return options.min_lr + (self.lr - options.min_lr) * (1.0 - part) ** options.poly_power
            case "step":
                return self.lr * options.decay_rate ** (min(progress, options.epochs - 1) // options.decay_epochs)
            case "multistep":
                passed = sum(milestone <= min(progress, options.epochs - 1) for milestone in options.decay_milestones)
                return self.lr * options.decay_rate**passed
            case "constant":
                return self.lr
