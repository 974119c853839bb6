"""Jitter, grey and Gaussian blur: torchvision's pixels, and the documented strengths."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reference import picture
from tests.util.data.timm_policies import ARRAYS, UNLIKELY, distance_to_uniform, keys, source
from util.data.color_augment import gaussian_blur, jitter_colors, to_grey


class Scripted:
    """Stands for a generator: draws what it was told, in the order brightness, contrast, saturation."""

    def __init__(self, factors: list[float], order: list[int]) -> None:
        self.factors, self.order = factors, order

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        self.bounds = (low, high)
        return np.array(self.factors)

    def permutation(self, count: int) -> list[int]:
        return self.order


def test_jitter_is_torchvisions_to_the_pixel() -> None:
    rng: Any = Scripted([1.3, 0.7, 1.2], [2, 0, 1])
    np.testing.assert_array_equal(np.asarray(jitter_colors(source(), rng, 0.4)), ARRAYS["jitter"])
    assert rng.bounds == (0.6, 1.4)
    jitter_colors(source(), rng, 1.5)
    assert rng.bounds == (0.0, 2.5)  # a factor is never negative


def test_jitter_comes_in_every_order() -> None:
    image = Image.fromarray(picture(4, 4))

    def jitter(order: list[int]) -> bytes:
        rng: Any = Scripted([1.6, 0.3, 1.9], order)
        return jitter_colors(image, rng, 1.0).tobytes()

    order_of = {jitter(list(order)): order for order in itertools.permutations(range(3))}
    assert len(order_of) == 6
    generator = np.random.default_rng(0)
    counts = Counter(order_of[jitter(generator.permutation(3).tolist())] for _ in range(600))
    assert all(70 <= count <= 130 for count in counts.values())
    assert len(counts) == 6


def test_grey_is_torchvisions_to_the_pixel() -> None:
    np.testing.assert_array_equal(np.asarray(to_grey(source())), ARRAYS["grey"])


@pytest.mark.parametrize("key", keys("blur"))
def test_blur_is_torchvisions_but_for_ties(key: str) -> None:
    blurred = np.asarray(gaussian_blur(source(), float(key.split("|")[1]))).astype(int)
    difference = np.abs(blurred - ARRAYS[key])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.003


def test_blur_of_sigma_spreads_a_point_by_sigma() -> None:
    pixels = np.zeros((41, 51, 3), np.uint8)
    pixels[20, 25] = 255
    pixels[:, 25] = 255
    blurred = np.asarray(gaussian_blur(Image.fromarray(pixels), 1.7))[20, :, 0].astype(float)
    places = np.arange(51) - 25
    assert (blurred * places).sum() == 0
    assert (blurred * places**2).sum() / blurred.sum() == pytest.approx(1.7**2, rel=0.03)


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (30, 2)])
def test_blur_of_pictures_smaller_than_its_kernel(size: tuple[int, int]) -> None:
    grey = np.full((*size, 3), 77, np.uint8)
    np.testing.assert_array_equal(np.asarray(gaussian_blur(Image.fromarray(grey), 2.0)), grey)


def test_uniform_helper_sees_another_distribution() -> None:
    assert distance_to_uniform(np.random.default_rng(0).beta(1.2, 1.0, 3000), 0.0, 1.0) > UNLIKELY
