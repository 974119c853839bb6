"""The transforms against timm's results, and the training transform's options and distributions."""

import inspect
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reference import GOLDEN, picture
from util.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    eval_transform,
    normalise,
    random_resized_crop,
    resize_to_cover,
    to_size,
    train_transform,
)

EVAL_CASES: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "eval_224_crop0.875_bicubic": ((375, 500, 1), {}),
    "eval_384_squash_bicubic": ((375, 500, 1), {"input_size": 384, "crop_mode": "squash"}),
    "eval_224_crop0.9_bilinear_180x300": ((180, 300, 2), {"crop_pct": 0.9, "interpolation": "bilinear"}),
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "timm_transforms.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("eval_")}


@pytest.mark.parametrize("name", EVAL_CASES)
def test_evaluation_is_timms_to_the_pixel(name: str, golden: dict[str, np.ndarray]) -> None:
    source, options = EVAL_CASES[name]
    image = eval_transform(**options)(picture(*source))
    side = options.get("input_size", 224)
    assert (image.shape, image.dtype) == ((3, side, side), np.float32)
    difference = np.abs(image[:, 100:108, 100:108] - golden[f"{name}|patch"]).max()
    assert difference < 1e-6  # one grey level is 0.017: the pixels are equal
    sums = [image.sum(dtype=np.float64), np.square(image, dtype=np.float64).sum()]
    np.testing.assert_allclose(sums, golden[f"{name}|sum"], rtol=1e-4)


def test_every_golden_evaluation_is_compared(golden: dict[str, np.ndarray]) -> None:
    assert {name.partition("|")[0] for name in golden} == set(EVAL_CASES)


def test_array_and_pil_picture_give_the_same() -> None:
    pixels = picture(60, 90)
    for transform in (eval_transform(input_size=32), lambda p: train_transform(input_size=32)(p, _rng())):
        np.testing.assert_array_equal(transform(pixels), transform(Image.fromarray(pixels)))


@pytest.mark.parametrize(
    ("input_size", "expected"),
    [(64, (64, 64)), ((64,), (64, 64)), ((48, 64), (48, 64)), ((3, 48, 64), (48, 64))],
)
def test_input_size_is_a_side_or_height_width(input_size: int | tuple[int, ...], expected: tuple[int, int]) -> None:
    assert to_size(input_size) == expected
    assert eval_transform(input_size=input_size)(picture(100, 120)).shape == (3, *expected)
    assert train_transform(input_size=input_size)(picture(100, 120), _rng()).shape == (3, *expected)


def test_crop_centre_half_pixels_round_to_even() -> None:
    pixels = np.zeros((4, 7, 3), np.uint8)
    pixels[..., 0] = np.arange(7)
    image = eval_transform(input_size=4, crop_pct=1.0, mean=(0, 0, 0), std=(1 / 255,) * 3)(pixels)
    assert image[0, 0].round().tolist() == [2, 3, 4, 5]  # (7 - 4) / 2 = 1.5 -> 2


