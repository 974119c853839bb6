"""Every setting of every script, once: name, type, default, help, allowed values.

A group is a frozen dataclass; `util.settings` builds flags and YAML keys from its fields. Order of precedence: the
default here, what the model's name implies, what the checkpoint says, the YAML file, the command line. None means "from
the model or the checkpoint" or "off", as the help says.
"""

from dataclasses import fields
from typing import Any

from util.options.augment import AugmentOptions, LossOptions, MixOptions
from util.options.data import (
    BatchOptions,
    ClassNamesOptions,
    DataOptions,
    LoaderOptions,
    PreprocessOptions,
    TrainDataOptions,
)
from util.options.model import EmaChoiceOptions, ModelOptions, RegularisationOptions, WeightsOptions
from util.options.optim import EmaOptions, OptimOptions, PrecisionOptions, ScheduleOptions
from util.options.run import DeviceOptions, RunOptions, ThreadOptions
from util.options.scripts import (
    ConvertOptions,
    EngineOptions,
    EvalOptions,
    ExportOptions,
    FontOptions,
    InferOptions,
    PredictOptions,
    ServeOptions,
    VisualizeOptions,
)

__all__ = [
    "GROUPS",
    "REMOVED",
    "YACS_NAMES",
    "AugmentOptions",
    "BatchOptions",
    "ClassNamesOptions",
    "ConvertOptions",
    "DataOptions",
    "DeviceOptions",
    "EmaChoiceOptions",
    "EmaOptions",
    "EngineOptions",
    "EvalOptions",
    "ExportOptions",
    "FontOptions",
    "InferOptions",
    "LoaderOptions",
    "LossOptions",
    "MixOptions",
    "ModelOptions",
    "OptimOptions",
    "PrecisionOptions",
    "PredictOptions",
    "PreprocessOptions",
    "RegularisationOptions",
    "RunOptions",
    "ScheduleOptions",
    "ServeOptions",
    "ThreadOptions",
    "TrainDataOptions",
    "VisualizeOptions",
    "WeightsOptions",
    "all_keys",
    "yaml_keys",
]  # fmt: skip

GROUPS: tuple[type[Any], ...] = (
    DataOptions, TrainDataOptions, ClassNamesOptions, BatchOptions, LoaderOptions, PreprocessOptions, AugmentOptions,
    MixOptions, LossOptions, ModelOptions, RegularisationOptions, WeightsOptions, EmaChoiceOptions, OptimOptions,
    PrecisionOptions, EmaOptions, ScheduleOptions, DeviceOptions, ThreadOptions, RunOptions, EvalOptions,
    PredictOptions, FontOptions, VisualizeOptions, ExportOptions, ConvertOptions, EngineOptions, InferOptions,
    ServeOptions,
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
