"""The learning rate, as a function of progress."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from tests.golden.make_optimizers import EPOCHS, SCHEDULES, UPDATES
from tests.models.golden import load
from util.options import ScheduleOptions
from util.settings import convert, read_yaml
from util.train.schedule import Schedule

ROOT = Path(__file__).parents[3]


def rate(progress: float, *, images_per_update: int = 256, **settings: Any) -> float:
    return Schedule(ScheduleOptions(**settings), images_per_update=images_per_update).at(progress)


def recipe(name: str) -> ScheduleOptions:
    values = read_yaml(ROOT / "configs" / "train" / "cvt" / f"{name}.yaml")
    types = get_type_hints(ScheduleOptions)
    return ScheduleOptions(**{k: convert(k, v, types[k]) for k, v in values.items() if k in types})


def test_epoch_263_of_the_recipe_has_the_published_learning_rate() -> None:
    schedule = Schedule(recipe("cvt_13_224x224"), images_per_update=2048)
    assert f"{schedule.at(263):.6f}" == "0.000086"


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_update_has_the_rate_of_the_reference(name: str) -> None:
    options = ScheduleOptions(epochs=EPOCHS, lr=1e-2, min_lr=1e-4, warmup_lr=1e-5, **SCHEDULES[name])
    schedule = Schedule(options, images_per_update=1)
    ours = [schedule.at(epoch + update / UPDATES) for epoch in range(EPOCHS) for update in range(UPDATES)]
    np.testing.assert_allclose(ours, load("schedules")[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0, 1e-6),
        (2.5, (1e-6 + 2e-3) / 2),
        (5, 2e-3),
        (152.5, (2e-3 + 1e-5) / 2),
        (5 + 295 / 3, 1e-5 + (2e-3 - 1e-5) * 0.75),
        (300, 1e-5),
        (305, 1e-5),
    ],
)
def test_warm_up_cosine_and_cooldown(progress: float, expected: float) -> None:
    schedule = ScheduleOptions(epochs=300, lr=2e-3, warmup_lr=1e-6, min_lr=1e-5, warmup_epochs=5, cooldown_epochs=10)
    assert Schedule(schedule, images_per_update=1).at(progress) == pytest.approx(expected, rel=1e-9)


# Each shape at 21 points: 20 epochs of which 4 are warm-up, lr 1, min_lr 0.2; the last is in the cooldown.
SHAPES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "cosine": ({}, [0.2 + 0.4 * (1 + math.cos(math.pi * t / 16)) for t in range(17)]),
    "poly": ({"poly_power": 2.0}, [0.2 + 0.8 * (1 - t / 16) ** 2 for t in range(17)]),
    "step": ({"decay_epochs": 5, "decay_rate": 0.5}, [1.0] + 5 * [0.5] + 5 * [0.25] + 6 * [0.125]),
    "multistep": ({"decay_milestones": (7, 12, 20), "decay_rate": 0.5}, 3 * [1.0] + 5 * [0.5] + 9 * [0.25]),
    "constant": ({}, 17 * [1.0]),
}


@pytest.mark.parametrize("sched", SHAPES)
def test_every_shape_equals_its_closed_form(sched: str) -> None:
    settings, after_warmup = SHAPES[sched]
    options = {"epochs": 20, "lr": 1.0, "min_lr": 0.2, "warmup_lr": 0.0, "warmup_epochs": 4, "cooldown_epochs": 2}
    schedule = Schedule(ScheduleOptions(sched=sched, **options, **settings), images_per_update=1)  # type: ignore[arg-type]
    expected = [0.0, 0.25, 0.5, 0.75, *after_warmup]
    np.testing.assert_allclose([schedule.at(epoch) for epoch in range(21)], expected, rtol=1e-6)
    assert schedule.at(21.7) == schedule.at(20), "the cooldown stays where the epochs end"
    assert schedule.at(20) == pytest.approx(schedule.at(20 - 1e-9), abs=1e-6), "and begins without a jump"


# Each setting: what, changed from which settings to what, changes the rate at which progress to what.
DEFAULTS = {
    "epochs": 300, "sched": "cosine", "lr": None, "lr_base": None, "lr_base_size": 256, "lr_base_scale": "linear",
    "warmup_lr": 1e-6, "min_lr": 1e-5, "warmup_epochs": 5, "cooldown_epochs": 0, "decay_epochs": 90,
    "decay_milestones": (90, 180, 270), "decay_rate": 0.1, "poly_power": 1.0, "t_in_epochs": False,
    "start_epoch": None,
}  # fmt: skip
TOP = {"lr": 1.0, "warmup_epochs": 0, "min_lr": 0.0}
EFFECTS: list[tuple[dict[str, Any], dict[str, Any], float, float, float]] = [
    (TOP, {"epochs": 150}, 75, 0.5 * (1 + math.cos(math.pi / 4)), 0.5),
    (TOP, {"sched": "step"}, 150, 0.5, 0.1),
    (TOP, {"sched": "multistep", "decay_milestones": (150,)}, 150, 0.5, 0.1),
    (TOP, {"sched": "poly"}, 75, 0.5 * (1 + math.cos(math.pi / 4)), 0.75),
    (TOP, {"sched": "constant"}, 299, 0.5 * (1 + math.cos(math.pi * 299 / 300)), 1.0),
    ({"warmup_epochs": 0}, {"lr": 2e-3}, 0, 5e-4, 2e-3),
    ({"warmup_epochs": 0}, {"lr_base": 1e-3}, 0, 5e-4, 2e-3),  # 512 images an update
    ({"warmup_epochs": 0, "lr_base": 1e-3}, {"lr_base_size": 64}, 0, 2e-3, 8e-3),
    ({"warmup_epochs": 0, "lr_base": 1e-3}, {"lr_base_scale": "sqrt"}, 0, 2e-3, 1e-3 * math.sqrt(2)),
    ({"lr": 1.0}, {"warmup_lr": 0.5}, 0, 1e-6, 0.5),
    ({"lr": 1.0}, {"min_lr": 0.5}, 300, 1e-5, 0.5),
    ({"lr": 1.0, "warmup_lr": 0.0}, {"warmup_epochs": 10}, 4, 0.8, 0.4),
    (TOP | {"sched": "step"}, {"decay_epochs": 30}, 60, 1.0, 0.01),
    (TOP | {"sched": "multistep"}, {"decay_milestones": (30, 60)}, 60, 1.0, 0.01),
    (TOP | {"sched": "step"}, {"decay_rate": 0.5}, 180, 0.01, 0.25),
    (TOP | {"sched": "multistep"}, {"decay_rate": 0.5}, 180, 0.01, 0.25),
    (TOP | {"sched": "poly"}, {"poly_power": 3.0}, 150, 0.5, 0.125),
    (TOP | {"sched": "poly"}, {"t_in_epochs": True}, 150.9, 1 - 150.9 / 300, 0.5),
]


@pytest.mark.parametrize(("before", "change", "progress", "was", "becomes"), EFFECTS, ids=str)
def test_every_setting_changes_what_it_says(
    before: dict[str, Any], change: dict[str, Any], progress: float, was: float, becomes: float
) -> None:
    assert rate(progress, images_per_update=512, **before) == pytest.approx(was, rel=1e-6)
    assert rate(progress, images_per_update=512, **(before | change)) == pytest.approx(becomes, rel=1e-6)


def test_that_table_has_every_setting_and_its_default() -> None:
    assert {field.name: getattr(ScheduleOptions(), field.name) for field in fields(ScheduleOptions)} == DEFAULTS
    # cooldown_epochs lengthens the run, which is train.py's; start_epoch is where it begins
    elsewhere = {"cooldown_epochs", "start_epoch"}
    assert {name for _, change, *_ in EFFECTS for name in change} == DEFAULTS.keys() - elsewhere


def test_the_highest_rate_is_known_and_an_absolute_one_is_never_rescaled() -> None:
    for images in (1, 256, 4096):
        assert Schedule(ScheduleOptions(lr=3e-3), images_per_update=images).lr == 3e-3
        assert Schedule(ScheduleOptions(), images_per_update=images).lr == 5e-4
        base = ScheduleOptions(lr_base=0.1, lr_base_size=256)
        assert Schedule(base, images_per_update=images).lr == pytest.approx(0.1 * images / 256, rel=1e-12)


def test_an_epoch_begins_at_the_same_rate_whether_it_changes_by_epoch_or_by_update() -> None:
    for sched in SHAPES:
        for epoch in range(24):
            both = [rate(epoch, epochs=20, sched=sched, decay_epochs=3, t_in_epochs=t) for t in (False, True)]
            assert both[0] == both[1]
            assert rate(epoch + 0.999, epochs=20, sched=sched, decay_epochs=3, t_in_epochs=True) == both[1]


def test_without_warm_up_it_starts_at_the_top() -> None:
    assert rate(0, epochs=8, lr=0.01, min_lr=0.0, warmup_epochs=0) == 0.01


@pytest.mark.parametrize("epochs", [2, 5])
def test_a_warm_up_as_long_as_the_run_or_longer_stays_linear_to_the_end(epochs: int) -> None:
    settings: dict[str, Any] = {"epochs": epochs, "warmup_epochs": 5, "lr": 1.0, "warmup_lr": 0.0, "cooldown_epochs": 4}
    assert math.isclose(rate(1.5, **settings), 0.3)
    assert rate(epochs, **settings) == rate(epochs + 3.5, **settings) == epochs / 5
