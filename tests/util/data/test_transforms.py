"""The training transform: each option, its default, the order of the parts, and how often they happen."""

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reference import picture
from tests.util.data.timm_policies import UNLIKELY, distance_to_uniform, plain
from util.data import transforms as module
from util.data.operations import Canvas
from util.data.policies import Policy
from util.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    eval_transform,
    train_transform,
)
from util.errors import UsageError
from util.options import AugmentOptions

# --- training: (options that both sides share, options of the one side)

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "input_size": ({}, {"input_size": 24}),
    "aug": ({}, {"aug": False}),
    "image_backend": ({}, {"image_backend": "fast"}),
    "train_crop_mode": ({}, {"train_crop_mode": "src"}),
    "scale": ({}, {"scale": (0.5, 0.6)}),
    "ratio": ({}, {"ratio": (1.0, 1.0)}),
    "interpolation": ({}, {"interpolation": "nearest"}),
    "train_interpolation": ({}, {"train_interpolation": "lanczos"}),
    "hflip": ({"hflip": 0.0}, {"hflip": 1.0}),
    "vflip": ({}, {"vflip": 1.0}),
    "color_jitter": ({}, {"color_jitter": 0.1}),
    "color_jitter_prob": ({}, {"color_jitter_prob": 0.0}),
    "grayscale_prob": ({}, {"grayscale_prob": 1.0}),
    "gaussian_blur_prob": ({}, {"gaussian_blur_prob": 1.0}),
    "aa": ({}, {"aa": "rand-m9-n6-p1-inc1"}),
    "reprob": ({}, {"reprob": 1.0}),
    "remode": ({"reprob": 1.0}, {"remode": "const"}),
    "recount": ({"reprob": 1.0}, {"recount": 8}),
    "recount_min": ({"reprob": 1.0, "recount": 8}, {"recount_min": 8}),
    "rearea": ({"reprob": 1.0}, {"rearea": (0.6, 0.7)}),
    "mean": ({}, {"mean": (0.4, 0.4, 0.4)}),
    "std": ({}, {"std": (0.3, 0.3, 0.3)}),
}
ELSEWHERE = {"aug_repeats"}  # consumed by the sampler
NOT_AUGMENTATION = {"input_size", "interpolation", "mean", "std", "image_backend"}  # options of other groups


def _rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_augmentation_option_is_in_the_table() -> None:
    options = {field.name for field in fields(AugmentOptions)} - ELSEWHERE
    assert options | NOT_AUGMENTATION == set(CHANGES)
    assert set(inspect.signature(train_transform).parameters) == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_changes_the_result(name: str) -> None:
    shared, change = CHANGES[name]
    options: dict[str, Any] = {"input_size": 32, **shared}
    before = train_transform(**options)(picture(48, 64), _rng())
    after = train_transform(**options | change)(picture(48, 64), _rng())
    assert not np.array_equal(before, after)


def test_defaults_are_those_of_the_options() -> None:
    parameters = inspect.signature(train_transform).parameters
    for field in fields(AugmentOptions):
        if field.name not in ELSEWHERE:
            assert parameters[field.name].default == field.default, field.name


# The defaults of timm's functions; None: another word for the same, or the default of timm's training script.
TIMM_NAMES = {
    "aug": None,  # no_aug, false
    "train_crop_mode": None,  # none is rrc
    "scale": "RandomResizedCrop.scale",
    "ratio": "RandomResizedCrop.ratio",
    "train_interpolation": None,  # random in timm's script; here none, the interpolation of the model
    "hflip": "create_transform.hflip",
    "vflip": "create_transform.vflip",
    "color_jitter": "create_transform.color_jitter",
    "color_jitter_prob": None,  # none is always
    "grayscale_prob": "create_transform.grayscale_prob",
    "gaussian_blur_prob": "create_transform.gaussian_blur_prob",
    "aa": "create_transform.auto_augment",
    "reprob": "create_transform.re_prob",
    "remode": None,  # const in the function, pixel in the script and here
    "recount": "create_transform.re_count",
    "recount_min": "RandomErasing.min_count",
}


def test_defaults_are_timms() -> None:
    timm = plain("defaults")
    for name, place in TIMM_NAMES.items():
        if place is not None:
            function, argument = place.split(".")
            default = getattr(AugmentOptions(), name)
            assert (list(default) if isinstance(default, tuple) else default) == timm[function][argument], name
    assert AugmentOptions().rearea == (timm["RandomErasing"]["min_area"], timm["RandomErasing"]["max_area"])
    others = {
        "aug": True,
        "train_crop_mode": "rrc",
        "color_jitter_prob": 1.0,
        "remode": "pixel",
    }
    assert {name: getattr(AugmentOptions(), name) for name in others} == others
    assert set(TIMM_NAMES) | {"rearea"} == set(CHANGES) - NOT_AUGMENTATION