@pytest.mark.parametrize(
    ("size", "expected"),  # width, height
    [((300, 502), (224, 374)), ((502, 300), (374, 224)), ((224, 999), (224, 999)), ((100, 100), (224, 224))],
)
def test_covering_size_keeps_proportions_and_rounds_down(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resize_to_cover(Image.new("RGB", size), 224, 224, "bilinear").size == expected


def test_covering_size_of_an_oblong_target() -> None:
    assert resize_to_cover(Image.new("RGB", (100, 100)), 32, 64, "bilinear").size == (64, 64)
    assert resize_to_cover(Image.new("RGB", (300, 100)), 32, 64, "bilinear").size == (96, 32)


def test_normalised_values() -> None:
    image = Image.new("RGB", (2, 1), (0, 51, 255))
    array = normalise(image, (0.0, 0.2, 0.5), (1.0, 0.5, 0.25))
    np.testing.assert_allclose(array[:, 0, 1], [0.0, 0.0, 2.0], atol=1e-7)
    assert array.flags.c_contiguous


BAD_IMAGES: dict[str, Any] = {
    "grey picture": Image.new("L", (8, 8)),
    "alpha": Image.new("RGBA", (8, 8)),
    "float": np.zeros((8, 8, 3), np.float32),
    "grey array": np.zeros((8, 8), np.uint8),
    "channels first": np.zeros((3, 8, 8), np.uint8),
    "16 bit": np.zeros((8, 8, 3), np.uint16),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_what_is_not_rgb_uint8_is_refused(name: str) -> None:
    image = BAD_IMAGES[name]
    with pytest.raises(ValueError, match="an image is"):
        eval_transform(input_size=4)(image)
    with pytest.raises(ValueError, match="an image is"):
        train_transform(input_size=4)(image, _rng())


# --- training: (options that both sides share, options of the one side)

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "input_size": ({}, {"input_size": 24}),
    "aug": ({}, {"aug": False}),
    "scale": ({}, {"scale": (0.5, 0.6)}),
    "ratio": ({}, {"ratio": (1.0, 1.0)}),
    "hflip": ({"hflip": 0.0}, {"hflip": 1.0}),
    "vflip": ({}, {"vflip": 1.0}),
    "color_jitter": ({}, {"color_jitter": 0.1}),
    "aa": ({}, {"aa": "rand-m9-n6-p1-inc1"}),
    "interpolation": ({}, {"interpolation": "nearest"}),
    "reprob": ({}, {"reprob": 1.0}),
    "remode": ({"reprob": 1.0}, {"remode": "const"}),
    "recount": ({"reprob": 1.0}, {"recount": 8}),
    "mean": ({}, {"mean": (0.4, 0.4, 0.4)}),
    "std": ({}, {"std": (0.3, 0.3, 0.3)}),
}


def _rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_training_option_is_in_the_table() -> None:
    assert set(inspect.signature(train_transform).parameters) == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_changes_the_result(name: str) -> None:
    shared, change = CHANGES[name]
    options: dict[str, Any] = {"input_size": 32, **shared}
    before = train_transform(**options)(picture(48, 64), _rng())
    after = train_transform(**options | change)(picture(48, 64), _rng())
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("options", [{}, {"aa": "rand-m9-mstd0.5-inc1", "reprob": 1.0, "vflip": 0.5}])
def test_training_depends_on_the_rng_alone(options: dict[str, Any]) -> None:
    transform, image = train_transform(input_size=32, **options), picture(48, 64)
    before = image.copy()
    first, _, again = transform(image, _rng()), transform(image, _rng(4)), transform(image, _rng())
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, transform(image, _rng(4)))
    np.testing.assert_array_equal(image, before)
    assert (first.dtype, first.shape) == (np.float32, (3, 32, 32))


def test_flips_mirror_the_array() -> None:
    options: dict[str, Any] = {"input_size": 32, "color_jitter": 0.0}
    plain = train_transform(**options, hflip=0.0)(picture(48, 64), _rng())
    np.testing.assert_array_equal(train_transform(**options, hflip=1.0)(picture(48, 64), _rng()), plain[:, :, ::-1])
    upside_down = train_transform(**options, hflip=0.0, vflip=1.0)(picture(48, 64), _rng())
    np.testing.assert_array_equal(upside_down, plain[:, ::-1])


def test_half_of_the_pictures_are_flipped() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    options: dict[str, Any] = {"input_size": 8, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "color_jitter": 0.0}
    for hflip, low, high in ((0.0, 0, 0), (0.5, 160, 240), (1.0, 400, 400)):
        transform = train_transform(**options, hflip=hflip)
        flipped = sum(bool(transform(pixels, _rng(seed))[0, 0, 0] > 0) for seed in range(400))
        assert low <= flipped <= high


def test_color_jitter_is_off_while_aa_is_on() -> None:
    without, with_jitter = (
        train_transform(input_size=32, aa="rand-m9-p0", color_jitter=c)(picture(48, 64), _rng()) for c in (0, 0.4)
    )
    np.testing.assert_array_equal(without, with_jitter)


