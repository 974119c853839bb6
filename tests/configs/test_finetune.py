"""The fine-tuning recipes: valid, honest about what was run, and what their headers say."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from models import list_models
from tests.reference import picture
from util import options
from util.data.preprocessing import resolve_preprocessing
from util.data.transforms import train_transform
from util.settings import Settings, parse, read_yaml

FOLDER = Path(__file__).parents[2] / "configs" / "finetune"
RECIPES = sorted(FOLDER.glob("*.yaml"))
CIFAR_IMAGES = 50_000


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """All groups that a recipe of train.py may speak of."""

    preprocess: options.PreprocessOptions
    batch: options.BatchOptions
    loader: options.LoaderOptions
    augment: options.AugmentOptions
    mix: options.MixOptions
    loss: options.LossOptions
    model: options.ModelOptions
    regularisation: options.RegularisationOptions
    optim: options.OptimOptions
    precision: options.PrecisionOptions
    ema: options.EmaOptions
    schedule: options.ScheduleOptions


def load(path: Path) -> Recipe:
    return parse(Recipe, ["--config", str(path)], description="")


def test_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} == {
        "cvt_13_224x224_few_images", "cvt_13_224x224_head_only", "cvt_13_224x224_cifar10", "cvt_13_224x224_cifar100",
        "cvt_nano_32x32_cifar10",
    }  # fmt: skip


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid_and_says_where_it_comes_from(path: Path) -> None:
    recipe = load(path)
    known = {f for group in vars(recipe).values() for f in getattr(group, "__dataclass_fields__", ())}
    assert read_yaml(path).keys() <= known  # nothing in it is for another script, and so without effect
    assert recipe.model.model in list_models()
    assert path.stem.startswith(str(recipe.model.model))
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    for words in ("Source:", "Expected:", "Not run by this project", f"configs/finetune/{path.name}"):
        assert words in header.replace("not run", "Not run"), words
    assert ("--pretrained WEIGHTS" in header) == ("nano" not in path.stem)
    assert all(len(line) <= 120 for line in path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_nothing_that_changes_the_result_hides_in_a_default(path: Path) -> None:
    given, recipe = read_yaml(path).keys(), load(path)
    wanted = {
        "input_size", "crop_pct", "crop_mode", "interpolation", "batch_size", "hflip", "reprob", "mixup", "cutmix",
        "smoothing", "drop_path_rate", "opt", "weight_decay", "filter_bias_and_bn", "clip_grad", "update_freq",
        "sync_bn", "amp", "model_ema", "sched", "lr", "warmup_lr", "min_lr", "epochs", "warmup_epochs",
        "cooldown_epochs", "t_in_epochs",
    }  # fmt: skip
    wanted |= {"scale", "ratio"} if recipe.augment.train_crop_mode == "rrc" else {"train_crop_mode"}
    wanted |= {"momentum", "use_nesterov"} if recipe.optim.opt == "momentum" else {"opt_betas", "opt_eps"}
    wanted |= {"clip_mode"} if recipe.optim.clip_grad is not None else set()
    wanted |= {"color_jitter"} if recipe.augment.aa is None else {"aa"}
    wanted |= {"remode", "recount"} if recipe.augment.reprob > 0 else set()
    wanted |= {"mixup_prob"} if recipe.mix.mixup > 0 or recipe.mix.cutmix > 0 else set()
    wanted |= {"amp_level", "amp_dtype"} if recipe.precision.amp else set()
    assert wanted - given == set()
    assert {"num_classes", "pretrained", "data_dir"} & given == set()  # these belong to the user's data


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_recipe_is_the_papers(name: str) -> None:
    """Section 4.1: SGD with momentum 0.9, 512 images an update, 10,000 updates."""
    recipe = load(FOLDER / f"cvt_13_224x224_{name}.yaml")
    batch = recipe.batch.batch_size * recipe.optim.update_freq
    assert (recipe.optim.opt, recipe.optim.momentum, batch) == ("momentum", 0.9, 512)
    micro_batches = CIFAR_IMAGES // recipe.batch.batch_size
    updates = recipe.schedule.epochs * -(-micro_batches // recipe.optim.update_freq)
    assert abs(updates - 10_000) < 50
    accuracy = {"cifar10": "98.83", "cifar100": "91.11"}[name]
    assert f"the paper's table 4 has {accuracy} top-1" in (FOLDER / f"cvt_13_224x224_{name}.yaml").read_text()


def test_both_cifar_recipes_are_the_same_but_for_their_text() -> None:
    ten, hundred = (read_yaml(FOLDER / f"cvt_13_224x224_cifar{n}.yaml") for n in (10, 100))
    assert ten == hundred


def test_low_data_recipes_are_gentle_with_the_weights() -> None:
    few, head = load(FOLDER / "cvt_13_224x224_few_images.yaml"), load(FOLDER / "cvt_13_224x224_head_only.yaml")
    assert few.optim.layer_decay == 0.75
    assert few.schedule.lr is not None
    assert few.schedule.lr < 1e-3
    assert head.optim.freeze == ("backbone",)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_augmentation_can_be_built(path: Path) -> None:
    recipe = load(path)
    model = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    preprocessing = resolve_preprocessing(recipe.preprocess, model | {"input_size": (3, 224, 224)})
    transform = train_transform(
        input_size=preprocessing.input_size,
        aa=recipe.augment.aa,
        train_crop_mode=recipe.augment.train_crop_mode,
        scale=recipe.augment.scale,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    image = transform(picture(60, 80), np.random.default_rng(0))
    assert image.shape == preprocessing.input_size
    assert np.isfinite(image).all()
