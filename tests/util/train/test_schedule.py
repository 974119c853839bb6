"""The learning rate, as a function of progress."""

import math
from pathlib import Path

import pytest

from util.options import ScheduleOptions
from util.settings import convert, read_yaml
from util.train.schedule import learning_rate

ROOT = Path(__file__).parents[3]


def recipe(name: str) -> ScheduleOptions:
    values = read_yaml(ROOT / "configs" / "train" / "cvt" / f"{name}.yaml")
    names = ScheduleOptions.__dataclass_fields__
    types = {"epochs": int, "warmup_epochs": int, "cooldown_epochs": int, "t_in_epochs": bool}
    return ScheduleOptions(**{k: convert(k, v, types.get(k, float)) for k, v in values.items() if k in names})


def test_epoch_263_of_the_recipe_has_the_published_learning_rate() -> None:
    assert f"{learning_rate(263, recipe('cvt_13_224x224')):.6f}" == "0.000086"


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
    assert learning_rate(progress, schedule) == pytest.approx(expected, rel=1e-9)


def test_without_warm_up_it_starts_at_the_top() -> None:
    assert learning_rate(0, ScheduleOptions(epochs=8, lr=0.01, min_lr=0.0, warmup_epochs=0)) == 0.01


def test_a_warm_up_longer_than_the_run_stays_linear() -> None:
    schedule = ScheduleOptions(epochs=2, warmup_epochs=5, lr=1.0, warmup_lr=0.0)
    assert math.isclose(learning_rate(1.5, schedule), 0.3)