POLICIES = ["rand-m9-mstd0.5-inc1", "v0", "originalr-mstd0.5", "augmix-m3-w3", "3a", "trivialaugwide"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        *({"aa": text, "reprob": 1.0, "vflip": 0.5} for text in POLICIES),
        {"train_crop_mode": "src", "train_interpolation": "random", "gaussian_blur_prob": 0.5, "grayscale_prob": 0.5},
    ],
)
def test_training_depends_on_the_rng_alone(options: dict[str, Any]) -> None:
    transform, image = train_transform(input_size=(32, 40), **options), picture(48, 64)
    before = image.copy()
    first, _, again = transform(image, _rng()), transform(image, _rng(4)), transform(image, _rng())
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, transform(image, _rng(4)))
    np.testing.assert_array_equal(image, before)
    assert (first.dtype, first.shape) == (np.float32, (3, 32, 40))


def test_options_that_are_off_draw_nothing() -> None:
    """So adding an option with its default changes no training that has been recorded."""
    rng, other = _rng(), _rng()
    train_transform(input_size=8, color_jitter=0.0)(picture(12, 12), rng)
    crop = module.random_resized_crop
    crop(Image.new("RGB", (12, 12)), other, size=(8, 8), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), resample=CUBIC)
    other.random(3)  # two flips and the erasing
    assert rng.bit_generator.state == other.bit_generator.state


CUBIC = Image.Resampling.BICUBIC


def test_flips_mirror_the_array() -> None:
    options: dict[str, Any] = {"input_size": 32, "color_jitter": 0.0}
    plain = train_transform(**options, hflip=0.0)(picture(48, 64), _rng())
    np.testing.assert_array_equal(train_transform(**options, hflip=1.0)(picture(48, 64), _rng()), plain[:, :, ::-1])
    upside_down = train_transform(**options, hflip=0.0, vflip=1.0)(picture(48, 64), _rng())
    np.testing.assert_array_equal(upside_down, plain[:, ::-1])


WHOLE: dict[str, Any] = {"input_size": 8, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "color_jitter": 0.0}


def test_half_of_the_pictures_are_flipped() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    for hflip, low, high in ((0.0, 0, 0), (0.5, 160, 240), (1.0, 400, 400)):
        transform = train_transform(**WHOLE, hflip=hflip)
        flipped = sum(bool(transform(pixels, _rng(seed))[0, 0, 0] > 0) for seed in range(400))
        assert low <= flipped <= high


PROBABILITIES: dict[str, dict[str, Any]] = {
    "color_jitter_prob": {"color_jitter": 1.0}, "grayscale_prob": {}, "gaussian_blur_prob": {},
}  # fmt: skip


@pytest.mark.parametrize("name", PROBABILITIES)
def test_part_of_the_pictures_that_is_changed(name: str) -> None:
    options = WHOLE | {"hflip": 0.0, "color_jitter": 0.0} | PROBABILITIES[name]
    pixels = picture(8, 8)
    whole = train_transform(**WHOLE | {"hflip": 0.0})(pixels, _rng())
    for prob, low, high in ((0.0, 0, 0), (0.3, 85, 155), (1.0, 380, 400)):
        transform = train_transform(**options | {name: prob})
        changed = sum(not np.array_equal(transform(pixels, _rng(seed)), whole) for seed in range(400))
        assert low <= changed <= high  # a blur of 0.1 pixels may change nothing


def test_blurs_have_a_uniform_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    sigmas: list[float] = []

    def record(image: Image.Image, sigma: float) -> Image.Image:
        sigmas.append(sigma)
        return image

    monkeypatch.setattr(module, "gaussian_blur", record)
    transform, rng = train_transform(**WHOLE, gaussian_blur_prob=1.0), _rng()
    for _ in range(800):
        transform(picture(8, 8), rng)
    assert distance_to_uniform(np.array(sigmas), 0.1, 2.0) < UNLIKELY


