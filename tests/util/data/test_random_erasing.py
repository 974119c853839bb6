"""Random erasing: when, how much, where, and with what."""

from typing import Any

import numpy as np
import pytest

from tests.util.data.timm_policies import ARRAYS, UNLIKELY, distance
from util.data.random_erasing import random_erasing

IMAGE = np.full((3, 40, 60), 9.0, np.float32)  # a value that no filling draws
AREA = (0.02, 1 / 3)


def _erase(seed: int | np.random.Generator, image: np.ndarray = IMAGE, **options: Any) -> np.ndarray:
    defaults: dict[str, Any] = {"prob": 1.0, "mode": "const", "counts": (1, 1), "area": AREA}
    return random_erasing(image, np.random.default_rng(seed), **defaults | options)


@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (0.25, 70, 130), (1.0, 400, 400)])
def test_probability(prob: float, low: int, high: int) -> None:
    erased = sum(not np.array_equal(_erase(seed, prob=prob), IMAGE) for seed in range(400))
    assert low <= erased <= high


def test_the_image_given_is_left_alone() -> None:
    _erase(0)
    assert (IMAGE == 9.0).all()


@pytest.mark.parametrize("area", [AREA, (0.1, 0.12)])
def test_one_box_has_an_area_and_aspect_within_bounds(area: tuple[float, float]) -> None:
    areas = []
    for seed in range(300):
        rows, columns = np.nonzero((_erase(seed, area=area) != 9.0).all(axis=0))
        h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == h * w  # a full rectangle
        assert 0.3 * 0.8 < h / w < 1 / 0.3 / 0.8  # rounding to pixels
        areas.append(h * w / (40 * 60))
    assert min(areas) > area[0] * 0.8
    assert max(areas) < area[1] * 1.05
    assert np.mean(areas) == pytest.approx(sum(area) / 2, abs=0.02)


COUNTS = {"erased_one": (1, 1), "erased_three": (1, 3), "erased_two_or_three": (2, 3)}


@pytest.mark.parametrize("name", COUNTS)
def test_erased_parts_and_places_are_distributed_as_timms(name: str) -> None:
    rng, image = np.random.default_rng(0), np.ones((1, 60, 80), np.float32)
    masks = np.stack([_erase(rng, image, counts=COUNTS[name])[0] == 0 for _ in range(3000)])
    distances = {other: distance(masks.mean(axis=(1, 2)), other) for other in COUNTS}
    assert distances[name] < UNLIKELY
    assert min(distances[other] for other in COUNTS if other != name) > UNLIKELY  # negative control
    coverage = masks.mean(axis=0)[::6, ::8]
    np.testing.assert_allclose(coverage, ARRAYS[f"coverage|{name}"], atol=0.035)  # 4 standard errors
    assert coverage[5, 5] > coverage[0, 0] + 0.1  # boxes lie inside, so they cover the centre most


def test_boxes_reach_every_edge() -> None:
    image = np.ones((1, 6, 7), np.float32)
    masks = np.stack([_erase(seed, image)[0] == 0 for seed in range(300)])
    assert [edge.any() for edge in (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1])] == [True] * 4


def test_several_boxes_share_the_area() -> None:
    areas = [(_erase(seed, counts=(1, 4))[0] != 9.0).mean() for seed in range(200)]
    assert max(areas) < AREA[1] * 1.05
    # A box of one fills one rectangle; of several, some pictures have a hole in the bounding box.
    holes = 0
    for seed in range(50):
        rows, columns = np.nonzero(_erase(seed, counts=(1, 4))[0] != 9.0)
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


def test_each_box_has_a_colour_of_its_own() -> None:
    colours = {value for value in _erase(1, mode="rand", counts=(4, 4))[0].ravel() if value != 9.0}
    assert 2 <= len(colours) <= 4


def test_result_depends_on_the_rng_alone() -> None:
    np.testing.assert_array_equal(_erase(5, mode="pixel"), _erase(5, mode="pixel"))
    assert not np.array_equal(_erase(5, mode="pixel"), _erase(6, mode="pixel"))


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_grey_images(mode: str) -> None:
    result = _erase(0, IMAGE[:1], mode=mode)
    assert result.shape == (1, 40, 60)
    assert (result != 9.0).any()


def test_picture_too_small_for_any_box_is_returned_unchanged() -> None:
    image = np.ones((3, 1, 1), np.float32)
    np.testing.assert_array_equal(_erase(0, image), image)
