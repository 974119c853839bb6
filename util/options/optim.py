"""How the weights are trained: optimizer, gradients, precision, average, learning rate."""

from dataclasses import dataclass
from typing import Literal

from util.options.base import check, setting


@dataclass(frozen=True, kw_only=True)
class OptimOptions:
    """optimisation"""

    opt: Literal["sgd", "momentum", "adam", "adamw", "lamb", "lion"] = setting(
        "adamw", "optimizer; weight decay is decoupled in adamw and lion, L2 in sgd, momentum and adam"
    )
    opt_eps: float | None = setting(None, "epsilon of adam, adamw and lamb; none: 1e-8, lamb 1e-6")
    opt_betas: tuple[float, float] | None = setting(
        None, "beta1 beta2 of adam, adamw, lamb and lion; none: 0.9 0.999, lion 0.9 0.99"
    )
    momentum: float | None = setting(None, "momentum of the momentum optimizer; none: 0.9 (sgd has none at all)")
    use_nesterov: bool = setting(False, "Nesterov's form of the momentum optimizer")
    weight_decay: float = setting(0.05, "weight decay")
    filter_bias_and_bn: bool = setting(True, "no weight decay on biases, norms and class tokens")
    layer_decay: float | None = setting(
        None, "learning rate of each layer in parts of the next one's, towards the input; none: all the same"
    )
    freeze: tuple[str, ...] = setting(
        (), "what is not trained: backbone (all but the head), bn (BatchNorm), or beginnings of parameter names"
    )
    clip_grad: float | None = setting(None, "clip gradients at this value; none: off")
    clip_mode: Literal["norm", "value", "agc"] = setting(
        "norm", "clip the global norm, each value, or each unit's norm in parts of its weights' norm (agc)"
    )
    update_freq: int = setting(1, "micro-batches an update (gradient accumulation)")
    grad_checkpointing: bool = setting(False, "recompute blocks in the backward pass: less memory, more time")
    sync_bn: bool = setting(False, "BatchNorm statistics over all processes (GPU)")

    def __post_init__(self) -> None:
        check(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        check(self.momentum is None or 0.0 <= self.momentum < 1.0, "momentum", "in [0, 1)", self.momentum)
        check(self.opt_eps is None or self.opt_eps >= 1e-30, "opt_eps", "at least 1e-30", self.opt_eps)
        betas = self.opt_betas
        check(betas is None or all(0.0 <= beta < 1.0 for beta in betas), "opt_betas", "in [0, 1)", betas)
        check(
            self.opt_eps is None or self.opt in ("adam", "adamw", "lamb"),
            "opt_eps",
            f"none with {self.opt} (--opt_eps none)",
            self.opt_eps,
        )
        fits = betas is None or self.opt not in ("sgd", "momentum")
        check(fits, "opt_betas", f"none with {self.opt} (--opt_betas none)", betas)
        fits = self.momentum is None or self.opt == "momentum"
        check(fits, "momentum", f"none with {self.opt} (--momentum none; --opt momentum has it)", self.momentum)
        decay = self.layer_decay
        check(decay is None or 0.0 < decay <= 1.0, "layer_decay", "in (0, 1]", decay)
        check(self.clip_grad is None or self.clip_grad > 0, "clip_grad", "positive", self.clip_grad)
        check(1 <= self.update_freq <= 1_000_000, "update_freq", "in [1, 1000000]", self.update_freq)
        check(not self.use_nesterov or self.opt == "momentum", "use_nesterov", "off unless opt is momentum", self.opt)


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """precision"""

    amp: bool = setting(False, "automatic mixed precision (GPU)")
    amp_level: Literal["O1", "O2"] = setting(
        "O1", "O1: products in half precision; O2: all but what needs float32 (norms, softmax, loss)"
    )
    amp_dtype: Literal["float16", "bfloat16"] = setting("float16", "half precision type of amp")


@dataclass(frozen=True, kw_only=True)
class EmaOptions:
    """average of the weights"""

    model_ema: bool = setting(False, "keep an exponential moving average of the weights")
    model_ema_decay: float = setting(0.9998, "decay of the moving average an update")
    model_ema_warmup: bool = setting(False, "begin with a lower decay, 1 - (1 + updates) ** (-2 / 3)")

    def __post_init__(self) -> None:
        check(0.0 <= self.model_ema_decay < 1.0, "model_ema_decay", "in [0, 1)", self.model_ema_decay)


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """learning rate and length"""

    epochs: int = setting(300, "epochs, warm-up included")
    sched: Literal["cosine", "step", "multistep", "poly", "constant"] = setting("cosine", "shape of the learning rate")
    lr: float | None = setting(
        None, "highest learning rate; absolute, never rescaled; none: 5e-4, or what lr_base gives"
    )
    lr_base: float | None = setting(None, "instead of lr: the learning rate for lr_base_size images an update")
    lr_base_size: int = setting(256, "images an update that lr_base is for")
    lr_base_scale: Literal["linear", "sqrt"] = setting("linear", "how lr_base grows with the images an update")
    warmup_lr: float = setting(1e-6, "learning rate at the start of the warm-up")
    min_lr: float = setting(1e-5, "learning rate at the end of cosine and poly")
    warmup_epochs: int = setting(5, "epochs of linear warm-up")
    cooldown_epochs: int = setting(0, "epochs at the last learning rate after the others")
    decay_epochs: int = setting(90, "step: epochs between two decays")
    decay_milestones: tuple[int, ...] = setting((90, 180, 270), "multistep: epochs of the decays")
    decay_rate: float = setting(0.1, "step and multistep: factor of a decay")
    poly_power: float = setting(1.0, "poly: exponent")
    t_in_epochs: bool = setting(False, "change the learning rate at each epoch instead of each update")
    start_epoch: int | None = setting(
        None, "first epoch of the counter and the schedule; none: 0, or the checkpoint's", scope="machine"
    )

    def __post_init__(self) -> None:
        check(1 <= self.epochs <= 1_000_000, "epochs", "in [1, 1000000]", self.epochs)
        for name in ("lr", "lr_base", "warmup_lr", "min_lr"):
            value = getattr(self, name)
            check(value is None or 0.0 <= value <= 1e6, name, "in [0, 1e6]", value)
        both = self.lr is not None and self.lr_base is not None
        check(not both, "lr", "none when lr_base is given (--lr none, or --lr_base none for the absolute one)", self.lr)
        check(self.lr_base_size >= 1, "lr_base_size", "at least 1", self.lr_base_size)
        for name in ("warmup_epochs", "cooldown_epochs"):
            check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        check(self.decay_epochs >= 1, "decay_epochs", "at least 1", self.decay_epochs)
        milestones = self.decay_milestones
        rising = all(a < b for a, b in zip((0, *milestones), milestones, strict=False))
        check(rising, "decay_milestones", "rising and positive", milestones)
        check(0.0 < self.decay_rate <= 1.0, "decay_rate", "in (0, 1]", self.decay_rate)
        check(self.poly_power > 0, "poly_power", "positive", self.poly_power)
        total = self.epochs + self.cooldown_epochs
        start = self.start_epoch
        check(start is None or 0 <= start < total, "start_epoch", f"in [0, {total})", start)
