# ruff: noqa: E501  a recipe a line reads better
"""The recipes: they load, they say where they come from, and they are what their sources say."""

from pathlib import Path

import pytest

from train import TrainSettings
from util.data.sampler import TrainBatches
from util.settings import parse, read_yaml

FOLDER = Path(__file__).parents[2] / "configs" / "train" / "cvt"
IMAGENET = 1_281_167
NAMES = {
    "cvt_13_224x224", "cvt_13_384x384", "cvt_21_224x224", "cvt_21_384x384", "cvt_w24_384x384", "cvt_13_384x384_22k",
    "cvt_21_384x384_22k",
}  # fmt: skip
EFFECTIVE_BATCH = {name: 512 if "22k" in name or "w24" in name else 2048 for name in NAMES}


def load(name: str) -> TrainSettings:
    return parse(
        TrainSettings, ["DATA", "--config", str(FOLDER / f"{name}.yaml")], description="", positional="data_dir"
    )


def test_no_recipe_is_missing_or_unknown() -> None:
    assert {p.stem for p in FOLDER.glob("*.yaml")} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_recipe(name: str) -> None:
    settings = load(name)
    assert settings.model.model == name.removesuffix("_22k")
    processes = 4 if name == "cvt_13_224x224" else 8
    batch = settings.batch.batch_size * processes * settings.optim.update_freq
    assert batch == EFFECTIVE_BATCH[name]
    assert settings.preprocess.crop_mode == ("squash" if "384" in name else "center")
    header = (FOLDER / f"{name}.yaml").read_text().split("\n\n")[0]
    for word in ("Source:", "Expected:", "Not run by this project", f"configs/train/cvt/{name}.yaml"):
        assert word in header, word


def test_the_recipe_of_cvt_paddle() -> None:
    settings = load("cvt_13_224x224")
    assert (settings.batch.batch_size, settings.optim.update_freq, settings.optim.sync_bn) == (128, 4, True)
    assert (settings.schedule.lr, settings.precision.amp, settings.schedule.epochs) == (2e-3, False, 300)
    assert settings.schedule.cooldown_epochs == 0
    assert (settings.augment.aa, settings.augment.reprob) == ("rand-m9-mstd0.5-inc1", 0.25)


# recipe: optimizer, lr, weight decay, drop path, warm-up, AMP, clipping, mixup, cutmix, smoothing, RandAugment
RANDAUG = "rand-m9-mstd0.5-inc1"
SOURCES = {
    "cvt_13_224x224": ("adamw", 2e-3, 0.05, 0.1, 5, False, None, 0.8, 1.0, 0.1, RANDAUG),
    "cvt_13_384x384": ("adamw", 2e-3, 0.05, 0.1, 5, True, None, 0.8, 1.0, 0.1, RANDAUG),
    "cvt_21_224x224": ("adamw", 2e-3, 0.1, 0.1, 5, True, None, 0.8, 1.0, 0.1, RANDAUG),
    "cvt_21_384x384": ("adamw", 2e-3, 0.1, 0.1, 5, True, None, 0.8, 1.0, 0.1, RANDAUG),
    "cvt_w24_384x384": ("momentum", 0.01, 0.0, 0.3, 0, True, 1.0, 0.0, 0.0, 0.0, None),
    "cvt_13_384x384_22k": ("momentum", 0.01, 0.0, 0.1, 0, True, 1.0, 0.0, 0.0, 0.0, None),
    "cvt_21_384x384_22k": ("momentum", 0.01, 0.0, 0.1, 0, True, 1.0, 0.0, 0.0, 0.0, None),
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_recipes_are_what_their_sources_say(name: str) -> None:
    s = load(name)
    found = (s.optim.opt, s.schedule.lr, s.optim.weight_decay, s.regularisation.drop_path_rate, s.schedule.warmup_epochs,
             s.precision.amp, s.optim.clip_grad, s.mix.mixup, s.mix.cutmix, s.loss.smoothing, s.augment.aa)  # fmt: skip
    assert found == SOURCES[name]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_nothing_that_changes_the_result_hides_in_a_default(name: str) -> None:
    given = read_yaml(FOLDER / f"{name}.yaml").keys()
    settings = load(name)
    of_the_other = {"opt_betas", "opt_eps"} if settings.optim.opt == "momentum" else {"momentum", "use_nesterov"}
    of_the_other |= {"clip_mode"} if settings.optim.clip_grad is None else set()
    of_the_other |= set() if settings.precision.amp else {"amp_dtype", "amp_level"}
    of_the_other |= set() if settings.ema.model_ema else {"model_ema_decay", "model_ema_warmup"}
    of_the_other |= {"lr_base_size", "lr_base_scale"} if settings.schedule.lr_base is None else {"lr"}
    of_the_other |= {"decay_epochs", "decay_milestones", "decay_rate", "poly_power"}  # no recipe's schedule
    assert settings.schedule.sched == "cosine"
    off = {"start_epoch", "lr_base", "layer_decay", "freeze", "grad_checkpointing"}  # they say nothing unless given
    groups = (settings.optim, settings.precision, settings.ema, settings.schedule)
    used = {f for group in groups for f in group.__dataclass_fields__} - of_the_other - off
    assert used - given == set()


def test_imagenet_at_4_x_128_makes_2502_iterations() -> None:
    assert len(TrainBatches(num_images=IMAGENET, batch_size=128, seed=0, rank=3, world_size=4)) == 2502


@pytest.mark.parametrize("name", [n for n in sorted(NAMES) if EFFECTIVE_BATCH[n] == 512])
def test_fine_tuning_takes_twenty_thousand_updates(name: str) -> None:
    settings = load(name)
    updates = settings.schedule.epochs * (IMAGENET // 512)
    assert abs(updates - 20_000) < 100
    assert settings.optim.opt == "momentum"


def test_cvt_21_has_what_the_official_loader_switched_off() -> None:
    settings = load("cvt_21_224x224")
    assert settings.augment.aa is not None
    assert settings.augment.reprob == 0.25
    assert settings.augment.aug_repeats == 3
    assert "switched RandAugment and random erasing off" in (FOLDER / "cvt_21_224x224.yaml").read_text()
