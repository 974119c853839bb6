"""The learning rate as a pure function of progress."""

import math

from util.options import ScheduleOptions


def learning_rate(progress: float, schedule: ScheduleOptions) -> float:
    """Returns the learning rate at `progress` epochs (a fraction within an epoch is allowed).

    Linear from warmup_lr to lr over warmup_epochs, then half a cosine from lr to min_lr over the remaining epochs,
    then min_lr (cooldown). The cosine starts where the warm-up ends, as in CvT-paddle, whose log fixes 0.000086 at
    epoch 263; timm's starts at 0 unless told otherwise.
    """
    warmup = schedule.warmup_epochs
    if progress < warmup:
        return schedule.warmup_lr + (schedule.lr - schedule.warmup_lr) * progress / warmup
    if progress >= schedule.epochs:
        return schedule.min_lr
    cosine = math.cos(math.pi * (progress - warmup) / (schedule.epochs - warmup))
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * 0.5 * (1.0 + cosine)
