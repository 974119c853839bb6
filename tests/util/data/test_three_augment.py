"""3-Augment: timm's three operations to the pixel, a third of the pictures each."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.util.data.timm_policies import ARRAYS, UNLIKELY, distance_to_uniform, keys, source
from util.data import three_augment as module
from util.data.three_augment import BLUR_RADIUS, three_augment


def _kinds(images: int) -> Counter[str]:
    """Returns how many pictures get which of timm's results."""
    rng, found = np.random.default_rng(0), Counter[str]()
    for _ in range(images):
        pixels = np.asarray(three_augment(source(), rng))
        found[next((key for key in keys("3a") if np.array_equal(pixels, ARRAYS[key])), "neither")] += 1
    return found


def test_each_third_is_solarised_grey_or_blurred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLUR_RADIUS", (1.3, 1.3))  # the radius of the golden picture
    counts = _kinds(900)
    assert set(counts) == {"3a|solarize", "3a|grey", "3a|blur"}
    assert all(245 <= count <= 355 for count in counts.values()), counts


def test_blur_has_a_radius_of_its_own_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _kinds(60)["neither"] > 10
    radii: list[float] = []
    make_filter = ImageFilter.GaussianBlur

    def record(radius: float) -> Any:
        radii.append(radius)
        return make_filter(radius)

    monkeypatch.setattr(module.ImageFilter, "GaussianBlur", record)
    rng, image = np.random.default_rng(0), Image.new("RGB", (2, 2))
    for _ in range(1500):
        three_augment(image, rng)
    assert distance_to_uniform(np.array(radii), *BLUR_RADIUS) < UNLIKELY
    assert BLUR_RADIUS == (0.1, 2.0)
