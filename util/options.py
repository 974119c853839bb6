"""Every setting of every script, once: name, type, default, help, allowed values.

A group is a frozen dataclass; `util.settings` builds flags and YAML keys from its fields. Order of precedence: the
default here, what the model's name implies, what the checkpoint says, the YAML file, the command line. None means "from
the model or the checkpoint" or "off", as the help says.
"""

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from util.errors import UsageError

Scope = Literal["result", "place", "machine"]


def setting(default: Any, help: str, *, flags: tuple[str, ...] = (), scope: Scope = "result", yaml: bool = True) -> Any:
    """Declares a setting.

    flags: other spellings on the command line.
    scope: `result` settings change what a run computes and must be equal when it is resumed; `place` settings say where
        things are and are saved with the run; `machine` settings are neither.
    yaml: whether a YAML file may set it.
    """
    return field(default=default, metadata={"help": help, "flags": flags, "scope": scope, "yaml": yaml})


def _check(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise UsageError(f"{name} must be {expected}; got {value}")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """data"""

    data_dir: str = setting("DATASET/imagenet", "root of the data set; also the first argument", scope="place")
    train_split: str = setting("train", "folder under data_dir with the training images", scope="place")
    val_split: str = setting("val", "folder under data_dir with the evaluation images", scope="place")
    cls_label_path_train: str | None = setting(
        None, "list file of the training images, lines `path label`; paths are relative to data_dir", scope="place"
    )
    cls_label_path_val: str | None = setting(
        None, "list file of the evaluation images, lines `path label`; paths are relative to data_dir", scope="place"
    )
    delimiter: str | None = setting(None, "what separates path and label in a list file; none: white space")

    def __post_init__(self) -> None:
        _check(self.delimiter != "", "delimiter", "at least one character", "none at all")


@dataclass(frozen=True, kw_only=True)
class ClassNamesOptions:
    """class names"""

    class_names: str | None = setting(
        None, "file with a line `id name` for each class; none: the folders', or ImageNet's for 1000", scope="place"
    )


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """batch"""

    batch_size: int = setting(128, "images a process and forward pass", flags=("-b",))

    def __post_init__(self) -> None:
        _check(self.batch_size > 0, "batch_size", "at least 1", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """loading"""

    num_workers: int = setting(
        4, "processes that load data; 0 loads in the main process", flags=("-j",), scope="machine"
    )

    def __post_init__(self) -> None:
        _check(self.num_workers >= 0, "num_workers", "at least 0", self.num_workers)


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """preprocessing; none: what the model or the checkpoint says"""

    input_size: tuple[int, ...] | None = setting(None, "side, or height width, or channels height width, in pixels")
    crop_pct: float | None = setting(None, "part of the resized image's side that the evaluation crop keeps")
    crop_mode: Literal["center", "squash"] | None = setting(
        None, "evaluation: resize the short side and crop the centre, or resize both sides and crop nothing"
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] | None = setting(
        None, "how images are resized, in training and in evaluation"
    )
    mean: tuple[float, float, float] | None = setting(None, "mean of R G B, of pixels in [0, 1]")
    std: tuple[float, float, float] | None = setting(None, "standard deviation of R G B, of pixels in [0, 1]")

    def __post_init__(self) -> None:
        if self.input_size is not None:
            size = self.input_size
            _check(
                1 <= len(size) <= 3 and all(0 < n <= 10_000 for n in size),
                "input_size",
                "1 to 3 integers in [1, 10000]",
                size,
            )
            _check(len(size) < 3 or size[0] == 3, "input_size", "3 channels when it has three integers", size)
        if self.crop_pct is not None:
            _check(0.0 < self.crop_pct <= 1.0, "crop_pct", "in (0, 1]", self.crop_pct)
            _check(
                self.crop_mode != "squash" or self.crop_pct == 1.0, "crop_pct", "1 with crop_mode squash", self.crop_pct
            )
        if self.std is not None:
            _check(all(s > 0 for s in self.std), "std", "positive", self.std)


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """augmentation (training only)"""

    aug: bool = setting(True, "augment; --no_aug resizes and crops the centre instead")
    scale: tuple[float, float] = setting((0.08, 1.0), "random crop: smallest and largest part of the image's area")
    ratio: tuple[float, float] = setting((3 / 4, 4 / 3), "random crop: smallest and largest width / height")
    hflip: float = setting(0.5, "probability of a left-right flip")
    vflip: float = setting(0.0, "probability of an up-down flip")
    color_jitter: float = setting(0.4, "strength of brightness, contrast and saturation jitter; off while aa is on")
    aa: str | None = setting(None, "automatic augmentation, such as rand-m9-mstd0.5-inc1")
    aug_repeats: int = setting(0, "repeated augmentation: each image this many times an epoch, fewer images; 0: off")
    reprob: float = setting(0.0, "probability of random erasing")
    remode: Literal["const", "rand", "pixel"] = setting(
        "pixel", "what fills an erased box: zeros, one normal colour, a normal value for each pixel"
    )
    recount: int = setting(1, "largest number of erased boxes")
    mixup: float = setting(0.0, "alpha of mixup's Beta(alpha, alpha); 0: off")
    cutmix: float = setting(0.0, "alpha of cutmix's Beta(alpha, alpha); 0: off")
    mixup_prob: float = setting(1.0, "probability that a batch is mixed")
    mixup_switch_prob: float = setting(0.5, "probability of cutmix when both are on")
    mixup_off_epoch: int = setting(0, "first epoch without mixing; 0: never off")
    smoothing: float = setting(0.1, "label smoothing")

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "reprob", "mixup_prob", "mixup_switch_prob"):
            value = getattr(self, name)
            _check(0.0 <= value <= 1.0, name, "a probability in [0, 1]", value)
        _check(0.0 < self.scale[0] <= self.scale[1] <= 1.0, "scale", "0 < smallest <= largest <= 1", self.scale)
        _check(0.0 < self.ratio[0] <= self.ratio[1], "ratio", "0 < smallest <= largest", self.ratio)
        for name in ("color_jitter", "mixup", "cutmix", "aug_repeats", "mixup_off_epoch"):
            _check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        _check(self.recount >= 1, "recount", "at least 1", self.recount)
        _check(0.0 <= self.smoothing < 1.0, "smoothing", "in [0, 1)", self.smoothing)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """model"""

    model: str | None = setting(None, "model name, such as cvt_13_224x224; none: what the checkpoint says")
    num_classes: int | None = setting(None, "size of the head; none: what the data or the checkpoint says")

    def __post_init__(self) -> None:
        if self.num_classes is not None:
            _check(self.num_classes > 0, "num_classes", "at least 1", self.num_classes)


@dataclass(frozen=True, kw_only=True)
class RegularisationOptions:
    """regularisation of the model (training only)"""

    drop_rate: float = setting(0.0, "dropout of tokens and projections")
    drop_path_rate: float | None = setting(None, "stochastic depth; none: the model's own rate")

    def __post_init__(self) -> None:
        for name in ("drop_rate", "drop_path_rate"):
            value = getattr(self, name)
            _check(value is None or 0.0 <= value < 1.0, name, "in [0, 1)", value)


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """weights"""

    resume: str | None = setting(
        None,
        "checkpoint to load; train.py continues it, and without one (auto) the newest in the run's folder",
        flags=("--ckpt_path",),
        scope="machine",
        yaml=False,
    )
    pretrained: str | None = setting(None, "file with weights to start from, or to use")


@dataclass(frozen=True, kw_only=True)
class EmaChoiceOptions:
    """which weights of a checkpoint"""

    use_ema: bool = setting(False, "use the checkpoint's averaged weights", scope="machine", yaml=False)


@dataclass(frozen=True, kw_only=True)
class OptimOptions:
    """optimisation"""

    opt: Literal["adamw", "momentum"] = setting("adamw", "optimizer")
    opt_eps: float = setting(1e-8, "epsilon of AdamW")
    opt_betas: tuple[float, float] = setting((0.9, 0.999), "beta1 beta2 of AdamW")
    momentum: float = setting(0.9, "momentum of the momentum optimizer")
    use_nesterov: bool = setting(False, "Nesterov's form of the momentum optimizer")
    weight_decay: float = setting(0.05, "weight decay")
    filter_bias_and_bn: bool = setting(True, "no weight decay on biases, norms and class tokens")
    clip_grad: float | None = setting(None, "clip gradients at this value; none: off")
    clip_mode: Literal["norm", "value"] = setting("norm", "clip the global norm, or each value")
    update_freq: int = setting(1, "micro-batches an update (gradient accumulation)")
    sync_bn: bool = setting(False, "BatchNorm statistics over all processes (GPU)")
    amp: bool = setting(False, "automatic mixed precision (GPU)")
    amp_dtype: Literal["float16", "bfloat16"] = setting("float16", "half precision type of amp")
    model_ema: bool = setting(False, "keep an exponential moving average of the weights")
    model_ema_decay: float = setting(0.9998, "decay of the moving average an update")

    def __post_init__(self) -> None:
        for name in ("weight_decay", "momentum"):
            _check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        _check(self.opt_eps > 0, "opt_eps", "positive", self.opt_eps)
        _check(all(0.0 <= beta < 1.0 for beta in self.opt_betas), "opt_betas", "in [0, 1)", self.opt_betas)
        _check(self.clip_grad is None or self.clip_grad > 0, "clip_grad", "positive", self.clip_grad)
        _check(self.update_freq >= 1, "update_freq", "at least 1", self.update_freq)
        _check(0.0 <= self.model_ema_decay < 1.0, "model_ema_decay", "in [0, 1)", self.model_ema_decay)
        _check(not self.use_nesterov or self.opt == "momentum", "use_nesterov", "off unless opt is momentum", self.opt)


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """learning rate and length"""

    epochs: int = setting(300, "epochs, warm-up included")
    lr: float = setting(5e-4, "highest learning rate; absolute, never rescaled")
    warmup_lr: float = setting(1e-6, "learning rate at the start of the warm-up")
    min_lr: float = setting(1e-5, "learning rate at the end of the cosine")
    warmup_epochs: int = setting(5, "epochs of linear warm-up")
    cooldown_epochs: int = setting(0, "epochs at min_lr after the others")
    t_in_epochs: bool = setting(False, "change the learning rate at each epoch instead of each update")
    start_epoch: int | None = setting(
        None, "first epoch of the counter and the schedule; none: 0, or the checkpoint's", scope="machine"
    )

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        for name in ("lr", "warmup_lr", "min_lr"):
            value = getattr(self, name)
            _check(value >= 0 and math.isfinite(value), name, "at least 0", value)
        for name in ("warmup_epochs", "cooldown_epochs"):
            _check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        total = self.epochs + self.cooldown_epochs
        _check(
            self.start_epoch is None or 0 <= self.start_epoch < total,
            "start_epoch",
            f"in [0, {total})",
            self.start_epoch,
        )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """device"""

    device: str = setting("auto", "auto (a GPU if there is one), cpu, gpu, gpu:N, xpu or npu", scope="machine")

    def __post_init__(self) -> None:
        known = re.fullmatch(r"auto|cpu|gpu(:\d+)?|xpu|npu", self.device) is not None
        _check(known, "device", "auto, cpu, gpu, gpu:N, xpu or npu", self.device)


@dataclass(frozen=True, kw_only=True)
class ThreadOptions:
    """threads"""

    cpu_threads: int | None = setting(None, "threads of CPU arithmetic; none: one a core", scope="machine")

    def __post_init__(self) -> None:
        _check(
            self.cpu_threads is None or 0 < self.cpu_threads <= 1024, "cpu_threads", "in [1, 1024]", self.cpu_threads
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """run"""

    seed: int = setting(42, "seed of everything random")
    validation_batch_size: int | None = setting(
        None, "images a process in evaluation; none: batch_size", flags=("-vb",), scope="machine"
    )
    output: str = setting("output/train", "root of all runs", scope="machine")
    experiment: str | None = setting(None, "name of the run's folder; none: the model's name", scope="machine")
    restart: bool = setting(False, "move the experiment's folder aside and start anew", scope="machine", yaml=False)
    checkpoint_interval: int = setting(0, "also keep a checkpoint every so many epochs; 0: no", scope="machine")
    checkpoint_hist: int = setting(3, "how many of those to keep", scope="machine")
    log_interval: int = setting(50, "iterations between two lines of the log", scope="machine")
    log_wandb: bool = setting(False, "also log to Weights & Biases", scope="machine")
    wandb_project: str | None = setting(None, "project at Weights & Biases", scope="machine")

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**63, "seed", "at least 0 and below 2 ** 63", self.seed)
        for name in ("checkpoint_hist", "log_interval"):
            _check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _check(self.checkpoint_interval >= 0, "checkpoint_interval", "at least 0", self.checkpoint_interval)
        size = self.validation_batch_size
        _check(size is None or size > 0, "validation_batch_size", "at least 1", size)
        folder = self.experiment
        is_name = folder is None or (bool(folder) and folder not in (".", "..") and "/" not in folder)
        _check(is_name, "experiment", "a folder's name", folder)


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """prediction"""

    infer_imgs: tuple[str, ...] = setting(
        (), "images: files, folders (recursive), globs, @list.txt", scope="machine", yaml=False
    )
    output: str | None = setting(
        None, "write results to this .jsonl or .csv instead of standard output", scope="machine", yaml=False
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """export"""

    output: str | None = setting(None, "folder for the exported files", scope="machine", yaml=False)
    dynamic_size: bool = setting(False, "leave height and width open", scope="machine", yaml=False)


@dataclass(frozen=True, kw_only=True)
class InferOptions:
    """inference"""

    model_dir: str | None = setting(None, "folder with an exported model", scope="machine", yaml=False)
    model_file: str | None = setting(None, "exported program, .json or .pdmodel", scope="machine", yaml=False)
    params_file: str | None = setting(
        None, "its parameters, .pdiparams; none: beside the program", scope="machine", yaml=False
    )
    input_file: tuple[str, ...] = setting(
        (), "images: files, folders (recursive), globs, @list.txt", scope="machine", yaml=False
    )
    output: str | None = setting(
        None, "write results to this .jsonl or .csv instead of standard output", scope="machine", yaml=False
    )
    onednn: bool = setting(True, "use oneDNN on CPU", flags=("--enable_mkldnn",), scope="machine", yaml=False)


GROUPS: tuple[type[Any], ...] = (
    DataOptions, ClassNamesOptions, BatchOptions, LoaderOptions, PreprocessOptions, AugmentOptions, ModelOptions,
    RegularisationOptions, WeightsOptions, EmaChoiceOptions, OptimOptions, ScheduleOptions, DeviceOptions,
    ThreadOptions, RunOptions, PredictOptions, ExportOptions, InferOptions,
)  # fmt: skip

# Flags of the predecessors that have no meaning here, and why.
REMOVED = {
    "no_prefetcher": "there is one pipeline",
    "use_multi_epochs_loader": "workers always stay between epochs",
    "worker_seeding": "each sample is seeded by (seed, epoch, index), whatever worker loads it",
    "debug": "it had no effect",
    "resplit": "there are no augmentation splits",
}


# Last parts of the names of microsoft/CvT's configuration (TRAIN.LR, TEST.MODEL_FILE), where ours differ.
YACS_NAMES = {
    "batch_size_per_gpu": "batch_size", "begin_epoch": "start_epoch",
    "end_epoch": "epochs", "image_size": "input_size", "label_smoothing": "smoothing", "model_file": "resume",
    "name": "model", "optimizer": "opt", "print_freq": "log_interval", "root": "data_dir", "test_set": "val_split",
    "train_set": "train_split", "wd": "weight_decay", "workers": "num_workers",
}  # fmt: skip


def all_keys() -> set[str]:
    """Returns the name of every setting of every script."""
    return {f.name for group in GROUPS for f in fields(group)}


def yaml_keys() -> set[str]:
    """Returns every key that a YAML file may hold, for whichever script."""
    return {f.name for group in GROUPS for f in fields(group) if f.metadata["yaml"]}
