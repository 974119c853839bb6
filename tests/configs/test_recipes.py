"""The recipes: they load, they say where they come from, and they are what their sources say."""

import json
import re
from pathlib import Path

import pytest

from models import list_models, model_defaults
from tests.models.test_registry import SIZES
from tests.scripts.run import run
from tests.trees import write_tree
from train import TrainSettings
from util.data.policies import parse_aa
from util.data.preprocessing import resolve_preprocessing
from util.data.sampler import TrainBatches
from util.settings import parse, read_yaml
from util.train.schedule import Schedule

ROOT = Path(__file__).parents[2] / "configs" / "train"
IMAGENET = 1_281_167
IMAGENET_MEAN = (0.485, 0.456, 0.406)

# recipe: images an update, optimizer, learning rate, weight decay, drop path, warm-up, epochs, AMP, clipping, mixup,
# cutmix, smoothing, automatic augmentation, random erasing, evaluation crop
RANDAUG = "rand-m9-mstd0.5-inc1"
AUTOAUG, RAND_7, RAND_9 = "original-mstd0.5", "rand-m7-mstd0.5", "rand-m9-mstd0.5"  # MindCV's
SOURCES = {
    "cvt_13_224x224": (2048, "adamw", 2e-3, 0.05, 0.1, 5, 300, None, None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    "cvt_13_384x384": (2048, "adamw", 2e-3, 0.05, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, "squash"),
    "cvt_21_224x224": (2048, "adamw", 2e-3, 0.1, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    "cvt_21_384x384": (2048, "adamw", 2e-3, 0.1, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, "squash"),
    "cvt_w24_384x384": (512, "momentum", 0.01, 0.0, 0.3, 0, 8, "O1", 1.0, 0.0, 0.0, 0.0, None, 0.0, "squash"),
    "cvt_13_384x384_22k": (512, "momentum", 0.01, 0.0, 0.1, 0, 8, "O1", 1.0, 0.0, 0.0, 0.0, None, 0.0, "squash"),
    "cvt_21_384x384_22k": (512, "momentum", 0.01, 0.0, 0.1, 0, 8, "O1", 1.0, 0.0, 0.0, 0.0, None, 0.0, "squash"),
    # MindCV
    "convit_tiny": (2048, "adamw", 7.2e-4, 1e-4, 0.1, 5, 300, "O2", None, 0.2, 1.0, 0.1, None, 0.25, 0.875),
    "convit_tiny_plus": (2048, "adamw", 7.2e-4, 1e-4, 0.1, 40, 300, "O2", None, 0.2, 1.0, 0.1, None, 0.25, 0.87),
    "convit_small": (1536, "adamw", 7e-4, 0.05, 0.1, 40, 300, "O2", None, 0.2, 1.0, 0.1, AUTOAUG, 0.1, 0.915),
    "convit_small_plus": (1536, "adamw", 7e-4, 0.05, 0.1, 40, 300, "O2", None, 0.2, 1.0, 0.1, AUTOAUG, 0.1, 0.93),
    "convit_base": (1024, "adamw", 7e-4, 0.1, 0.1, 40, 300, "O2", None, 0.2, 1.0, 0.1, AUTOAUG, 0.1, 0.93),
    "convit_base_plus": (1024, "adamw", 7e-4, 0.1, 0.1, 40, 300, "O2", None, 0.2, 1.0, 0.1, AUTOAUG, 0.1, 0.925),
    "vit_b_32_224": (2048, "adamw", 3e-3, 0.025, 0.1, 32, 600, "O2", None, 0.2, 1.0, 0.1, RAND_7, 0.1, 0.875),
    "vit_l_16_224": (384, "adamw", 5e-4, 0.05, 0.1, 32, 300, "O2", None, 0.2, 1.0, 0.1, RAND_9, 0.15, 0.875),
    "vit_l_32_224": (1024, "adamw", 1.5e-3, 0.025, 0.1, 32, 300, "O2", None, 0.2, 1.0, 0.1, RAND_7, 0.1, 0.875),
    "vit_b_32_224_2024": (4096, "adamw", 1.6e-3, 0.3, 0.1, 30, 300, "O2", None, 0.8, 1.0, 0.1, RAND_9, 0.0, 0.875),
    "vit_l_16_224_2024": (4096, "adamw", 1.6e-3, 0.3, 0.2, 30, 300, "O2", None, 0.8, 1.0, 0.1, RAND_9, 0.0, 0.875),
    "vit_l_32_224_2024": (4096, "adamw", 1.6e-3, 0.3, 0.2, 30, 300, "O2", None, 0.8, 1.0, 0.1, RAND_9, 0.0, 0.875),
    # DeiT, and ConViT's authors, who train as DeiT does
    "convit_tiny_deit": (1024, "adamw", 1e-3, 0.05, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    "convit_small_deit": (1024, "adamw", 1e-3, 0.05, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    "convit_base_deit": (1024, "adamw", 1e-3, 0.05, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    "vit_ti_16_224": (1024, "adamw", 1e-3, 0.05, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    "vit_s_16_224": (1024, "adamw", 1e-3, 0.05, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    "vit_b_16_224": (1024, "adamw", 1e-3, 0.05, 0.1, 5, 300, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    "vit_b_16_384_deit": (512, "adamw", 5e-6, 1e-8, 0.1, 5, 30, "O1", None, 0.8, 1.0, 0.1, RANDAUG, 0.25, 0.875),
    # google-research/vision_transformer
    "vit_b_16_384": (512, "momentum", 0.03, 0.0, 0.0, 1, 8, "O1", 1.0, 0.0, 0.0, 0.0, None, 0.0, "squash"),
    "vit_b_32_384": (512, "momentum", 0.03, 0.0, 0.0, 1, 8, "O1", 1.0, 0.0, 0.0, 0.0, None, 0.0, "squash"),
    "vit_l_16_384": (512, "momentum", 0.03, 0.0, 0.0, 1, 8, "O1", 1.0, 0.0, 0.0, 0.0, None, 0.0, "squash"),
}
NAMES = sorted(SOURCES)
FINE_TUNED = [name for name in NAMES if SOURCES[name][1] == "momentum"]
MINDCV = [name for name in NAMES if SOURCES[name][7] == "O2"]
DEIT = [name for name in NAMES if SOURCES[name][2] == 1e-3] + ["vit_b_16_384_deit"]


def place(name: str) -> Path:
    return ROOT / name.partition("_")[0] / f"{name}.yaml"


def load(name: str) -> TrainSettings:
    return parse(TrainSettings, ["DATA", "--config", str(place(name))], description="", positional="data_dir")


def header(name: str) -> str:
    """The comment at the beginning, its lines joined."""
    return place(name).read_text(encoding="utf-8").split("\n\n")[0].replace("\n# ", " ")


def test_no_recipe_is_missing_or_unknown() -> None:
    assert set(ROOT.rglob("*.yaml")) == {place(name) for name in NAMES}


def test_every_published_model_has_a_recipe() -> None:
    assert {load(name).model.model for name in NAMES} == set(list_models()) - {"cvt_nano_32x32"}


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_command_source_and_expectation(name: str) -> None:
    path, said = place(name), header(name)
    for word in ("Source:", "Expected:", "Not run by this project", f"configs/train/{path.parent.name}/{path.name}"):
        assert word in said, word
    assert all(len(line) <= 120 for line in path.read_text(encoding="utf-8").splitlines())
    settings = load(name)
    assert name.startswith(str(settings.model.model))
    needs_weights = settings.optim.opt == "momentum" or settings.schedule.epochs == 30
    assert ("--pretrained WEIGHTS" in said) == needs_weights


@pytest.mark.parametrize("name", NAMES)
def test_the_header_has_the_models_size(name: str) -> None:
    [(parameters, gmacs)] = re.findall(r"([\d,]+) parameters, ([\d.]+) GMACs", header(name))
    expected_parameters, expected_gmacs = SIZES[str(load(name).model.model)]
    assert int(parameters.replace(",", "")) == expected_parameters
    assert float(gmacs) == pytest.approx(expected_gmacs, abs=0.51 * 10 ** -len(gmacs.partition(".")[2]))


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_what_their_sources_say(name: str) -> None:
    s = load(name)
    [processes] = re.findall(r"run\.sh -g (\d+) |--gpus=([\d,]+)", header(name))
    number = int(processes[0]) if processes[0] else len(processes[1].split(","))
    images = s.batch.batch_size * number * s.optim.update_freq
    crop = "squash" if s.preprocess.crop_mode == "squash" else s.preprocess.crop_pct
    found = (images, s.optim.opt, s.schedule.lr, s.optim.weight_decay, s.regularisation.drop_path_rate,
             s.schedule.warmup_epochs, s.schedule.epochs, s.precision.amp_level if s.precision.amp else None,
             s.optim.clip_grad, s.mix.mixup, s.mix.cutmix, s.loss.smoothing, s.augment.aa, s.augment.reprob,
             crop)  # fmt: skip
    assert found == SOURCES[name]
    assert f"{images} images an update" in header(name)
    assert s.augment.aa is None or callable(parse_aa(s.augment.aa))
    micro_batches = f" x {s.optim.update_freq} micro-batches"
    assert (f" {s.batch.batch_size} images{micro_batches}" in header(name)) or s.optim.update_freq == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_changes_the_result_hides_in_a_default(name: str) -> None:
    given = read_yaml(place(name)).keys()
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


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_normalised_as_the_source_does(name: str) -> None:
    settings = load(name)
    model = str(settings.model.model)
    preprocessing = resolve_preprocessing(settings.preprocess, model_defaults(model))
    from_google = model.startswith("vit_") and name in FINE_TUNED
    assert preprocessing.mean == ((0.5, 0.5, 0.5) if from_google else IMAGENET_MEAN)
    assert preprocessing.interpolation == ("bilinear" if from_google else "bicubic")
    assert preprocessing.input_size == model_defaults(model)["input_size"]
    # the name alone would normalise otherwise, so the recipe has to say it
    assert not model.startswith("vit_") or {"mean", "std"} <= read_yaml(place(name)).keys()


def test_the_recipe_of_cvt_paddle() -> None:
    settings = load("cvt_13_224x224")
    assert (settings.batch.batch_size, settings.optim.update_freq, settings.optim.sync_bn) == (128, 4, True)
    assert settings.schedule.cooldown_epochs == 0


def test_imagenet_at_4_x_128_makes_2502_iterations() -> None:
    assert len(TrainBatches(num_images=IMAGENET, batch_size=128, seed=0, rank=3, world_size=4)) == 2502


@pytest.mark.parametrize("name", FINE_TUNED)
def test_fine_tuning_takes_twenty_thousand_updates(name: str) -> None:
    updates = load(name).schedule.epochs * (IMAGENET // 512)
    assert abs(updates - 20_000) < 100


def test_cvt_21_has_what_the_official_loader_switched_off() -> None:
    settings = load("cvt_21_224x224")
    assert settings.augment.aug_repeats == 3
    assert "switched RandAugment and random erasing off" in header("cvt_21_224x224")


@pytest.mark.parametrize("name", MINDCV)
def test_mindcv_warms_up_from_zero_and_erases_with_the_mean_colour(name: str) -> None:
    settings = load(name)
    schedule = Schedule(settings.schedule, images_per_update=SOURCES[name][0])
    of_2024 = name.endswith("_2024")
    assert schedule.at(0) == (pytest.approx(schedule.lr / 100) if of_2024 else 0.0)
    assert schedule.at(settings.schedule.warmup_epochs) == pytest.approx(schedule.lr)
    assert schedule.at(settings.schedule.epochs) == (0.0 if of_2024 else 1e-5 if name == "vit_l_16_224" else 1e-6)
    assert not settings.schedule.t_in_epochs
    assert of_2024 or (settings.augment.remode, settings.augment.rearea) == ("const", (0.02, 0.33))
    [written] = re.findall(r"learning rate ([\d.]+) \(absolute\)", header(name))
    assert float(written) == settings.schedule.lr


@pytest.mark.parametrize("name", DEIT)
def test_deit_repeats_its_augmentation_and_scales_its_learning_rate(name: str) -> None:
    settings = load(name)
    assert settings.augment.aug_repeats == 3
    base = 5e-6 if "384" in name else 5e-4
    assert settings.schedule.lr == pytest.approx(base * SOURCES[name][0] / 512)
    assert (settings.augment.remode, settings.schedule.t_in_epochs) == ("pixel", True)


def test_only_the_average_of_mindcvs_vit_l_is_kept() -> None:
    kept = {name: load(name).ema.model_ema_decay for name in NAMES if load(name).ema.model_ema}
    assert kept == {"vit_l_16_224_2024": 0.9999}


@pytest.mark.parametrize("name", ["convit_tiny", "vit_ti_16_224"])
def test_a_recipe_can_be_tried_on_a_few_images(name: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "data", num_classes=2, train=4, val=1)
    few = ("--batch_size", "2", "--num_workers", "0", "--dry_run")
    done = run("train.py", "--config", place(name), "--data_dir", "data", *few, cwd=tmp_path)
    assert json.loads(done.stdout)["images_per_second"] > 0
    assert not list(tmp_path.glob("output/*"))
