"""The colours of maps: lightness says the value, and pixels are where they were."""

import numpy as np
import pytest
from PIL import Image

from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD, eval_transform
from util.seeing.colours import ANCHORS, colour, enlarged, overlay, scaled, seen_picture, to_pixels


def lightness(levels: np.ndarray) -> np.ndarray:
    """L* of CIE 1976 of sRGB levels (..., 3)."""
    share = levels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y <= 216 / 24389, y * 24389 / 27, 116 * np.cbrt(y) - 16)


def test_a_higher_value_is_always_lighter() -> None:
    levels = lightness(colour(np.linspace(0, 1, 101)).astype(np.float64))
    assert np.diff(levels).min() > 0
    assert levels[0] < 8
    assert levels[-1] > 97
    assert np.abs(levels - np.linspace(levels[0], levels[-1], 101)).max() < 14  # and by about as much everywhere
    rainbow = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 0]], np.float64)
    assert np.diff(lightness(rainbow)).min() < 0  # which a usual scale would not pass


def test_known_colours_and_what_is_outside() -> None:
    found = colour(np.array([[0.0, 1.0], [-3.0, 7.0]]))
    assert found.shape == (2, 2, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0, 0], ANCHORS[0, 1:])
    np.testing.assert_array_equal(found[0, 1], ANCHORS[-1, 1:])
    np.testing.assert_array_equal(found[1], found[0])


def test_scaled() -> None:
    values = np.array([[1.0, 2.0], [3.0, 5.0]])
    np.testing.assert_allclose(scaled(values), [[0, 0.25], [0.5, 1]])
    np.testing.assert_allclose(scaled(values, from_zero=True), [[0.2, 0.4], [0.6, 1]])
    np.testing.assert_array_equal(scaled(np.full((2, 3), 7.0)), np.zeros((2, 3)))
    even = np.full((2, 3), 1 / 196, np.float32)
    even[0, 0] *= 1 + 1e-6  # rounding is not drawn as a pattern
    np.testing.assert_array_equal(scaled(even), np.zeros((2, 3)))
    even[0, 0] *= 1.001
    assert scaled(even)[0, 0] == 1.0
    np.testing.assert_array_equal(scaled(np.zeros((2, 3)), from_zero=True), np.zeros((2, 3)))


def test_a_token_is_drawn_where_it_is() -> None:
    values = np.zeros((4, 6), np.float32)
    values[1, 4] = 1.0
    pixels = to_pixels(values, (60, 40))
    assert pixels.shape == (40, 60)
    y, x = np.unravel_index(pixels.argmax(), pixels.shape)
    assert (y // 10, x // 10) == (1, 4)
    assert pixels[15, 45] > 0.9
    assert pixels[15, 15] == 0.0
    assert pixels.sum() == pytest.approx(100.0, rel=1e-3)


def test_alpha_goes_from_the_picture_to_the_map() -> None:
    picture = Image.new("RGB", (8, 8), (100, 150, 200))
    ones = np.ones((2, 2), np.float32)
    assert overlay(picture, ones, alpha=0.0).getpixel((3, 3)) == (100, 150, 200)
    assert overlay(picture, ones, alpha=1.0).getpixel((3, 3)) == tuple(ANCHORS[-1, 1:].astype(int))
    half = np.asarray(overlay(picture, ones, alpha=0.5))[3, 3]
    np.testing.assert_allclose(half, ([100, 150, 200] + ANCHORS[-1, 1:]) / 2, atol=1)


@pytest.mark.parametrize(("mean", "std"), [(IMAGENET_MEAN, IMAGENET_STD), ((0.5,), (0.25,))])
def test_what_the_model_saw_is_the_crop(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8))
    transform = eval_transform(input_size=32, crop_pct=1.0, mean=mean, std=std)
    expected = picture.crop((8, 0, 40, 32))
    if len(mean) == 1:
        expected = expected.convert("L").convert("RGB")
    np.testing.assert_array_equal(np.asarray(seen_picture(transform(picture), mean, std)), np.asarray(expected))


def test_small_pictures_become_squares_and_large_ones_stay() -> None:
    picture = Image.fromarray(np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3))
    large = enlarged(picture, least=20)
    assert large.size == (24, 18)
    np.testing.assert_array_equal(np.asarray(large)[1::3, 1::3], np.asarray(picture))
    assert enlarged(large, least=20).size == (24, 18)
