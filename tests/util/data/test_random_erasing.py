"""Random erasing: when, how much, and with what."""

from typing import Any

import numpy as np
import pytest

from util.data.random_erasing import MAX_AREA, MIN_AREA, random_erasing

IMAGE = np.full((3, 40, 60), 9.0, np.float32)  # a value that no filling draws


def _erase(seed: int, **options: Any) -> np.ndarray:
    defaults: dict[str, Any] = {"prob": 1.0, "mode": "const", "max_count": 1}
    return random_erasing(IMAGE, np.random.default_rng(seed), **defaults | options)


@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (0.25, 70, 130), (1.0, 400, 400)])
def test_probability(prob: float, low: int, high: int) -> None:
    erased = sum(not np.array_equal(_erase(seed, prob=prob), IMAGE) for seed in range(400))
    assert low <= erased <= high


def test_the_image_given_is_left_alone() -> None:
    _erase(0)
    assert (IMAGE == 9.0).all()


def test_one_box_has_an_area_and_aspect_within_bounds() -> None:
    areas = []
    for seed in range(300):
        rows, columns = np.nonzero((_erase(seed) != 9.0).all(axis=0))
        h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == h * w  # a full rectangle
        assert 0.3 * 0.8 < h / w < 1 / 0.3 / 0.8  # rounding to pixels
        areas.append(h * w / (40 * 60))
    assert min(areas) > MIN_AREA * 0.8
    assert max(areas) < MAX_AREA * 1.05
    assert np.mean(areas) == pytest.approx((MIN_AREA + MAX_AREA) / 2, abs=0.02)


def test_several_boxes_share_the_area() -> None:
    areas = [(_erase(seed, max_count=4)[0] != 9.0).mean() for seed in range(200)]
    assert max(areas) < MAX_AREA * 1.05
    # A box of one fills one rectangle; of several, some pictures have a hole in the bounding box.
    holes = 0
    for seed in range(50):
        rows, columns = np.nonzero(_erase(seed, max_count=4)[0] != 9.0)
        holes += int(len(rows) < (np.ptp(rows) + 1) * (np.ptp(columns) + 1))
    assert holes > 25


@pytest.mark.parametrize(("mode", "values_a_channel"), [("const", 1), ("rand", 1), ("pixel", None)])
def test_filling(mode: str, values_a_channel: int | None) -> None:
    found = []
    for seed in range(100):
        result = _erase(seed, mode=mode)
        erased = result[:, (result != 9.0).all(axis=0)]
        assert values_a_channel is None or all(len(set(channel.tolist())) == 1 for channel in erased)
        found.append(erased.ravel() if mode == "pixel" else erased[:, 0])
    values = np.concatenate(found)
    if mode == "const":
        assert not values.any()
    else:
        assert len(set(values.tolist())) > 0.9 * min(len(values), 300)
        assert values.mean() == pytest.approx(0.0, abs=0.2)
        assert values.std() == pytest.approx(1.0, abs=0.15)


def test_result_depends_on_the_rng_alone() -> None:
    np.testing.assert_array_equal(_erase(5, mode="pixel"), _erase(5, mode="pixel"))
    assert not np.array_equal(_erase(5, mode="pixel"), _erase(6, mode="pixel"))


def test_picture_too_small_for_any_box_is_returned_unchanged() -> None:
    image = np.ones((3, 1, 1), np.float32)
    result = random_erasing(image, np.random.default_rng(0), prob=1.0, mode="const", max_count=1)
    np.testing.assert_array_equal(result, image)