def test_brightness_stays_within_the_jitter() -> None:
    transform = train_transform(input_size=4, color_jitter=0.4, mean=(0, 0, 0), std=(1 / 255,) * 3)
    grey = np.full((8, 8, 3), 100, np.uint8)  # contrast and saturation leave one grey alone
    levels = np.array([transform(grey, _rng(seed))[0, 0, 0] for seed in range(300)])
    assert 59 <= levels.min() < 66
    assert 134 < levels.max() <= 141
    assert abs(levels.mean() - 100) < 5


def test_without_aug_it_is_the_evaluation_of_the_whole() -> None:
    plain = eval_transform(input_size=32, crop_pct=1.0, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    transform = train_transform(input_size=32, aug=False, interpolation="bilinear", aa="rand-m9", reprob=1.0, hflip=1.0)
    np.testing.assert_array_equal(transform(picture(48, 64), _rng()), plain(picture(48, 64)))


# --- random_resized_crop

SIDE = 256


def _distance_to_uniform(values: np.ndarray, low: float, high: float) -> float:
    """The statistic of Kolmogorov and Smirnov, times the root of the count: below 1.63 with probability 0.99."""
    ranks = np.arange(1, len(values) + 1) / len(values)
    distance = np.abs(np.sort((values - low) / (high - low)) - ranks).max()
    return float(distance * math.sqrt(len(values)))


def _draw_boxes(scale: tuple[float, float], ratio: tuple[float, float], *, count: int) -> np.ndarray:
    """Returns boxes (count, 4) of left, top, width, height, read from a picture that holds its own coordinates."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
    image = Image.fromarray(np.stack([x, y, x], axis=2))
    rng, boxes = _rng(0), []
    for _ in range(count):
        crop = random_resized_crop(
            image, rng, size=(SIDE, SIDE), scale=scale, ratio=ratio, interpolation="nearest"
        )  # every source pixel is there, as the box is no larger than the result
        (left, top, _), (right, bottom, _) = np.asarray(crop)[0, 0].astype(int), np.asarray(crop)[-1, -1].astype(int)
        boxes.append((left, top, right - left + 1, bottom - top + 1))
    return np.array(boxes, float)


def test_crop_boxes_have_the_documented_distribution() -> None:
    scale, ratio = (0.1, 0.5), (3 / 4, 4 / 3)  # such boxes always fit
    left, top, width, height = _draw_boxes(scale, ratio, count=500).T
    area, aspect = width * height / SIDE**2, np.log(width / height)
    bound = math.log(4 / 3)
    statistics = {
        "area": _distance_to_uniform(area, *scale),
        "log ratio": _distance_to_uniform(aspect, -bound, bound),
        "left": _distance_to_uniform((left + 0.5) / (SIDE - width + 1), 0, 1),
        "top": _distance_to_uniform((top + 0.5) / (SIDE - height + 1), 0, 1),
    }
    assert max(statistics.values()) < 1.63, statistics
    # Negative control: a uniform side, or a uniform ratio, would be seen.
    assert _distance_to_uniform(np.sqrt(area), math.sqrt(0.1), math.sqrt(0.5)) > 1.63
    assert _distance_to_uniform(np.exp(aspect), 3 / 4, 4 / 3) > 1.63


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(400, 4, (0, 197, 4, 5)), (4, 400, (197, 0, 5, 4)), (1, 1, (0, 0, 1, 1))],
)
def test_extreme_pictures_give_the_largest_centred_box(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    pixels = picture(height, width)
    crop = random_resized_crop(
        Image.fromarray(pixels), _rng(), size=(box[3], box[2]), scale=(0.08, 1.0), ratio=(0.75, 4 / 3),
        interpolation="bilinear",
    )  # fmt: skip
    left, top, w, h = box
    np.testing.assert_array_equal(np.asarray(crop), pixels[top : top + h, left : left + w])
