"""The evaluation transform against timm's results; sizes, grey and what both transforms share."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reference import GOLDEN, picture
from util.data.transforms import eval_transform, normalise, seen_part, to_size, train_transform


def _rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


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


# --- which part of a picture is seen

PARTS: list[tuple[tuple[int, int], dict[str, Any], tuple[float, float, float, float]]] = [  # left, top, right, bottom
    ((375, 500), {}, (58 / 341, 16 / 256, 282 / 341, 240 / 256)),  # 256 x 341; (341 - 224) / 2 = 58.5 -> 58
    ((500, 375), {}, (16 / 256, 58 / 341, 240 / 256, 282 / 341)),
    ((50, 50), {}, (1 / 16, 1 / 16, 15 / 16, 15 / 16)),
    ((60, 80), {"crop_pct": 1.0}, (37 / 298, 0.0, 261 / 298, 1.0)),
    ((100, 100), {"input_size": (3, 32, 64), "crop_pct": 1.0}, (0.0, 0.25, 1.0, 0.75)),
    ((4, 4000), {}, (127888 / 256000, 1 / 16, 128112 / 256000, 15 / 16)),
    ((3, 9000), {}, (383888 / 768000, 1 / 16, 384112 / 768000, 15 / 16)),  # the crop alone is resized
    ((4000, 4), {}, (1 / 16, 127888 / 256000, 15 / 16, 128112 / 256000)),
    ((375, 500), {"crop_mode": "squash"}, (0.0, 0.0, 1.0, 1.0)),
    ((4, 4000), {"crop_mode": "squash"}, (0.0, 0.0, 1.0, 1.0)),
]


@pytest.mark.parametrize(("source", "options", "expected"), PARTS)
def test_the_part_of_a_picture_that_is_seen(
    source: tuple[int, int], options: dict[str, Any], expected: tuple[float, float, float, float]
) -> None:
    chosen: dict[str, Any] = {"input_size": 224, "crop_pct": 0.875, "crop_mode": "center"} | options
    assert seen_part(source, **chosen) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("source", [(300, 400), (400, 300), (250, 250), (80, 3000)])
@pytest.mark.parametrize("options", [{}, {"crop_pct": 0.5}, {"input_size": (32, 96)}, {"crop_mode": "squash"}])
def test_that_part_is_what_the_transform_takes(source: tuple[int, int], options: dict[str, Any]) -> None:
    chosen: dict[str, Any] = {"input_size": 64, "crop_pct": 0.875, "crop_mode": "center"} | options
    levels = np.zeros((*source, 3), np.uint8)  # each pixel says where in the picture it lies
    levels[..., 0], levels[..., 1] = (256 * (np.indices(source)[i] + 0.5) / source[i] for i in (0, 1))
    image = eval_transform(**chosen, interpolation="bilinear", mean=(0.0,) * 3, std=(1 / 256,) * 3)(levels)
    left, top, right, bottom = seen_part(source, **chosen)
    for line, start, end in ((image[0, :, 5], top, bottom), (image[1, 5], left, right)):
        places = (np.arange(len(line)) + 0.5) / len(line)
        wanted = 256 * (start + (end - start) * places)
        inner = slice(2, -2)  # the filter reaches over a picture's edge
        assert np.abs(line - wanted)[inner].max() < 2.5
        assert np.abs(line - 256 * places)[inner].max() > 2.5 or (start, end) == (0.0, 1.0)


# --- grey

GREY: list[dict[str, Any]] = [
    {"mean": (0.5,), "std": (0.25,)},
    {"mean": (0.5,), "std": (0.25,), "input_size": (1, 24, 24)},
    {"mean": (0.3, 0.6, 0.4), "std": (0.2, 0.3, 0.25), "input_size": (1, 24, 24)},
]


@pytest.mark.parametrize("options", GREY)
def test_one_value_or_one_channel_makes_the_result_grey(options: dict[str, Any]) -> None:
    options = {"input_size": 24, **options}
    pixels = picture(40, 40)
    levels = np.asarray(Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC).convert("L")) / 255
    if len(options["mean"]) == 1:
        mean, std = 0.5, 0.25
    else:
        mean, std = (float(np.mean(options[name])) for name in ("mean", "std"))
    image = eval_transform(**options, crop_pct=1.0)(pixels)
    assert (image.shape, image.dtype) == ((1, 24, 24), np.float32)
    np.testing.assert_allclose(image[0], (levels - mean) / std, atol=1e-5)
    plain_crop: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": 0.0}
    np.testing.assert_array_equal(train_transform(**options, **plain_crop)(pixels, _rng()), image)
    np.testing.assert_array_equal(train_transform(**options, aug=False)(pixels, _rng()), image)


def test_grey_training_is_augmented_in_colour_first() -> None:
    options: dict[str, Any] = {"input_size": 24, "aa": "rand-m9-n4-p1-inc1", "vflip": 0.5}
    colour = train_transform(**options, mean=(0.5,) * 3, std=(1 / 255,) * 3)  # so that levels can be read off
    grey = train_transform(**options, mean=(0.5,), std=(1 / 255,))
    for seed in range(10):
        levels = (colour(picture(48, 64), _rng(seed)) + 127.5).round().astype(np.uint8).transpose(1, 2, 0)
        expected = np.asarray(Image.fromarray(levels).convert("L")) - 127.5
        np.testing.assert_allclose(grey(picture(48, 64), _rng(seed))[0], expected, atol=1e-3)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,) * 3), ((0.5,) * 2, (0.5,) * 2), ((0.5,) * 3, (0.5,))])
def test_numbers_of_means_and_stds_must_agree(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    for make in (eval_transform, train_transform):
        with pytest.raises(ValueError, match="3 values each, or 1 for grey"):
            make(mean=mean, std=std)
