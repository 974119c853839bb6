"""Which model, with which weights."""

from dataclasses import dataclass

from util.options.base import check, setting


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """model"""

    model: str | None = setting(None, "model name, such as cvt_13_224x224; none: what the checkpoint says")
    num_classes: int | None = setting(None, "size of the head; none: what the data or the checkpoint says")

    def __post_init__(self) -> None:
        if self.num_classes is not None:
            check(self.num_classes > 0, "num_classes", "at least 1", self.num_classes)


@dataclass(frozen=True, kw_only=True)
class RegularisationOptions:
    """regularisation of the model (training only)"""

    drop_rate: float = setting(0.0, "dropout of tokens and projections")
    attn_drop_rate: float = setting(0.0, "dropout of attention's weights")
    drop_path_rate: float | None = setting(None, "stochastic depth; none: the model's own rate")

    def __post_init__(self) -> None:
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            value = getattr(self, name)
            check(value is None or 0.0 <= value < 1.0, name, "in [0, 1)", value)


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """weights"""

    resume: str | None = setting(
        None,
        "checkpoint to load; train.py continues it, and without one (none or auto) the newest in the run's folder",
        flags=("--ckpt_path",),
        scope="machine",
        yaml=False,
    )
    pretrained: str | None = setting(
        None,
        "weights to start from, or to use: a file of any supported project, or a published name (`list` shows them)",
    )


@dataclass(frozen=True, kw_only=True)
class EmaChoiceOptions:
    """which weights of a checkpoint"""

    use_ema: bool = setting(False, "use the checkpoint's averaged weights", scope="machine", yaml=False)