def test_grey_comes_after_the_jitter_and_before_the_normalising() -> None:
    transform = train_transform(input_size=16, grayscale_prob=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    image = transform(picture(24, 24), _rng())
    np.testing.assert_array_equal(image[0], image[1])
    np.testing.assert_array_equal(image[0], image[2])
    assert image.std() > 0.1


def _orders(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[str]:
    """Returns which parts of the transform an image goes through, in order."""
    calls: list[str] = []

    def record(name: str) -> Any:
        function = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        return call

    names = ("random_resized_crop", "simple_random_crop", "jitter_colors", "to_grey", "gaussian_blur", "normalise")
    for name in (*names, "random_erasing"):
        monkeypatch.setattr(module, name, record(name))

    def parse(text: str) -> Policy:
        def policy(image: Image.Image, rng: np.random.Generator, canvas: Canvas) -> Image.Image:
            calls.append(text)
            return image

        return policy

    monkeypatch.setattr(module, "parse_aa", parse)
    train_transform(input_size=8, grayscale_prob=1.0, gaussian_blur_prob=1.0, **options)(picture(12, 12), _rng())
    return calls


def test_parts_come_in_timms_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = ["to_grey", "gaussian_blur", "normalise", "random_erasing"]
    assert _orders(monkeypatch) == ["random_resized_crop", "jitter_colors", *ends]
    assert _orders(monkeypatch, train_crop_mode="src") == ["simple_random_crop", "jitter_colors", *ends]


def test_color_jitter_is_off_while_aa_is_on_unless_it_is_3a(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in POLICIES:
        expected = [text, "jitter_colors"] if text == "3a" else [text]
        assert _orders(monkeypatch, aa=text)[1 : 1 + len(expected) + 1] == [*expected, "to_grey"]
    assert "jitter_colors" not in _orders(monkeypatch, aa="3a", color_jitter=0.0)
    monkeypatch.undo()
    without, with_jitter = (
        train_transform(input_size=32, aa="rand-m9-p0", color_jitter=c)(picture(48, 64), _rng()) for c in (0, 0.4)
    )
    np.testing.assert_array_equal(without, with_jitter)


def _canvas(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Canvas:
    """Returns what the automatic augmentation is told."""
    canvases: list[Canvas] = []

    def policy(image: Image.Image, rng: np.random.Generator, canvas: Canvas) -> Image.Image:
        canvases.append(canvas)
        return image

    monkeypatch.setattr(module, "parse_aa", lambda text: policy)
    train_transform(input_size=8, aa="rand", **options)(picture(12, 12), _rng())
    return canvases[0]


def test_uncovered_pixels_get_the_mean_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _canvas(monkeypatch).fill == (124, 116, 104)
    assert _canvas(monkeypatch, mean=(0.5,), std=(0.5,)).fill == (128, 128, 128)
    assert _canvas(monkeypatch, mean=(0.0, 2.0, -1.0)).fill == (0, 255, 0)


def test_random_interpolation_is_bilinear_or_bicubic_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    assert _canvas(monkeypatch, train_interpolation="random", interpolation="nearest").resamples == both
    assert _canvas(monkeypatch, train_interpolation="nearest").resamples == (Image.Resampling.NEAREST,)
    assert _canvas(monkeypatch, interpolation="lanczos").resamples == (Image.Resampling.LANCZOS,)
    drawn: list[Image.Resampling] = []

    def record(image: Image.Image, *args: Any, resample: Image.Resampling, **kwargs: Any) -> Image.Image:
        drawn.append(resample)
        return image

    monkeypatch.setattr(module, "random_resized_crop", record)
    monkeypatch.setattr(module, "simple_random_crop", record)
    for mode in ("rrc", "src"):
        drawn.clear()
        transform, rng = train_transform(input_size=4, train_crop_mode=mode, train_interpolation="random"), _rng()
        for _ in range(400):
            transform(picture(4, 4), rng)
        assert set(drawn) == set(both)
        assert 160 <= drawn.count(both[0]) <= 240


def test_brightness_stays_within_the_jitter() -> None:
    transform = train_transform(input_size=4, color_jitter=0.4, mean=(0, 0, 0), std=(1 / 255,) * 3)
    grey = np.full((8, 8, 3), 100, np.uint8)  # contrast and saturation leave one grey alone
    levels = np.array([transform(grey, _rng(seed))[0, 0, 0] for seed in range(300)])
    assert 59 <= levels.min() < 66
    assert 134 < levels.max() <= 141
    assert abs(levels.mean() - 100) < 5


def test_without_aug_it_is_the_evaluation_of_the_whole() -> None:
    plain = eval_transform(input_size=32, crop_pct=1.0, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    transform = train_transform(
        input_size=32, aug=False, interpolation="bilinear", train_interpolation="random", aa="rand-m9", reprob=1.0,
        hflip=1.0, grayscale_prob=1.0, gaussian_blur_prob=1.0, train_crop_mode="src",
    )  # fmt: skip
    np.testing.assert_array_equal(transform(picture(48, 64), _rng()), plain(picture(48, 64)))


def test_bad_aa_is_refused_before_the_first_image() -> None:
    with pytest.raises(UsageError, match="trivialaugwide"):
        train_transform(aa="autoaugment")
