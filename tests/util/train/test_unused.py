"""Settings of the command line that change nothing are named."""

from dataclasses import fields
from typing import Any

import pytest

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
from util.train.unused import unused_loading, unused_settings

GROUPS = {
    "augment": AugmentOptions, "mix": MixOptions, "optim": OptimOptions, "precision": PrecisionOptions,
    "ema": EmaOptions,
    "schedule": ScheduleOptions, "run": RunOptions,
}  # fmt: skip

# setting: another one with which it has no effect, and one with which it has
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scale": ({"train_crop_mode": "src"}, {}),
    "hflip": ({"aug": False}, {}),
    "aa": ({"aug": False, "aa": "3a"}, {"aa": "3a"}),
    "color_jitter": ({"aa": "rand-m9"}, {"aa": "3a"}),
    "color_jitter_prob": ({"color_jitter": 0.0}, {}),
    "recount": ({}, {"reprob": 0.25}),
    "remode": ({"reprob": 0.25, "aug": False}, {"reprob": 0.25}),
    "cutmix": ({"cutmix_minmax": (0.1, 0.5)}, {}),
    "mixup_prob": ({}, {"mixup": 0.8}),
    "mixup_switch_prob": ({"mixup": 0.8}, {"mixup": 0.8, "cutmix_minmax": (0.1, 0.5)}),
    "mixup_off_epoch": ({"mixup": 0.8, "mixup_off_epoch": 300}, {"mixup": 0.8, "mixup_off_epoch": 299}),
    "amp_level": ({}, {"amp": True}),
    "model_ema_decay": ({}, {"model_ema": True}),
    "model_ema_warmup": ({}, {"model_ema": True}),
    "clip_mode": ({}, {"clip_grad": 1.0}),
    "min_lr": ({"sched": "step"}, {"sched": "poly"}),
    "decay_epochs": ({"sched": "multistep"}, {"sched": "step"}),
    "decay_milestones": ({}, {"sched": "multistep"}),
    "decay_rate": ({}, {"sched": "multistep"}),
    "poly_power": ({}, {"sched": "poly"}),
    "lr_base_size": ({}, {"lr_base": 0.1}),
    "warmup_lr": ({"warmup_epochs": 0}, {}),
    "checkpoint_hist": ({}, {"checkpoint_interval": 1}),
    "wandb_project": ({}, {"log_wandb": True}),
}  # fmt: skip


def unused(name: str, values: dict[str, Any]) -> list[str]:
    groups: dict[str, Any] = {}
    for field, group in GROUPS.items():
        own = {f.name for f in fields(group)}
        groups[field] = group(**{k: v for k, v in values.items() if k in own})
    return unused_settings(frozenset({name}), **groups)


@pytest.mark.parametrize("name", CASES)
def test_a_setting_is_named_where_it_has_no_effect_and_only_there(name: str) -> None:
    without, with_effect = CASES[name]
    lines = unused(name, without)
    assert len(lines) == 1
    assert all(line.startswith(f"--{name} ") and "no effect" in line for line in lines)
    assert unused(name, with_effect) == []
    assert unused("epochs", without) == [], "only what was asked for is named"


def test_settings_of_workers_are_named_where_there_are_none_and_only_there() -> None:
    alone, served = LoaderOptions(num_workers=0, shared_memory=False), LoaderOptions(num_workers=1, shared_memory=False)
    given = frozenset({"data_timeout", "shared_memory", "num_workers", "epochs"})
    assert unused_loading(given, alone) == [
        "--no_shared_memory has no effect: it needs num_workers above 0",
        "--data_timeout has no effect: it needs num_workers above 0",
    ]
    assert unused_loading(given, served) == []
    assert unused_loading(frozenset({"data_timeout"}), LoaderOptions(num_workers=0, data_timeout=5.0)) == [
        "--data_timeout has no effect: it needs num_workers above 0"
    ]
    assert unused_loading(frozenset({"num_workers"}), alone) == [], "only what was asked for is named"


def test_shared_memory_is_named_as_it_was_asked_for() -> None:
    [line] = unused_loading(frozenset({"shared_memory"}), LoaderOptions(num_workers=0))
    assert line.startswith("--shared_memory has no effect")
