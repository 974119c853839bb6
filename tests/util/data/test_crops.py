"""Crops and resizing: sizes, places, and the reference's distributions."""

import math

import numpy as np
import pytest
from PIL import Image

from tests.reference import picture
from tests.util.data.timm_policies import UNLIKELY, distance, distance_to_uniform
from util.data.crops import (
    SRC_PADDING,
    center_crop,
    draw_crop_box,
    random_resized_crop,
    reflected,
    resize_and_center_crop,
    resize_to_cover,
    simple_random_crop,
)

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


def _rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("size", "expected"),  # width, height
    [((300, 502), (224, 374)), ((502, 300), (374, 224)), ((224, 999), (224, 999)), ((100, 100), (224, 224))],
)
def test_covering_size_keeps_proportions_and_rounds_down(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resize_to_cover(Image.new("RGB", size), 224, 224, BILINEAR).size == expected


def test_covering_size_of_an_oblong_target() -> None:
    assert resize_to_cover(Image.new("RGB", (100, 100)), 32, 64, BILINEAR).size == (64, 64)
    assert resize_to_cover(Image.new("RGB", (300, 100)), 32, 64, BILINEAR).size == (96, 32)


@pytest.mark.parametrize("resample", [NEAREST, BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_resizing_what_the_centre_needs_changes_no_pixel(resample: Image.Resampling) -> None:
    rng = np.random.default_rng(0)
    sources = [
        (375, 500),
        (500, 375),
        (333, 500),
        (60, 900),
        (900, 60),
        (1, 1),
        (3, 200),
        *rng.integers(1, 400, (12, 2)),
    ]
    for height, width in sources:
        image = Image.fromarray(picture(int(height), int(width)))
        for cover, size in (((256, 256), (224, 224)), ((64, 64), (64, 64)), ((71, 40), (70, 33)), ((41, 90), (8, 90))):
            expected = center_crop(resize_to_cover(image, *cover, resample), *size)
            found = resize_and_center_crop(image, cover, size, resample)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), f"{image.size} {cover} {size}")


# --- random resized crop


def _boxes(
    height: int, width: int, scale: tuple[float, float], *, ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> np.ndarray:
    """Returns left, top, width, height of 4000 boxes each, float64 (4, 4000)."""
    rng = _rng(0)
    boxes = [draw_crop_box(rng, height=height, width=width, scale=scale, ratio=ratio) for _ in range(4000)]
    return np.array(boxes, float).T


def test_crop_boxes_have_the_documented_distribution() -> None:
    scale, side = (0.1, 0.5), 256  # such boxes always fit
    left, top, width, height = _boxes(side, side, scale)[:, :500]
    area, aspect = width * height / side**2, np.log(width / height)
    bound = math.log(4 / 3)
    statistics = {
        "area": distance_to_uniform(area, *scale),
        "log ratio": distance_to_uniform(aspect, -bound, bound),
        "left": distance_to_uniform((left + 0.5) / (side - width + 1), 0, 1),
        "top": distance_to_uniform((top + 0.5) / (side - height + 1), 0, 1),
    }
    assert max(statistics.values()) < UNLIKELY, statistics
    # Negative control: a uniform side, or a uniform ratio, would be seen.
    assert distance_to_uniform(np.sqrt(area), math.sqrt(0.1), math.sqrt(0.5)) > UNLIKELY
    assert distance_to_uniform(np.exp(aspect), 3 / 4, 4 / 3) > UNLIKELY


def test_crop_boxes_are_distributed_as_timms_where_not_all_fit() -> None:
    left, top, width, height = _boxes(300, 500, (0.08, 1.0))
    statistics = {
        "area": distance(width * height / 150_000, "crop_area"),
        "log ratio": distance(np.log(width / height), "crop_log_ratio"),
        "left": distance(left, "crop_left"),
        "top": distance(top, "crop_top"),
    }
    assert max(statistics.values()) < UNLIKELY, statistics
    # Negative control: another scale would be seen in all of them but the ratio.
    left, top, width, height = _boxes(300, 500, (0.2, 1.0))
    assert distance(width * height / 150_000, "crop_area") > UNLIKELY
    assert min(distance(left, "crop_left"), distance(top, "crop_top")) > UNLIKELY


def test_crop_is_the_box_resized() -> None:
    pixels = picture(60, 80)
    crop = random_resized_crop(
        Image.fromarray(pixels), _rng(), size=(20, 24), scale=(0.1, 0.5), ratio=(0.75, 4 / 3), resample=BILINEAR
    )
    left, top, w, h = draw_crop_box(_rng(), height=60, width=80, scale=(0.1, 0.5), ratio=(0.75, 4 / 3))
    expected = Image.fromarray(pixels[top : top + h, left : left + w]).resize((24, 20), BILINEAR)
    np.testing.assert_array_equal(np.asarray(crop), np.asarray(expected))


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(400, 4, (0, 197, 4, 5)), (4, 400, (197, 0, 5, 4)), (1, 1, (0, 0, 1, 1))],
)
def test_extreme_pictures_give_the_largest_centred_box(height: int, width: int, box: tuple[int, int, int, int]) -> None:
    assert draw_crop_box(_rng(), height=height, width=width, scale=(0.08, 1.0), ratio=(0.75, 4 / 3)) == box


# --- simple random crop


@pytest.mark.parametrize("side", [1, 2, 3, 12])
def test_reflected_is_numpys_reflection(side: int) -> None:
    expected = np.pad(np.arange(side), 7, mode="reflect")
    np.testing.assert_array_equal(reflected(-7, side + 14, side), expected)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (20, 31), (33, 20)])
def test_simple_random_crop_is_a_crop_of_the_padded_picture_anywhere(height: int, width: int) -> None:
    pixels = picture(height, width)  # covers 20 x 20 as it is
    pad = SRC_PADDING
    assert pad == 4
    padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    windows = {
        padded[top : top + 20, left : left + 20].tobytes(): (top, left)
        for top in range(height + 2 * pad - 19)
        for left in range(width + 2 * pad - 19)
    }
    rng, image = _rng(), Image.fromarray(pixels)
    crops = [simple_random_crop(image, rng, size=(20, 20), resample=BILINEAR) for _ in range(1500)]
    places = np.array([windows[np.asarray(crop).tobytes()] for crop in crops])
    for axis, side in enumerate((height, width)):
        expected = 1500 / (side + 2 * pad - 19)
        counts = np.bincount(places[:, axis], minlength=side + 2 * pad - 19)
        assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 3 * (2 * len(counts)) ** 0.5


@pytest.mark.parametrize("size", [(20, 20), (12, 30), (30, 12)])
def test_simple_random_crop_resizes_to_cover_first(size: tuple[int, int]) -> None:
    image = Image.fromarray(picture(75, 50))
    crop = np.asarray(simple_random_crop(image, _rng(), size=size, resample=NEAREST))
    assert crop.shape == (*size, 3)
    covering = np.asarray(resize_to_cover(image, *size, NEAREST))
    colours = {tuple(c) for c in covering.reshape(-1, 3)}
    assert {tuple(c) for c in crop.reshape(-1, 3)} <= colours
